"""Personal data: how much of a labelled set is found, of what is found how much is right, and at what speed.

python -m benchmarks.personal_data DOCUMENTS KIND …      one run over a jsonl file with these kinds
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.curating_near import ONE_CORE, cut
from benchmarks.suite import Suite
from idiolect.text.personal.privacy import KINDS, Labelled, Redactor, evaluate
from idiolect.text.settings import PrivacySettings

RECALL, PRECISION, SPEED = 0.98, 0.95, 5000
WORDS = 280
HELD = 10
"""Of so many documents, one has something to be found."""
ROUNDS = 9
"""Times that the documents are gone through in a run."""
BOTH = ("email", "ip")
"""What the peer finds."""
PEER = Path(__file__).with_name("personal_data_peer.py")


def labelled() -> list[Labelled]:
    """The set that the tests keep."""
    sys.path.insert(0, str(measure.ROOT / "tests/text"))
    return importlib.import_module("personal").labelled()


def settings(kinds: Sequence[str]) -> PrivacySettings:
    return PrivacySettings.model_validate({"redact": kinds})


def documents(suite: Suite, found: Sequence[Labelled]) -> list[str]:
    """Passages of an encyclopaedia; into every HELD-th a text with personal data is put."""
    passages = cut(suite.data("wikitext-2/valid.txt").read_text(encoding="utf-8"), WORDS)
    draw = random.Random(0)
    some = draw.sample([one.text for one in found if one.spans], len(passages))
    return [f"{text} {one}" if i % HELD == 0 else text for i, (text, one) in enumerate(zip(passages, some))]


def ours(path: Path, kinds: Sequence[str]) -> dict[str, Any]:
    """Documents a second of the processor's time, which others on the machine take less of."""
    redact = Redactor(settings(kinds))
    with open(path, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    redact(texts[0])
    began, count = time.process_time(), 0
    for _ in range(ROUNDS):
        count = sum(sum(redact(text)[1].values()) for text in texts)
    return {"rate": ROUNDS * len(texts) / (time.process_time() - began), "found": count}


def claim(suite: Suite) -> Iterator[measure.Claim]:
    """What is found of the labelled set, and the speed."""
    peer = suite.package("datatrove")
    found = labelled()
    folder = suite.folder("personal")
    scores = evaluate(Redactor(settings(tuple(KINDS))), found)
    theirs = measure.run([suite.peers_python, PEER, _written(folder / "set.jsonl", [one.text for one in found])]).result
    table = [["kind", "in the set", "recall", "precision", "datatrove: recall", "precision"]]
    for kind, score in scores.items():
        other = _theirs(kind, found, theirs["texts"]) if kind in BOTH else ["–", "–"]
        shown = [f"{score.recall:.2%}", f"{score.precision:.2%}"]
        table.append([kind, f"{score.found + score.missed:,}", *shown, *other])
    least = min(score.recall for score in scores.values()), min(score.precision for score in scores.values())
    yield measure.Claim(
        "personal data of seven kinds, on a labelled set",
        f"recall ≥ {RECALL}, precision ≥ {PRECISION}, of each kind",
        f"recall ≥ {least[0]:.2%}, precision ≥ {least[1]:.2%}",
        least[0] >= RECALL and least[1] >= PRECISION,
        table=table,
        note=f"{len(found):,} texts, {sum(not one.spans for one in found):,} of them with nothing to find but what "
        "looks like it; a find counts when it begins and ends where the label does.",
        details={kind: score._asdict() for kind, score in scores.items()},
    )
    path = _written(folder / "documents.jsonl", documents(suite, found))
    commands = {"all": suite.child("personal_data", path, *KINDS), "both": suite.child("personal_data", path, *BOTH)}
    sides = {name: lambda name=name: measure.run(commands[name], env=ONE_CORE) for name in commands}
    sides["datatrove"] = lambda: measure.run([suite.peers_python, PEER, path, str(ROUNDS)], env=ONE_CORE)
    turns = measure.in_turn(sides, suite.rounds, warm_up=True)
    rate = measure.spread(turns.values("all", "rate"))
    yield measure.Claim(
        f"redacting all seven kinds, {WORDS} words a document, one in {HELD} with finds, by the processor's time",
        f"≥ {SPEED:,} documents/s",
        f"{rate.median:,.0f} documents/s",
        rate.median >= SPEED,
        "documents/s",
        rate,
        load=turns.load,
        dropped=turns.dropped,
    )
    yield measure.compare(
        *(turns, "both", "datatrove"),
        name="redacting e-mail and IP addresses",
        at_least=1.0,
        peer_name=f"{peer}, PIIFormatter",
        key="rate",
        unit="documents/s",
    )


def _written(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def _theirs(kind: str, found: Sequence[Labelled], redacted: Sequence[str]) -> list[str]:
    """Recall: labels of which nothing is left; precision: the share of placeholders that stand for these."""
    mark, right, there, marks = f"<{kind.upper()}>", 0, 0, 0
    for (text, spans), after in zip(found, redacted, strict=True):
        own = [text[span.start : span.end] for span in spans if span.kind == kind]
        there, marks = there + len(own), marks + after.count(mark)
        right += sum(value not in after and mark in after for value in own)
    return [f"{right / there:.2%}", f"{right / max(1, marks):.2%}"]


CLAIMS = {"personal-data": claim}
TRIED = """
- Every pattern over all of a text: 180 to 1,540 µs a document and kind. A pattern that begins with a look behind is
  tried at each character; to one that begins with a set of characters, and looks back after the first, Python skips: 9.
- Thirteen patterns of national numbers, each over the text, instead of one alternation around the places with enough
  digits: 1,540 instead of 14 µs.
- The matcher of `phonenumbers` on each run of digits: 340 µs a number, and every grouping is a number to it. A pattern
  of the groupings in each region's numbering plan leaves few to be checked.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", type=Path)
    parser.add_argument("kinds", nargs="+")
    given = parser.parse_args()
    print(json.dumps(ours(given.documents, given.kinds)))
