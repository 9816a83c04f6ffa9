"""Encoders that label, and answers from a passage, on real text: what training came to, beside what knows less.

The data folder holds sst2/{train,dev}.tsv, wnut17/{train,dev}.conll and multi30k/{train,val}.en.gz.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Claim
from idiolect import api

COLOURS = "red blue green yellow black white orange purple pink brown gray"
THINGS = (
    "shirt shirts jacket jackets hat hats dress dresses pants jeans shorts coat helmet suit sweater dog dogs car truck "
    "hair ball bike boat horse uniform top skirt"
)
NAMED = re.compile(rf"\b({'|'.join(COLOURS.split())}) ({'|'.join(THINGS.split())})\b")
"""What a question is asked of: a thing whose colour a caption tells."""


def entities(data: Path, scratch: Path) -> Iterator[Claim]:
    """The recipe tag on messages whose names are new ones, as WNUT 17 wants it."""
    corpus = data / "wnut17"
    shared = [f"data.train={corpus / 'train.conll'}", f"data.validation={corpus / 'dev.conll'}", "sample.every=0"]
    result = api.train("tag", [*shared, "train.steps=600", "validation.every=100"], scratch / "entities")
    found, guess = (part["entity_f1"] for part in (result["validation"], result["baselines"]["majority"]))
    yield Claim(
        "WNUT 17, the recipe tag from nothing: F1 of whole entities in messages with new names",
        f"> the most usual tag's ({guess:.3f})",
        f"{found:.3f}, words right {result['validation']['accuracy']:.3f}",
        found > guess,
    )


def questions(data: Path, scratch: Path) -> Iterator[Claim]:
    """The recipe answer, in fewer steps: of captions that tell one thing's colour, what colour it is; held-out captions are others."""
    files = {}
    for part in ("train", "val"):
        captions = gzip.decompress((data / f"multi30k/{part}.en.gz").read_bytes()).decode("utf-8").splitlines()
        rows = [row for caption in captions for row in asked(caption)]
        files[part] = scratch / f"colours-{part}.jsonl"
        files[part].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    usual, often = Counter(row["answer"] for row in rows).most_common(1)[0]
    shared = [f"data.train={files['train']}", f"data.validation={files['val']}", "sample.every=0"]
    result = api.train("answer", [*shared, "tokenizer.size=2048", "train.steps=250", "task.answers=1000"], scratch / "answer")
    found, guess = result["validation"]["exact_match"], often / len(rows)
    yield Claim(
        f"T5 shape, the recipe answer: {len(rows)} questions about unseen captions (what colour is the shirt?), exact",
        f"≥ 2 × always {usual} ({guess:.1%})",
        f"{found:.1%}",
        found >= 2 * guess,
    )


def asked(caption: str) -> Iterator[dict[str, str]]:
    """A question for each thing of which the caption tells one colour."""
    found: dict[str, set[str]] = {}
    for colour, thing in NAMED.findall(caption.lower()):
        found.setdefault(thing, set()).add(colour)
    for thing, colours in found.items():
        if len(colours) == 1:
            verb = "are" if thing.endswith("s") and thing != "dress" else "is"
            yield {"question": f"what colour {verb} the {thing}?", "context": caption, "answer": min(colours)}


CHECKS = {"entities": entities, "questions": questions}
