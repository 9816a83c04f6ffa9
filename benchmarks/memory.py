"""What training really holds: against the estimate of `idiolect plan`, and over a text larger than memory should need.

python -m benchmarks.memory --corpus FILE --bytes N     only writes the text
"""

from __future__ import annotations

import argparse
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import Claim
from benchmarks.suite import Suite
from idiolect import seeds

ABOVE = 1.1
"""How far above the plan's total a run may go."""
CORPUS, ROOM = 2_000_000_000, 1_000_000_000
"""Bytes of the large text, and of memory that it may take beyond model and optimiser."""
NEW_WORD = 300
"""One word in so many is one that never came before: 1.2 million different words in 2 GB, as in real text."""
EVERY = 0.2
"""Seconds between two looks at a process."""
SMALL = "gpt model.layers=6 model.heads=6 model.width=384 model.context=256"
GPT2 = "gpt model.norm=layer model.mlp=gelu model.position=learned"
LARGE_BATCH = f"{SMALL} train.batch_tokens=6144"
RECURRENT = "model.layers=2 model.width=512 model.context=128 train.batch_tokens=4096"
RUNS = {
    "decoder 4 × 128, context 64, 12 rows": "gpt model.layers=4 model.heads=4 model.width=128 model.context=64 "
    "train.batch_tokens=768",
    "decoder 6 × 384, context 256, 12 rows": f"{SMALL} train.batch_tokens=3072",
    "the same, 24 rows": LARGE_BATCH,
    "the same, 24 rows, fp32": f"{LARGE_BATCH} train.precision=fp32",
    "the same, 24 rows in 8 micro-batches": f"{LARGE_BATCH} train.micro_batches=8",
    "the same, 24 rows, recomputed": f"{LARGE_BATCH} train.activation_checkpointing=true",
    "the same, 24 rows, dropout 0.1": f"{LARGE_BATCH} model.dropout=0.1",
    "GPT-2 shape 8 × 512, context 256, 16 rows, Muon": f"{GPT2} model.layers=8 model.heads=8 model.width=512 "
    "model.context=256 train.batch_tokens=4096 train.optimizer=muon",
    "GPT-2 small, 50,257 tokens, context 512, 4 rows": f"{GPT2} model.layers=12 model.heads=12 model.width=768 "
    "model.context=512 train.batch_tokens=2048 tokenizer.from=GPT2 tokenizer.size=50257",
    "LSTM 2 × 200, 12,288 tokens, 20 rows of 35": "lstm model.layers=2 model.width=200 model.context=35 "
    "train.batch_tokens=700 tokenizer.size=12288",
    "LSTM 2 × 512, context 128, 32 rows": f"lstm {RECURRENT}",
    "GRU 2 × 512, context 128, 32 rows": f"gru {RECURRENT}",
    "RNN 2 × 512, context 128, 32 rows": f"rnn {RECURRENT}",
    "5-gram, 4,096 tokens": "ngram tokenizer.size=4096",
}
"""What is trained, as arguments of `idiolect train`; GPT2 stands for the folder with its tokenizer, whose size `plan`,
which reads no text, takes from the recipe."""
SHORT = "train.steps=4 train.warmup_steps=1 validation.every=2 validation.tokens=5000 checkpoint.every=2 sample.every=2"
"""Few steps, with all that a run does between them."""


def planned(suite: Suite) -> Iterator[Claim]:
    """Every run of RUNS, its peak resident memory against the total that `plan` names for the same recipe."""
    text, held = suite.data("tinyshakespeare/input.txt"), suite.scratch / "held.txt"
    held.write_text(text.read_text()[-10_000:])
    rows, shares, load = [], [], 0.0
    for name, line in RUNS.items():
        line = line.replace("=GPT2", f"={suite.data('gpt2-tokenizer')}")
        recipe, *words = f"{line} {'' if line.startswith('ngram') else SHORT}".split()
        words += [f"data.train={text}", f"data.validation={held}"]
        told = measure.run(suite.idiolect("plan", recipe, *words, "--json")).result["memory_bytes"]["total"]
        sample = measure.run(suite.idiolect("train", recipe, *words, "--json", "-o", suite.folder("run") / "run"))
        held_bytes = sample.result["peak_memory_bytes"]
        measure.say(f"  {name}: {held_bytes / told:.2f} of {told / 1e6:,.0f} MB")
        rows.append([name, f"{told / 1e6:,.0f}", f"{held_bytes / 1e6:,.0f}", f"{held_bytes / told:.2f}"])
        shares.append(held_bytes / told)
        load = max(load, sample.load)
    yield Claim(
        "peak memory of training over the total of `idiolect plan`, the worst of the runs below",
        f"≤ {ABOVE} ×",
        f"{max(shares):.2f} ×",
        max(shares) <= ABOVE,
        load=load,
        table=[["run", "planned, MB", "held, MB", "held / planned"], *rows],
        note=f"held is the resident memory of the whole process, torch itself included; the least ratio is "
        f"{min(shares):.2f}. Memory does not depend on the load of the machine.",
    )


def corpus(base: str, path: Path, size: int) -> None:
    """Writes `size` bytes: `base` again and again, each time begun elsewhere, one word in NEW_WORD a new one."""
    words = re.findall(r"\s*\S+", base)
    generator = seeds.numpy_generator(0, "corpus")
    written = number = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < size:
            start = int(generator.integers(len(words)))
            again = words[start:] + words[:start]
            for place in generator.integers(len(words), size=len(words) // NEW_WORD).tolist():
                again[place] = " " + new_word(number)
                number += 1
            written += file.write("".join(again))
    with open(path, "r+b") as file:
        file.truncate(size)


def new_word(number: int) -> str:
    """A word of its own for every number: its digits to the base 60 as syllables, then an n."""
    syllables = []
    while number or not syllables:
        number, digit = divmod(number, 60)
        syllables.append("bdfgklmprstv"[digit % 12] + "aeiou"[digit // 12])
    return "".join(syllables) + "n"


class Watched:
    """Looks at a process and all it starts, until the block ends: the most they held together."""

    def __init__(self, run: Path) -> None:
        self.run, self.peaks = run, {"resident": 0, "anonymous": 0}
        self.when = ""
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watched:
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.ended.wait(EVERY):
            pids = [int(process.name) for process in Path("/proc").iterdir() if process.name.isdigit()]
            mine = [pid for pid in pids if str(self.run) in _read(pid, "cmdline")]
            mine += [pid for pid in pids if any(f"\nPPid:\t{parent}\n" in _read(pid, "status") for parent in mine)]
            held = [dict(re.findall(r"(?m)^(Pss\w*): +(\d+)", _read(pid, "smaps_rollup"))) for pid in set(mine)]
            now = {
                "resident": sum(int(one.get("Pss", 0)) for one in held) * 1024,
                "anonymous": sum(int(one.get("Pss_Anon", 0)) for one in held) * 1024,
            }
            if now["resident"] > self.peaks["resident"]:
                self.when = time.strftime("%H:%M:%S")
            self.peaks = {key: max(value, now[key]) for key, value in self.peaks.items()}


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:  # it has ended
        return ""


def large(suite: Suite, size: int = CORPUS) -> Iterator[Claim]:
    """A text of 2 GB, one document, through `idiolect train`: tokenizer, shards, training, validation, model."""
    text = suite.folder("large") / "text.txt"
    try:
        corpus(suite.data("tinyshakespeare/input.txt").read_text(), text, size)
        run = suite.folder("run") / "run"
        words = [
            f"data.train={text}",
            "data.validation=0.001",
            "tokenizer.size=8192",
            "model.layers=4",
            "model.heads=4",
        ]
        words += ["model.width=256", "model.context=256", "train.batch_tokens=1024", "train.steps=50"]
        with Watched(run) as watched:
            sample = measure.run(suite.idiolect("train", "gpt", *words, "--json", "-o", run), timeout=3 * 3600)
        parameters = sample.result["parameters"]
    finally:
        text.unlink(missing_ok=True)
    owned = 16 * parameters  # weights, gradients and AdamW's two moments, in fp32
    beyond = watched.peaks["resident"] - owned
    yield Claim(
        f"a text of {size / 1e9:g} GB, tokenised and trained on: memory beyond model and optimiser",
        f"≤ {ROOM / 1e9:g} GB",
        f"{beyond / 1e9:.2f} GB",
        beyond <= ROOM,
        load=sample.load,
        peak_bytes=watched.peaks["resident"],
        details={"anonymous_bytes": watched.peaks["anonymous"], "parameters": parameters, "seconds": sample.seconds},
        note=f"one document of {size / 1e9:g} GB with a new word in {NEW_WORD}; {sample.seconds / 60:.0f} minutes from "
        f"text to model ({size / sample.seconds / 1e6:.1f} MB/s); of the peak of "
        f"{watched.peaks['resident'] / 1e9:.2f} GB (all processes together), torch's own libraries included, "
        f"{watched.peaks['anonymous'] / 1e9:.2f} GB are not backed by files; model and optimiser take "
        f"{owned / 1e6:.0f} MB",
    )


CLAIMS = {"memory-planned": planned, "memory-large-text": large}
TRIED = """
- Learning a tokenizer from all of 2 GB: the library's trainer keeps every different word with the places of its pairs,
  and its memory grows with the text. Of more than 128 MB an even sample is learnt from (`tokenizer.sample`), as in the
  figure above; a text that fits is learnt from whole, with the same merges as before.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the large text, for looking into by hand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--bytes", type=int, default=CORPUS)
    asked = parser.parse_args(arguments)
    corpus(asked.base.read_text(), asked.corpus, asked.bytes)
    print(json.dumps({"bytes": asked.corpus.stat().st_size}))


if __name__ == "__main__":
    main()
