"""What became of documents, counted: what is counted in parts of a text adds up to what is counted in all of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

EXAMPLES = 5
"""Dropped documents of each reason that are shown."""
VALUES = 10_000
"""Values of a column that are counted one by one; what comes after them is counted together."""
OTHERS = "(others)"
CLEANLY = "written cleanly"
"""The row of the funnel that says how large the same documents are once normalised."""


class Size(NamedTuple):
    """How much text there is."""

    documents: int = 0
    bytes: int = 0
    """Of its text in UTF-8."""
    tokens: int = 0

    def __add__(self, other: tuple[int, ...]) -> Size:  # type: ignore[override]
        return Size(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: tuple[int, ...]) -> Size:
        return Size(*(a - b for a, b in zip(self, other, strict=True)))


class Example(NamedTuple):
    """One dropped document."""

    order: str
    """Those with the lowest are shown: a hash of the id, so that which are shown does not hang on how the text was
    cut into parts."""
    id: str
    value: float | str | None
    text: str
    """Its beginning."""


@dataclass
class Tally:
    """What became of documents on their way."""

    read: Size = Size()
    """What was read, as it was; no tokens."""
    normalised: Size = Size()
    """The same, once it was written cleanly."""
    out: Size = Size()
    """What is left."""
    dropped: dict[str, dict[str, Size]] = field(default_factory=dict)
    """Step → reason → what was left out there, normalised."""
    redacted: Counter[str] = field(default_factory=Counter)
    """Kind of personal data → places replaced."""
    lines: int = 0
    """Lines taken out of documents."""
    examples: dict[str, list[Example]] = field(default_factory=dict)
    """Reason → dropped documents."""
    slices: dict[str, dict[str, dict[str, list[int]]]] = field(default_factory=dict)
    """Filter → column → value → [documents it looked at, documents it flagged]."""
    kept: dict[str, dict[str, Size]] = field(default_factory=dict)
    """Column (source, language, licence, site) → value → what of it is left."""

    def drop(self, step: str, reason: str, size: Size) -> None:
        """Counts a document that is left out."""
        reasons = self.dropped.setdefault(step, {})
        reasons[reason] = reasons.get(reason, Size()) + size

    def show(self, reason: str, id: str, value: float | str | None, text: str) -> None:
        """Keeps a dropped document as an example, if it is one of those to be shown."""
        order = hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES or order < shown[-1].order:
            shown.append(Example(order, id, value, text))
            shown.sort()
            del shown[EXAMPLES:]

    def flag(self, step: str, columns: Mapping[str, str], flagged: bool) -> None:
        """Counts a document that a filter looked at, by its slices."""
        by_column = self.slices.setdefault(step, {})
        for column, value in columns.items():
            _count(by_column.setdefault(column, {}), value, (1, flagged))

    def keep(self, columns: Mapping[str, str], size: Size) -> None:
        """Counts a document that is left at the end."""
        self.out += size
        for column, value in columns.items():
            _add(self.kept.setdefault(column, {}), value, size)

    def funnel(self, steps: Iterable[str]) -> list[tuple[str, Size]]:
        """What was there after each step, in the order of the steps."""
        left = self.normalised
        rows = [("read", self.read), (CLEANLY, left)]
        for step in steps:
            for size in self.dropped.get(step, {}).values():
                left -= size
            rows.append((step, left))
        return [*rows, ("the corpus", self.out)]

    def reasons(self) -> dict[str, int]:
        """Reason → documents left out, the most frequent first."""
        counts: Counter[str] = Counter()
        for reasons in self.dropped.values():
            for reason, size in reasons.items():
                counts[reason] += size.documents
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def to_json(self) -> dict[str, Any]:
        """As plain values, in an order that does not hang on how they were counted."""
        return {
            "read": list(self.read),
            "normalised": list(self.normalised),
            "out": list(self.out),
            "dropped": {s: {r: list(size) for r, size in _sorted(d)} for s, d in _sorted(self.dropped)},
            "redacted": dict(_sorted(self.redacted)),
            "lines": self.lines,
            "examples": {r: [list(one) for one in shown] for r, shown in _sorted(self.examples)},
            "slices": {s: {c: dict(_sorted(v)) for c, v in _sorted(d)} for s, d in _sorted(self.slices)},
            "kept": {c: {v: list(size) for v, size in _sorted(d)} for c, d in _sorted(self.kept)},
        }

    def add(self, value: Mapping[str, Any]) -> None:
        """Adds what another tally counted, as `to_json` writes it."""
        self.read += tuple(value["read"])
        self.normalised += tuple(value["normalised"])
        self.out += tuple(value["out"])
        for step, reasons in value["dropped"].items():
            for reason, size in reasons.items():
                self.drop(step, reason, Size(*size))
        self.redacted.update(value["redacted"])
        self.lines += value["lines"]
        for reason, shown in value["examples"].items():
            both = [*self.examples.get(reason, ()), *(Example(*one) for one in shown)]
            self.examples[reason] = sorted(both)[:EXAMPLES]
        for step, columns in value["slices"].items():
            for column, values in columns.items():
                for name, counts in values.items():
                    _count(self.slices.setdefault(step, {}).setdefault(column, {}), name, counts)
        for column, values in value["kept"].items():
            for name, size in values.items():
                _add(self.kept.setdefault(column, {}), name, size)


def _add(values: dict[str, Size], name: str, size: Iterable[int]) -> None:
    name = name if name in values or len(values) < VALUES else OTHERS
    values[name] = values.get(name, Size()) + tuple(size)


def _count(values: dict[str, list[int]], name: str, counts: Iterable[int]) -> None:
    before = values.setdefault(name if name in values or len(values) < VALUES else OTHERS, [0, 0])
    before[:] = [a + b for a, b in zip(before, counts, strict=True)]


def _sorted(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(values.items())
