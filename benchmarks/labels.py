"""Encoders that label, and answers from a passage, on real text: what training came to, beside what knows less.

The data folder holds sst2/{train,dev}.tsv, wnut17/{train,dev}.conll and multi30k/{train,val}.en.gz.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Claim
from idiolect import api
from idiolect.evaluate.labels import entity_f1
from idiolect.text.examples import Examples

LABELS, SEEDS, GAIN = 200, 3, 5.0
"""Reviews with a label that are learnt from, draws of them, and points of accuracy asked."""
HEADER = "text\tlabel\n"
SHAPE = ["model.layers=2", "model.width=128", "model.context=64"]
READING = [
    "task.kind=masked",
    "task.share=0.3",
    "train.optimizer=muon",
    "train.muon_learning_rate=0.01",
    "train.learning_rate=2e-3",
    "train.steps=1500",
    "train.batch_tokens=4096",
]
TAGGING = ["train.steps=600", "validation.every=100"]
"""Of the tagger, beside its data."""
TUNING = ["task.pool=mean", "train.steps=150", "train.batch_tokens=512", "validation.every=0", "sample.every=0"]
"""Chosen, with the recipe's learning rate, on the same held-out reviews, for the pretrained one."""
COLOURS = "red blue green yellow black white orange purple pink brown gray"
THINGS = (
    "shirt shirts jacket jackets hat hats dress dresses pants jeans shorts coat helmet suit sweater dog dogs car truck "
    "hair ball bike boat horse uniform top skirt"
)
NAMED = re.compile(rf"\b({'|'.join(COLOURS.split())}) ({'|'.join(THINGS.split())})\b")
"""What a question is asked of: a thing whose colour a caption tells."""


def sentiment(data: Path, scratch: Path) -> Iterator[Claim]:
    """A small BERT that has read the reviews without their labels, and one that has not: both learn LABELS of them."""
    train = (data / "sst2/train.tsv").read_text(encoding="utf-8").splitlines()
    held, text = scratch / "reviews-held.tsv", scratch / "reviews.txt"
    held.write_text(HEADER + (data / "sst2/dev.tsv").read_text(encoding="utf-8"), encoding="utf-8")
    text.write_text("\n".join(line.rpartition("\t")[0] for line in train), encoding="utf-8")
    read = [f"data.train={text}", "data.document=line", *SHAPE, "model.dropout=0.1", "sample.every=0", *READING]
    parent = api.train("bert", read, scratch / "reviews")["model"]
    starts = {
        "pretrained": [f"model.from={parent}", "model.dropout=0.1", "forgetting.own=false"],
        "from nothing": [f"tokenizer.from={scratch / 'reviews/tokenizer'}", *SHAPE],
    }
    found: dict[str, list[float]] = {name: [] for name in starts}
    for seed in range(SEEDS):
        some = scratch / f"reviews-{seed}.tsv"
        drawn = random.Random(seed).sample(train, LABELS)  # noqa: S311
        some.write_text(HEADER + "\n".join(drawn) + "\n", encoding="utf-8")
        for name, start in starts.items():
            given = [f"data.train={some}", f"data.validation={held}", f"train.seed={seed}", *start, *TUNING]
            result = api.train("classify", given, scratch / f"reviews-{name}-{seed}".replace(" ", "-"))
            found[name].append(100 * result["validation"]["accuracy"])
    means = {name: statistics.mean(some) for name, some in found.items()}
    gained = means["pretrained"] - means["from nothing"]
    yield Claim(
        f"SST-2, {LABELS} labels, {SEEDS} seeds: accuracy that a BERT shape gains by reading the reviews first, points",
        f"≥ {GAIN:.0f}",
        f"{gained:.1f} ({means['pretrained']:.1f} against {means['from nothing']:.1f})",
        gained >= GAIN,
        table=[["seed", *found], *([str(i), *(f"{of[i]:.1f}" for of in found.values())] for i in range(SEEDS))],
    )


def entities(data: Path, scratch: Path) -> Iterator[Claim]:
    """The recipe tag on messages whose names are new ones, as WNUT 17 wants it."""
    train, dev = (data / "wnut17" / f"{part}.conll" for part in ("train", "dev"))
    shared = [f"data.train={train}", f"data.validation={dev}", "sample.every=0"]
    result = api.train("tag", [*shared, *TAGGING], scratch / "entities")
    found, guess = result["validation"]["entity_f1"], looked_up(train, dev)
    yield Claim(
        "WNUT 17, the recipe tag from nothing: F1 of whole entities in messages with new names",
        f"> {guess:.3f}, each word's most usual tag in training, whatever its case",
        f"{found:.3f}, words right {result['validation']['accuracy']:.3f}",
        found > guess,
    )


def looked_up(train: Path, dev: Path) -> float:
    """The F1 of whole entities of a table of words: what a tagger that generalises to no new name could do."""
    seen: dict[str, Counter[str]] = {}
    for row in Examples((train,), ("words[]", "tags[]")):
        for word, tag in zip(row["words[]"], row["tags[]"], strict=True):
            seen.setdefault(word.lower(), Counter())[tag] += 1
    usual = {word: tags.most_common(1)[0][0] for word, tags in seen.items()}
    held = list(Examples((dev,), ("words[]", "tags[]")))
    guess = [[usual.get(word.lower(), "O") for word in row["words[]"]] for row in held]
    return entity_f1([row["tags[]"] for row in held], guess)["f1"]


def questions(data: Path, scratch: Path) -> Iterator[Claim]:
    """The recipe answer, in fewer steps: what colour a thing of a caption is; the held-out captions are others."""
    files = {}
    for part in ("train", "val"):
        captions = gzip.decompress((data / f"multi30k/{part}.en.gz").read_bytes()).decode("utf-8").splitlines()
        rows = [row for caption in captions for row in asked(caption)]
        files[part] = scratch / f"colours-{part}.jsonl"
        files[part].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    usual, often = Counter(row["answer"] for row in rows).most_common(1)[0]
    shared = [f"data.train={files['train']}", f"data.validation={files['val']}", "sample.every=0"]
    result = api.train(
        "answer", [*shared, "tokenizer.size=2048", "train.steps=250", "task.answers=1000"], scratch / "answer"
    )
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


CHECKS = {"sentiment": sentiment, "entities": entities, "questions": questions}
