"""The figures of the spine: n-grams as KenLM's, every causal family in one table, what others open, the newcomer.

The data folder holds tinyshakespeare/input.txt, wikitext-2/valid.txt (the second corpus) and gpt2-tokenizer/.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.measure import Claim
from idiolect import api
from idiolect.interop import folder
from idiolect.tokens.tokenizer import Tokenizer

NANOGPT = 1.8982
"""Median over seeds 1337-1339 (1.8982, 1.8980, 1.9059) of nanoGPT's final weights: commit 3adf61e1, the laptop flags of
its README with dropout 0, each scored over all non-overlapping windows of 64 of the last tenth (torch 2.13, CPU)."""
FOUR_DIGITS = 5e-5
"""The largest relative difference of numbers that agree to four digits."""
WORDS = "[A-Za-z']+|[.,;:!?-]"
"""What a word is in the n-gram protocol."""


def ngram(data: Path, scratch: Path) -> Iterator[Claim]:
    """5-gram interpolated modified Kneser-Ney over words, against KenLM's 182.86 and 125.65 without unknown words."""
    run = scratch / "ngram"
    api.train(
        "ngram",
        [
            f"data.train={data / 'tinyshakespeare/input.txt'}",
            "data.document=line",
            "tokenizer.kind=word",
            "tokenizer.size=100000",
            f"tokenizer.pattern={WORDS}",
        ],
        run,
    )
    loaded = folder.load(run / "model")
    tokenizer, model = loaded.tokenizer, loaded.model
    assert tokenizer is not None
    from idiolect.data.settings import DataSettings
    from idiolect.recipes.prepare import split

    _, held = split(DataSettings(train=(data / "tinyshakespeare/input.txt",), document="line"))
    rows = [[tokenizer.begin_id, *tokenizer.encode(document.text), tokenizer.end_id] for document in held]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), tokenizer.pad_id)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    scores = model.score(ids, lengths)
    real = (torch.arange(ids.shape[1]) < lengths[:, None]) & (torch.arange(ids.shape[1]) > 0)
    known = real & (ids != tokenizer.unknown_id)
    everything, without = (math.exp(-float(scores[mask].double().mean())) for mask in (real, known))
    unknown = int(real.sum() - known.sum())
    for name, asked, measured, note in (
        ("5-gram Kneser-Ney, words: perplexity", 182.86, everything, ""),
        ("the same without unknown words", 125.65, without, f" ({unknown:,} unknown)"),
    ):
        close = abs(measured / asked - 1) < FOUR_DIGITS
        yield Claim(name, f"{asked} (KenLM), to four digits", f"{measured:.2f}{note}", close)


def laptop(data: Path, scratch: Path) -> Iterator[Claim]:
    """nanoGPT's laptop shape and budget on characters: median of three seeds, whole held-out tenth."""
    losses = []
    for seed in range(3):
        result = api.train(
            "gpt",
            [
                f"data.train={data / 'tinyshakespeare/input.txt'}",
                "tokenizer.kind=char",
                "model.layers=4",
                "model.heads=4",
                "model.width=128",
                "model.context=64",
                "train.batch_tokens=768",
                "train.steps=2000",
                "validation.every=1000",
                "sample.every=0",
                f"train.seed={seed}",
            ],
            scratch / f"laptop-{seed}",
        )
        losses.append(result["validation"]["loss"])
    median = statistics.median(losses)
    shown = ", ".join(f"{loss:.4f}" for loss in losses)
    yield Claim(
        "tinyshakespeare characters, 4 layers of 128, context 64, 2,000 steps of 12: loss",
        f"≤ {NANOGPT + 0.005:.4f} (nanoGPT {NANOGPT} + 0.005)",
        f"{median:.4f} (median of {shown})",
        median <= NANOGPT + 0.005,
    )


def families(data: Path, scratch: Path) -> Iterator[Claim]:
    """Five families on one shared BPE, in bits per byte over identical bytes, on two corpora."""
    for corpus, path in (("tinyshakespeare", "tinyshakespeare/input.txt"), ("wikitext-2", "wikitext-2/valid.txt")):
        text, tokenizer = data / path, scratch / f"bpe-{corpus}"
        base = scratch / f"families-{corpus}"
        for name in ("ngram", "rnn", "lstm", "gru", "gpt"):
            shared = [f"data.train={text}", "tokenizer.size=1024", "sample.every=0", "validation.every=200"]
            if tokenizer.exists():
                shared[1] = f"tokenizer.from={tokenizer}"
            if name != "ngram":
                shared += ["model.context=128", "model.width=128", "train.batch_tokens=2048", "train.steps=400"]
                shared += ["train.learning_rate=5e-3", "train.compile=no"]
            run = base / name
            api.train(name, shared, run)
            if not tokenizer.exists():
                tokenizer.symlink_to(run / "tokenizer")
        table = api.compare_runs([base / name for name in ("ngram", "rnn", "lstm", "gru", "gpt")])
        bits = {row["model"]: row["bits_per_byte"] for row in table["rows"]}
        for name in ("ngram", "rnn", "lstm", "gru", "gpt"):
            beats = ["unigram", *(["gzip"] if name in ("lstm", "gpt") else [])]
            asked = " and ".join(f"{other} {bits[other]:.3f}" for other in beats)
            passed = all(bits[name] < bits[other] for other in beats)
            yield Claim(f"{corpus}, shared BPE, {name}: bits per byte", f"< {asked}", f"{bits[name]:.3f}", passed)


def opens_in_transformers(data: Path, scratch: Path) -> Iterator[Claim]:
    """The trained decoder, opened by transformers: the largest difference of a logit in fp32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = scratch / "families-tinyshakespeare" / "gpt"
    loaded = folder.load(run / "model")
    theirs = AutoModelForCausalLM.from_pretrained(run / "model").eval()
    text = (data / "tinyshakespeare/input.txt").read_text()[-300:]
    assert loaded.tokenizer is not None
    ids = torch.tensor([loaded.tokenizer.encode(text)[:97]])
    with torch.no_grad():
        ours = loaded.model.head(loaded.model.body(ids))  # type: ignore[union-attr,operator]
        difference = float((ours - theirs(ids).logits).abs().max())
    same = AutoTokenizer.from_pretrained(run / "model").encode(text) == loaded.tokenizer.encode(text)
    yield Claim(
        "trained decoder in transformers: largest logit difference", "≤ 1e-5", f"{difference:.1e}", difference <= 1e-5
    )
    yield Claim("its tokenizer in transformers", "the same ids", "the same ids" if same else "other ids", same)


def gpt2_tokenizer(data: Path, scratch: Path) -> Iterator[Claim]:
    """GPT-2's own tokenizer files on tinyshakespeare."""
    tokenizer = Tokenizer.load(data / "gpt2-tokenizer")
    count = len(tokenizer.encode((data / "tinyshakespeare/input.txt").read_text()))
    yield Claim("GPT-2's tokenizer on tinyshakespeare: tokens", "338,025", f"{count:,}", count == 338_025)


def newcomer(data: Path, scratch: Path) -> Iterator[Claim]:
    """The command line's help, and quickstart from the end of installation."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "idiolect", "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    best = statistics.median(times)
    yield Claim("idiolect --help: seconds (median of five)", "< 0.3", f"{best:.2f}", best < 0.3)
    began = time.perf_counter()
    command = [sys.executable, "-m", "idiolect", "quickstart", "--out", str(scratch / "quickstart"), "--json"]
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "IDIOLECT_CACHE": str(scratch / "cache")},
    )
    seconds = time.perf_counter() - began
    bits = {row["model"]: row["bits_per_byte"] for row in json.loads(done.stdout)["rows"]}
    shown = ", ".join(f"{name} {value:.3f}" for name, value in bits.items())
    yield Claim("quickstart: seconds", "≤ 240", f"{seconds:.0f}", seconds <= 240)
    yield Claim(
        "quickstart: bits per byte",
        "every model below gzip's",
        shown,
        all(bits[n] < bits["gzip"] for n in ("ngram", "lstm", "gpt")),
    )


CHECKS = {
    "ngram": ngram,
    "laptop": laptop,
    "families": families,
    "transformers": opens_in_transformers,
    "gpt2-tokenizer": gpt2_tokenizer,
    "newcomer": newcomer,
}
"""Every check by name; "transformers" opens what "families" trained."""
