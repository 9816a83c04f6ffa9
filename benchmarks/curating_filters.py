"""Filters: documents per second and what is dropped, beside datatrove; and how well the quality classifier tells junk.

python -m benchmarks.curating_filters DOCUMENTS      one run over a jsonl file
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import measure
from benchmarks.curating_near import ONE_CORE, cut, documents
from benchmarks.suite import Suite
from idiolect.text.curation.normalise import normalise
from idiolect.text.document import Document
from idiolect.text.filtering import learnt
from idiolect.text.filtering.classifier import auc, train
from idiolect.text.filtering.filters import FILTERS, Resources
from idiolect.text.filtering.page import Page
from idiolect.text.settings import ClassifierSettings, CurateSettings, NormaliseSettings, QualitySettings

DOCUMENTS = 2_000
ASKED, AUC = 10.0, 0.9
COMPARED = ("gopher_quality", "gopher_repetition")
MIXED, PROSE = "plays, encyclopaedia and programs", "plays and encyclopaedia"
PEER = Path(__file__).with_name("curating_filters_peer.py")
MENU = (
    *("Home", "About us", "Contact", "Privacy policy", "Terms of use", "Log in", "Sign up", "All rights reserved"),
    *(
        "Share on social media",
        "Read more",
        "Next page",
        "Add to cart",
        "Free shipping",
        "Click here",
        "Accept cookies",
    ),
)


def prose(suite: Suite, count: int) -> list[str]:
    """Texts of two or three passages of plays and encyclopaedia."""
    names = ("tinyshakespeare/input.txt", "wikitext-2/valid.txt")
    passages = [passage for name in names for passage in cut(written(suite.data(name)), 120)]
    rng = random.Random(0)
    return ["\n\n".join(rng.sample(passages, rng.randint(2, 3))) for _ in range(count)]


def written(path: Path) -> str:
    """A text as one writes it, where WikiText sets marks apart and leaves rare words out: 1 @,@ 000 is 1,000."""
    text = re.sub(r" @(\W)@ ", r"\1", path.read_text(encoding="utf-8")).replace("<unk>", "something")
    text = re.sub(r" (?=[.,;:!?)]|'s\b|n't\b)|(?<=\() ", "", text)
    return normalise(text, NormaliseSettings())


def ours(path: Path) -> dict[str, dict[str, object]]:
    """Each filter over documents in memory."""
    with open(path, encoding="utf-8") as file:
        found = [Document(json.loads(line)["text"], f"{number}", "") for number, line in enumerate(file)]
    out: dict[str, dict[str, object]] = {}
    for name in COMPARED:
        judge = FILTERS[name](CurateSettings(), Resources())
        judge(Page(found[0]))
        began = time.perf_counter()
        kept = [judge(Page(document)) is None for document in found]
        out[name] = {"rate": len(found) / (time.perf_counter() - began), "kept": kept}
    return out


def claim(suite: Suite) -> Iterator[measure.Claim]:
    """The speed on each kind of text, and on how many documents both decide alike."""
    peer = suite.package("datatrove")
    folder = suite.folder("curating")
    texts = {MIXED: documents(suite, 2 * DOCUMENTS)[0][:DOCUMENTS], PROSE: prose(suite, DOCUMENTS)}
    turns = {}
    for number, (kind, some) in enumerate(texts.items()):
        path = folder / f"{number}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in some), encoding="utf-8")
        command, other = suite.child("curating_filters", path), [suite.peers_python, PEER, path]
        sides: dict[str, measure.Side] = {
            "Idiolect": lambda command=command: measure.run(command, env=ONE_CORE),  # type: ignore[misc]
            "datatrove": lambda other=other: measure.run(other, env=ONE_CORE),  # type: ignore[misc]
        }
        turns[kind] = measure.in_turn(sides, suite.rounds if kind == MIXED else 3)
    for name in COMPARED:
        compared, table = {}, [["texts", "words", "kept by Idiolect", "by datatrove", "decided alike", "speed"]]
        alike = {}
        for kind, taken in turns.items():
            one, other = (taken.samples[side][0].result[name]["kept"] for side in ("Idiolect", "datatrove"))
            alike[kind] = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
            compared[kind] = measure.compare(
                *(_only(taken, name), "Idiolect", "datatrove"),
                name=f"{name.replace('_', ', ')}, one core",
                at_least=ASKED,
                peer_name=f"{peer}, one process",
                key="rate",
                unit="documents/s",
            )
            words = sum(len(text.split()) for text in texts[kind]) / len(texts[kind])
            row = [kind, f"{words:.0f}", f"{sum(one)}", f"{sum(other)}", f"{alike[kind]:.2%}"]
            table.append([*row, compared[kind].measured])
        worst = min(compared.values(), key=lambda one: min(one.ratio or 0, one.paired or 0))
        yield replace(
            compared[MIXED],
            measured=f"{worst.measured}, {min(alike.values()):.2%} decided alike",
            reached=worst.reached,
            table=table,
            note=f"{DOCUMENTS:,} documents each, in memory, the words of each found anew for each filter. The rates "
            f"are those of {MIXED}. What the quality filters decide otherwise, they do by the share of words with "
            "letters, which many texts have near the threshold of 80%.",
            details={"alike": alike},
        )


def _only(turns: measure.Turns, name: str) -> measure.Turns:
    """The turns of one filter."""
    samples = {side: [replace(s, result=s.result[name]) for s in some] for side, some in turns.samples.items()}
    return measure.Turns(samples, turns.dropped)


def junk(texts: Sequence[str]) -> dict[str, list[str]]:
    """What a crawl holds besides text: words in any order, menus, and a Markov chain's pairs of real neighbours."""
    rng = random.Random(1)
    words = " ".join(texts).split()
    after = defaultdict(list)
    for one, other in zip(words, words[1:]):
        after[one].append(other)

    def relaid(text: str, some: Sequence[str]) -> str:
        again = iter(some)
        return re.sub(r"\S+", lambda _: next(again), text)

    def chain(length: int) -> list[str]:
        made = [rng.choice(words)]
        while len(made) < length:
            made.append(rng.choice(after[made[-1]] or words))
        return made

    return {
        "shuffled": [relaid(text, rng.sample(text.split(), len(text.split()))) for text in texts],
        "boilerplate": ["\n".join(rng.choices(MENU, k=rng.randint(5, 80))) for _ in texts],
        "machine-made": [relaid(text, chain(len(text.split()))) for text in texts],
    }


def quality(suite: Suite) -> Iterator[measure.Claim]:
    """A classifier of a third of the prose against junk made of another; and against a heap of which half is good."""
    texts = prose(suite, 3 * DOCUMENTS)
    good, more, rest = (texts[i * DOCUMENTS : (i + 1) * DOCUMENTS] for i in range(3))
    kinds = junk(rest)
    kinds["all three"] = mixed = [text for i, some in enumerate(kinds.values()) for text in some[i::3]]
    table, areas = [["against", "held out", "AUC", "seconds of training"]], {}
    for name, bad in kinds.items():
        began = time.perf_counter()
        about = train(good, bad, ClassifierSettings()).about
        areas[name] = about["auc"]
        table.append([name, f"{about['held_out']}", f"{about['auc']:.4f}", f"{time.perf_counter() - began:.1f}"])
    with tempfile.TemporaryDirectory(dir=suite.scratch) as scratch:
        path = Path(scratch) / "good.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in good), encoding="utf-8")
        settings = CurateSettings(filters=("quality",), quality=QualitySettings(good=(str(path),), threshold=1.0))
        began = time.perf_counter()
        learnt.learn_quality(settings, Path(scratch), lambda: [*more, *mixed])
        seconds = time.perf_counter() - began
        judge = learnt.quality_filter(settings, Path(scratch))
        found = [judge(Page(Document(text, "", ""))) for text in [*more, *mixed]]
    values = [1.0 if drop is None else float(drop.value or 0) for drop in found]
    name = "a heap of which half is good"
    areas[name] = auc(values, [1.0] * len(more) + [0.0] * len(mixed))
    table.append([name, f"{len(values)}", f"{areas[name]:.4f}", f"{seconds:.1f}"])
    yield measure.Claim(
        "quality classifier, good text against junk",
        f"AUC ≥ {AUC:g} on held-out passages",
        f"AUC {min(areas.values()):.4f}",
        min(areas.values()) >= AUC,
        table=table,
        note=f"{DOCUMENTS:,} good documents against as many made of other documents of the same kind: their words in "
        "any order, menus of web pages, and chains of words each of which follows the last somewhere in real text. "
        "The last row is the filter as it works: it learns from the heap that it sifts, each half by a classifier that "
        "learnt from the other; the AUC is that of good documents and junk in it.",
        details={"auc": areas},
    )


CLAIMS = {"filters": claim, "quality-classifier": quality}
TRIED = """
- Words by one expression whose first element is a class of characters, which Python's search skips to: 95 µs a document
  of 275 words, where the same alternatives one beside the other took 145.
- The words between two spaces remembered, 65,536 of them: no faster, as one in nine is new in text with programs.
- Runs of n + 1 words as pairs of a run of n and a word, only where that comes again: 220 µs for all lengths from 2 to
  10; as tuples of n words 270, counting all of them at each length 1,900.
- The classifier without figures on the shape of a text tells a Markov chain's text with AUC 0.72–0.83, with them 0.99.
- One classifier for all of the heap drops 286 of 300 good documents in it, as it has learnt that they are of the heap;
  two, each for the half that it did not learn, 66.
"""


def main() -> None:
    """Prints documents/s and which are kept, by filter, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    print(json.dumps(ours(parser.parse_args().documents)))


if __name__ == "__main__":
    main()
