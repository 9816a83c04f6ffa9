"""Near duplicates: documents per second, and how many are found, beside datatrove with the same MinHash.

python -m benchmarks.curating_near DOCUMENTS SETTING      one run over a jsonl file; SETTING is a key of SETTINGS
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sysconfig
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import measure
from benchmarks.suite import Suite
from idiolect.text.duplicates import deduplicate
from idiolect.text.duplicates.keys import KeyWriter
from idiolect.text.settings import CurateSettings, NearSettings

DOCUMENTS = 4_000
ASKED = 10.0
RECALL, FALSE = 0.95, 0.005
SIMILAR = 0.8
SAME, DEFAULT, LOWER = "14 × 8", "16 × 6", "16 × 6, threshold 0.6"
SETTINGS = {SAME: NearSettings(bands=14, rows=8), DEFAULT: NearSettings(), LOWER: NearSettings(threshold=0.6)}
"""datatrove's bands and rows; ours; ours with a lower threshold."""
BINS = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
PEER = Path(__file__).with_name("curating_near_peer.py")
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def documents(suite: Suite, count: int) -> tuple[list[str], dict[int, int]]:
    """(texts, copies): texts of two to five passages of plays, encyclopaedia and programs, and copies of half of them.

    A copy is of a text before it, with as many words exchanged as bring their similarity down to between 0.55 and 1;
    `copies` has its number and that of the text.
    """
    passages: list[str] = []
    for name in ("tinyshakespeare/input.txt", "wikitext-2/valid.txt"):
        passages += cut(suite.data(name).read_text(encoding="utf-8"), 120)
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))[:1500]:
        if "site-packages" not in path.parts:
            passages += cut(path.read_text(encoding="utf-8", errors="ignore"), 200)
    rng = random.Random(0)
    texts = ["\n\n".join(rng.sample(passages, rng.randint(2, 5))) for _ in range(count // 2)]
    copies = {}
    for original in rng.sample(range(len(texts)), len(texts)):
        words = texts[original].split(" ")
        similar = rng.uniform(0.55, 1)
        exchanged = round(len(words) * (1 - similar) / (1 + similar) / 5)  # each takes five shingles from both
        for place in rng.sample(range(len(words)), exchanged):
            words[place] = "changed"
        copies[len(texts)] = original
        texts.append(" ".join(words))
    return texts, copies


def cut(text: str, words: int) -> list[str]:
    """The text in passages of so many words."""
    found = text.split(" ")
    return [" ".join(found[i : i + words]) for i in range(0, len(found), words)]


def shingles(text: str) -> set[tuple[str, ...]]:
    """The sequences of five words of a text."""
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


class Truth:
    """What is similar to what, counted in Python's sets."""

    def __init__(self, texts: Sequence[str], copies: Mapping[int, int]) -> None:
        self.sets = [shingles(text) for text in texts]
        self.holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, one in enumerate(self.sets):
            for shingle in one:
                self.holders[shingle].append(number)
        self.copies = {copy: self.similarity(copy, original) for copy, original in copies.items()}

    def similarity(self, one: int, other: int) -> float:
        return len(self.sets[one] & self.sets[other]) / len(self.sets[one] | self.sets[other])

    def recall(self, dropped: Collection[int], low: float = SIMILAR, high: float = 2) -> float:
        """The share of the copies of these similarities that were dropped."""
        owed = [copy for copy, similar in self.copies.items() if low <= similar < high]
        return sum(copy in dropped for copy in owed) / len(owed)

    def false(self, dropped: Collection[int]) -> float:
        """The share of the documents that nothing before them is as similar to as SIMILAR, that were dropped."""
        wrong = [number for number in dropped if not self._owed(number)]
        return len(wrong) / (len(self.sets) - (len(dropped) - len(wrong)))

    def _owed(self, number: int) -> bool:
        others = {other for shingle in self.sets[number] for other in self.holders[shingle] if other < number}
        return any(self.similarity(number, other) >= SIMILAR for other in others)


def ours(path: Path, settings: NearSettings) -> dict[str, object]:
    """Documents in memory → keys on disk → decisions → the documents that are kept."""
    with open(path, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    asked = CurateSettings.model_validate(
        {"url": {"drop": False}, "exact": {"drop": False}, "near": settings.model_dump()}
    )
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        folder = Path(scratch)
        (folder / "out").mkdir()
        began = time.process_time()
        writer = KeyWriter(folder / "keys", asked)
        for text in texts:
            writer.add(text, None)
        writer.close()
        signed = time.process_time()
        deduplicate.decide([folder / "keys"], folder / "out", asked)
        reasons = deduplicate.decisions(folder / "out", 0).reasons.tolist()
        kept = [text for text, reason in zip(texts, reasons) if not reason]
        seconds = time.process_time() - began
    assert len(kept) == reasons.count(0)
    dropped = [number for number, reason in enumerate(reasons) if reason]
    return {"rate": len(texts) / seconds, "keys": len(texts) / (signed - began), "dropped": dropped}


def claim(suite: Suite) -> Iterator[measure.Claim]:
    """The speed at the peer's settings, then what is found at ours."""
    peer = suite.package("datatrove")
    folder = suite.folder("curating")
    texts, copies = documents(suite, DOCUMENTS)
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    truth = Truth(texts, copies)
    words = sum(len(text.split()) for text in texts) / len(texts)
    commands = {name: suite.child("curating_near", path, name) for name in SETTINGS}
    sides = {name: lambda name=name: measure.run(commands[name], env=ONE_CORE) for name in (SAME, DEFAULT)}
    sides["datatrove"] = lambda: measure.run([suite.peers_python, PEER, path], env=ONE_CORE)
    turns = measure.in_turn(sides, suite.rounds, warm_up=True)
    dropped = {name: set(turns.samples[name][0].result["dropped"]) for name in sides}
    dropped[LOWER] = set(measure.run(commands[LOWER]).result["dropped"])
    recall = {name: truth.recall(found) for name, found in dropped.items()}
    false = {name: truth.false(found) for name, found in dropped.items()}
    same, default = (
        measure.compare(
            *(turns, name, "datatrove"),
            name=f"near duplicates, MinHash {name}",
            at_least=ASKED,
            peer_name=f"{peer}, {SAME}, one process",
            key="rate",
            unit="documents/s",
            asked=f"≥ {ASKED:g} × datatrove" + (", recall no less" if name == DEFAULT else ""),
            holds=name == SAME or recall[name] >= recall["datatrove"],
            note=_note(name, recall[name], false[name]),
        )
        for name in (SAME, DEFAULT)
    )
    yield replace(
        same,
        note=f"{same.note} datatrove: {recall['datatrove']:.1%} and {false['datatrove']:.1%}, as it compares no "
        f"further what shares a band, and drops whole chains. {len(texts):,} documents of {words:.0f} words, half of "
        f"them copies with exchanged words; shingles of 5 words; one core each, by the "
        f"processor's time, from texts in memory over keys on disk to the texts that are kept.",
    )
    yield replace(default, measured=f"{default.measured}, recall {recall[DEFAULT]:.1%} to {recall['datatrove']:.1%}")
    table = [["similarity", "copies", *(f"{name}: dropped" for name in dropped)]]
    for low, high in zip(BINS, BINS[1:]):
        owed = sum(low <= similar < high for similar in truth.copies.values())
        shares = [f"{truth.recall(found, low, high):.1%}" for found in dropped.values()]
        table.append([f"{low:g}–{high:g}", f"{owed}", *shares])
    yield measure.Claim(
        f"near duplicates found, {DEFAULT}",
        f"recall ≥ {RECALL:g} at similarity ≥ {SIMILAR}, false < {FALSE:.1%}",
        f"recall {recall[DEFAULT]:.1%}, false {false[DEFAULT]:.2%}",
        recall[DEFAULT] >= RECALL and false[DEFAULT] < FALSE,
        table=table,
        note="The similarity of a copy and its text is Jaccard's, of their sequences of five words, counted apart in "
        f"Python's sets. {LOWER} shows what the bands let meet.",
        details={"recall": recall, "false": false},
    )


def _note(name: str, recall: float, false: float) -> str:
    return (
        f"{name}: of the copies of similarity ≥ {SIMILAR}, {recall:.1%} are dropped; of the documents that nothing "
        f"before them is so similar to, {false:.1%}."
    )


CLAIMS = {"near-duplicates": claim}
TRIED = """
- The hash of each word by numpy over all characters of 50 documents, as differences of running sums: 24 µs a document
  of 290 words. Batches of 8,000 characters instead of 65,000: 65 µs, as each of numpy's steps has its own cost.
- The distinct shingles of a document sorted by themselves instead of all of a batch with their owner before them: 3
  instead of 22 µs, as short arrays are sorted in the processor's registers.
- Keys sorted by the worker, so that the decision reads a range of keys from each task: nothing is rewritten, and the
  decision takes a tenth of the time of the keys.
"""


def main() -> None:
    """Prints documents/s and the numbers of those dropped as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("setting", choices=SETTINGS)
    asked = parser.parse_args()
    print(json.dumps(ours(asked.documents, SETTINGS[asked.setting])))


if __name__ == "__main__":
    main()
