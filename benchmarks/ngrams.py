"""N-grams on the words of tinyshakespeare beside KenLM: 5-gram, interpolated modified Kneser-Ney, a sentence a line.

The first nine tenths of the lines are counted, the rest scored, each as a text of its own. Words are runs of letters
and apostrophes, and single marks; the files hold them with spaces between, so that both read the same words.

python -m benchmarks.ngrams train TEXT              from a file of sentences to a model on disk
python -m benchmarks.ngrams score TEXT TEST KIND    the same in memory, and the sentences of TEST scored in one batch
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Claim
from benchmarks.suite import Suite
from idiolect.data import shards
from idiolect.data.shards import Shards
from idiolect.interop import folder
from idiolect.models.ngram import NGram
from idiolect.models.settings import NGramSettings
from idiolect.text.corpus import Corpus
from idiolect.tokens import learn
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer

ORDER = 5
WORD = re.compile(r"[A-Za-z']+|[.,;:!?-]")
WORDS = TokenizerSettings(kind="word", size=1_000_000, pattern=r"\S+")
SHARE, RATE = 0.5, 500_000
"""Of KenLM's speed of training, and tokens a second of scoring: what is asked."""
MEMORY = "100M"
"""What lmplz may sort in. By default it lays out most of the machine's memory, which takes seconds."""
TIMED = 'began=$(date +%s.%N); "$@" >&2 && echo "{\\"began\\": $began, \\"ended\\": $(date +%s.%N)}"'
"""Runs a program in a shell and prints when it began and ended."""
REPEATS = 5


def sentences(suite: Suite) -> tuple[Path, Path]:
    """The files that are counted and scored."""
    text = suite.data("tinyshakespeare/input.txt").read_text(encoding="utf-8")
    lines = [" ".join(words) for line in text.split("\n") if (words := WORD.findall(line))]
    cut, into = len(lines) * 9 // 10, suite.folder("ngrams")
    for name, part in (("train", lines[:cut]), ("test", lines[cut:])):
        (into / f"{name}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")
    return into / "train.txt", into / "test.txt"


def encoded(text: Path, cache: Path) -> tuple[Tokenizer, Shards]:
    """The words of a file, each with an id, and the file's lines as shards."""
    corpus = Corpus([text], document="line")
    tokenizer = learn.train((document.text for document in corpus), WORDS)
    return tokenizer, shards.encode(corpus, tokenizer, cache=cache)


def fitted(tokenizer: Tokenizer, found: Shards, smoothing: str) -> NGram:
    """The model of the shards."""
    marks = {"begin_id": tokenizer.begin_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
    return NGram(NGramSettings(order=ORDER, smoothing=smoothing), tokenizer.size, **marks).fit(found)


def train(text: Path) -> dict[str, float]:
    """From a file to a model folder, in an empty cache; the second time of the process, as code and files are warm."""
    for _ in range(2):
        with tempfile.TemporaryDirectory(dir=text.parent) as scratch:
            times = [time.perf_counter()]
            tokenizer, found = encoded(text, Path(scratch))
            times.append(time.perf_counter())
            model = fitted(tokenizer, found, "kneser-ney")
            times.append(time.perf_counter())
            folder.save(Path(scratch) / "model", model, tokenizer, {})
            times.append(time.perf_counter())
            tokens = found.labels
    return {"rate": tokens / (times[-1] - times[0]), "fit": tokens / (times[2] - times[1]), "tokens": tokens}


def score(text: Path, test: Path, smoothing: str) -> dict[str, Any]:
    """The perplexity of `test` with and without words that `text` lacks, and the speed, the median of some calls."""
    with tempfile.TemporaryDirectory(dir=text.parent) as cache:
        tokenizer, found = encoded(text, Path(cache))
        model = fitted(tokenizer, found, smoothing)
    ids, lengths = _rows(tokenizer, test.read_text(encoding="utf-8").splitlines())
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        logs = model.score(ids, lengths)
        seconds.append(time.perf_counter() - began)
    tokens, unknown = int(lengths.sum()) - len(lengths), ids == tokenizer.unknown_id
    known = tokens - int(unknown.sum())
    return {
        "rate": tokens / statistics.median(seconds),
        "perplexity": math.exp(-float(logs.sum()) / tokens),
        "known": math.exp(-float(logs[~unknown].sum()) / known),
        "tokens": tokens,
        "unknown": tokens - known,
    }


def _rows(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Each text between begin and end of text: ids [B, T], lengths [B]."""
    rows = [torch.tensor([tokenizer.begin_id, *tokenizer.encode(text), tokenizer.end_id]) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


def _lmplz(suite: Suite, text: Path, arpa: Path) -> list[str | Path]:
    return [suite.peer("kenlm/build/bin/lmplz"), "-o", str(ORDER), "-S", MEMORY, "--text", text, "--arpa", arpa]


def _kenlm(suite: Suite) -> str:
    return f"KenLM {suite.peer_version('kenlm')}"


def perplexities(suite: Suite) -> Iterator[Claim]:
    """Both perplexities as KenLM's own programs and as Idiolect print them."""
    text, test = sentences(suite)
    arpa, printed = text.with_suffix(".arpa"), text.with_suffix(".query")
    measure.run(_lmplz(suite, text, arpa), last_line=False)
    query = suite.peer("kenlm/build/bin/query")
    measure.run(["sh", "-c", '"$1" -v summary "$2" < "$3" > "$4"', "sh", query, arpa, test, printed], last_line=False)
    theirs = dict(re.findall(r"(?m)^(Perplexity \w+ OOVs|OOVs|Tokens):\s+(\S+)", printed.read_text(encoding="utf-8")))
    sample = measure.run(suite.child("ngrams", "score", text, test, "kneser-ney"))
    ours = sample.result
    pairs = [
        (ours["perplexity"], float(theirs["Perplexity including OOVs"])),
        (ours["known"], float(theirs["Perplexity excluding OOVs"])),
    ]
    counted = [str(ours["tokens"]), str(ours["unknown"])] == [theirs["Tokens"], theirs["OOVs"]]
    yield Claim(
        "5-gram on tinyshakespeare's words: perplexity with unknown words, and without",
        "KenLM's, to four digits: " + " and ".join(f"{theirs:.2f}" for _, theirs in pairs),
        " and ".join(f"{ours:.2f}" for ours, _ in pairs),
        counted and all(f"{ours:.4g}" == f"{theirs:.4g}" for ours, theirs in pairs),
        peer_name=_kenlm(suite),
        peak_bytes=sample.peak_bytes,
        load=sample.load,
        note=f"{ours['tokens']:,} tokens, {ours['unknown']:,} of them unknown; relative differences "
        + " and ".join(f"{abs(ours / theirs - 1):.0e}" for ours, theirs in pairs),
    )


def training(suite: Suite) -> Iterator[Claim]:
    """From the file of sentences to a model on disk, and `lmplz` from the same file to its ARPA file."""
    text, _ = sentences(suite)
    tokens = sum(len(line.split()) + 1 for line in text.read_text(encoding="utf-8").splitlines())

    def kenlm() -> measure.Sample:
        sample = measure.run(["sh", "-c", TIMED, "sh", *_lmplz(suite, text, text.with_suffix(".arpa"))])
        return replace(sample, result={"rate": tokens / (sample.result["ended"] - sample.result["began"])})

    def ours() -> measure.Sample:
        return measure.run(suite.child("ngrams", "train", text))

    turns = measure.in_turn({"Idiolect": ours, "KenLM": kenlm}, suite.rounds, warm_up=True)
    fit = measure.spread(turns.values("Idiolect", "fit"))
    yield measure.compare(
        *(turns, "Idiolect", "KenLM"),
        name="5-gram on tinyshakespeare's words: from text to a model on disk",
        at_least=SHARE,
        peer_name=f"{_kenlm(suite)}, lmplz -S {MEMORY}",
        key="rate",
        unit="tokens/s",
        note=f"{tokens:,} tokens with a vocabulary of their words, shards and a model folder, all flushed to disk; the "
        f"start of Python is left out. Counting and smoothing alone: {fit.median:,.0f} tokens/s.",
    )


def scoring(suite: Suite) -> Iterator[Claim]:
    """The held-out sentences in one batch, by the smoothed 5-gram and by the model of unbounded context."""
    text, test = sentences(suite)
    for smoothing, name in (("kneser-ney", "5-gram"), ("infinite", "unbounded n-gram")):
        side = {smoothing: lambda kind=smoothing: measure.run(suite.child("ngrams", "score", text, test, kind))}
        turns = measure.in_turn(side, suite.rounds)
        rate = measure.spread(turns.values(smoothing, "rate"))
        yield Claim(
            f"{name} on tinyshakespeare's words: scoring held-out sentences in one batch",
            f"≥ {RATE:,} tokens/s",
            f"{rate.median:,.0f} tokens/s",
            rate.median >= RATE,
            "tokens/s",
            rate,
            peak_bytes=turns.peak(smoothing),
            load=turns.load,
            dropped=turns.dropped,
            note=f"perplexity {turns.values(smoothing, 'perplexity')[0]:.2f}",
        )


CLAIMS = {"ngram-perplexity": perplexities, "ngram-training": training, "ngram-scoring": scoring}
TRIED = ""


def main() -> None:
    """Prints what one run found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "score"])
    parser.add_argument("arguments", nargs="+")
    asked = parser.parse_args()
    paths = [Path(path) for path in asked.arguments[:2]]
    print(json.dumps(train(*paths) if asked.what == "train" else score(*paths, *asked.arguments[2:])))


if __name__ == "__main__":
    main()
