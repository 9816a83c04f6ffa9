"""Evaluation sets in the corpus: which of their examples it holds, and documents that hold any left out.

After appendix C of the GPT-3 paper (Brown et al. 2020, arXiv 2005.14165): an example and a document overlap when they
share a sequence of 13 words, in small letters and without punctuation; an example of fewer words, but at least 8, must
be in the document as a whole. There, a document lost 200 characters on both sides of an overlap and documents that
overlapped often were dropped; here, a document with an overlap is dropped. Words are those of `duplicates.shingles`.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from idiolect.errors import UserError
from idiolect.text import read
from idiolect.text.document import Drop
from idiolect.text.duplicates import shingles
from idiolect.text.filtering.page import Filter, Page
from idiolect.text.settings import CurateSettings, DecontaminateSettings

BEGINNING = 22
"""Bits of a hash that are looked up first, in a table of 4 MB."""
EXAMPLES_AT_ONCE = 1024


class Sequences(NamedTuple):
    """Sequences of one number of words in examples, sorted by hash."""

    hashes: shingles.Hashes
    examples: NDArray[np.int64]
    """The number of each sequence's example, over all sets."""
    begins: NDArray[np.bool_]
    """Whether any hash begins with these bits: says no to most of what is asked, at the cost of one look."""

    def shared(self, hashes: shingles.Hashes) -> shingles.Hashes:
        """Those of the hashes that are among these."""
        maybe = hashes[self.begins[hashes >> np.uint64(64 - BEGINNING)]]
        places = np.minimum(np.searchsorted(self.hashes, maybe), len(self.hashes) - 1)
        return maybe[self.hashes[places] == maybe]


class EvaluationSets:
    """The examples of all evaluation sets, by the hashes of their sequences of words."""

    def __init__(self, settings: DecontaminateSettings) -> None:
        paths = read.files_of(settings.against)
        self.names = short_names(paths)
        self.bounds = [0]
        """The number of each set's first example, and how many examples all have."""
        self.short: list[int] = []
        """How many examples of each set have too few words to be looked for."""
        found: dict[int, list[Sequences]] = {}
        for path in paths:
            number, short = self.bounds[-1], 0
            every = examples(path)
            while several := list(itertools.islice(every, EXAMPLES_AT_ONCE)):
                short += _collect(found, several, number, settings)
                number += len(several)
            self.bounds.append(number)
            self.short.append(short)
        self.sequences = {words: _sorted(parts) for words, parts in sorted(found.items())}
        """By the number of words."""

    def found(self, text: str) -> NDArray[np.int64]:
        """The numbers of the examples that the text overlaps, over all sets, sorted."""
        hashes = shingles.word_hashes([text])[0]
        out = [np.zeros(0, np.int64)]
        for words, sums in shingles.rolling(hashes, max(self.sequences, default=0)):
            if known := self.sequences.get(words):
                for one in known.shared(shingles.stirred(sums)):  # few texts share any
                    first, last = (np.searchsorted(known.hashes, one, side) for side in ("left", "right"))
                    out.append(known.examples[first:last])
        return np.unique(np.concatenate(out))

    def place(self, example: int) -> tuple[str, int]:
        """(set, number in it) of an example's number over all sets."""
        of = int(np.searchsorted(self.bounds, example, side="right")) - 1
        return self.names[of], example - self.bounds[of]


def short_names(paths: Sequence[Path]) -> list[str]:
    """The files' names, with as many of the folders they lie in as it takes to tell all apart."""
    for parts in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = [Path(*path.parts[-parts:]).as_posix() for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def examples(path: Path) -> Iterator[list[str]]:
    """The texts of each example of a file: the strings of a row, or a paragraph. Raises UserError, as `read` does."""
    kind = read.kind_of(path)
    if kind in (".jsonl", ".parquet"):
        rows: Iterable[Any] = read.json_rows(path) if kind == ".jsonl" else read.parquet_rows(path, ())
        for number, row in enumerate(rows, 1):
            if isinstance(row, ValueError):  # a set of which a part is missing would be called clean
                raise UserError(f"{path}, row {number}: {row}", "mend the evaluation set")
            yield list(_strings(row))
    else:
        yield from ([document.text] for document in read.read([path], document="paragraph"))


def _strings(value: Any) -> Iterator[str]:
    """The strings in a value of JSON, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)


def _collect(
    found: dict[int, list[Sequences]], several: list[list[str]], first: int, settings: DecontaminateSettings
) -> int:
    """Adds the sequences of examples, numbered from `first`; says how many have too few words.

    Each text of an example counts by itself, as they seldom follow each other as in the file; where all are too short,
    they count joined.
    """
    pieces = [piece for example in several for piece in example]
    owners = np.repeat(np.arange(len(several)), [len(example) for example in several])
    hashes, counts = shingles.word_hashes(pieces)
    longest = np.zeros(len(several), np.int64)
    np.maximum.at(longest, owners, counts)
    begins = np.ones(len(pieces), bool)  # a text, or all texts of an example
    begins[1:] = (owners[1:] != owners[:-1]) | (longest[owners[1:]] >= settings.min_words)
    of = np.flatnonzero(begins)
    counts, owners = np.add.reduceat(counts, of) if len(of) else counts, owners[of]
    lengths = np.minimum(counts, settings.words)
    enough = lengths >= settings.min_words
    for words in np.unique(lengths[enough]).tolist():
        these = lengths == words
        grams, each = shingles.sequences(hashes[np.repeat(these, counts)], counts[these], words, short=False)
        parts = found.setdefault(words, [])
        parts.append(Sequences(grams, first + np.repeat(owners[these], each), np.zeros(0, bool)))
    return len(several) - len(np.unique(owners[enough]))


def _sorted(parts: list[Sequences]) -> Sequences:
    hashes = np.concatenate([part.hashes for part in parts])
    numbers = np.concatenate([part.examples for part in parts])
    order = np.argsort(hashes, kind="stable")
    begins = np.zeros(1 << BEGINNING, bool)
    begins[hashes >> np.uint64(64 - BEGINNING)] = True
    return Sequences(hashes[order], numbers[order], begins)


def decontaminate(settings: CurateSettings) -> Filter:
    """The filter that drops documents which overlap an example; the reason names the set, the value the example."""
    sets = evaluation_sets(settings.decontaminate)

    def filter_(page: Page) -> Drop | None:
        found = sets.found(page.text)
        if not len(found):
            return None
        name, number = sets.place(int(found[0]))
        return Drop(f"overlaps {name}", number)

    return filter_


def evaluation_sets(settings: DecontaminateSettings) -> EvaluationSets:
    """The sets that settings name, read once in a process unless their files change."""
    return _read_once(settings, tuple(os.stat(path).st_mtime_ns for path in read.files_of(settings.against)))


@functools.lru_cache(maxsize=1)
def _read_once(settings: DecontaminateSettings, written: tuple[int, ...]) -> EvaluationSets:
    return EvaluationSets(settings)


class Overlap:
    """Counts which examples documents overlap; what tasks counted can be added up."""

    def __init__(self, settings: DecontaminateSettings) -> None:
        self.sets = evaluation_sets(settings)
        self.examples: set[int] = set()
        self.documents: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """One more document."""
        found = self.sets.found(text).tolist()
        self.examples.update(found)
        self.documents.update({self.sets.place(example)[0] for example in found})

    def counted(self) -> dict[str, Any]:
        """What was counted, as JSON: numbers of examples over all sets, and documents by set."""
        return {"examples": sorted(self.examples), "documents": dict(self.documents)}

    def merge(self, counted: Mapping[str, Any]) -> None:
        """Adds what another counted over the same sets."""
        self.examples.update(counted["examples"])
        self.documents.update(counted["documents"])

    def report(self) -> dict[str, dict[str, float]]:
        """For each set: its `examples`, how many were too `short` to be looked for, how many the documents overlap.

        `overlap` is the share of those looked for, and `documents` how many documents overlap any.
        """
        out = {}
        for number, name in enumerate(self.sets.names):
            first, last = self.sets.bounds[number : number + 2]
            looked_for = last - first - self.sets.short[number]
            found = sum(first <= example < last for example in self.examples)
            out[name] = {
                "examples": last - first,
                "short": self.sets.short[number],
                "found": found,
                "overlap": found / looked_for if looked_for else 0.0,
                "documents": self.documents[name],
            }
        return out
