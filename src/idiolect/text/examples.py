"""Examples: records of several fields, such as a text and its translation, read from files of many kinds.

jsonl and parquet name their fields; csv and tsv files have columns, named by their first line or, when the fields asked
for are numbers, counted from 1 in a file without one; conll files have a token and its columns a line, and a blank line
after each sentence; plain text files have one field a line, and the other field in a file beside them.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, Self

from idiolect import files
from idiolect.errors import UserError
from idiolect.text.passport import Passport, passport
from idiolect.text.read import PLAIN, files_of, good, json_rows, kind_of, parquet_rows, problem
from idiolect.text.stream import decoded, lines

COLUMNS = {".csv": ",", ".tsv": "\t"}
"""What separates the columns of a line."""
SENTENCES = (".conll", ".bio")
SUFFIXES = (".jsonl", ".parquet", *COLUMNS, *SENTENCES, *PLAIN)


@dataclass(frozen=True)
class Examples:
    """The examples of some files; iterating reads them again from the disk, as mappings from field to text.

    A field whose name ends in [] holds a list of texts; conll files hold nothing else. Raises UserError, on iterating,
    for what cannot be read, and for files beside one another that differ in their number of lines.
    """

    paths: tuple[Path, ...]
    fields: tuple[str, ...]
    beside: tuple[Path, ...] = ()
    """Plain text files whose line i is the second field of the example whose first is line i of `paths`."""
    start: int = 0
    """The first example that is given, counted over all files."""
    stop: int | None = None
    """The first that no longer is; None: all are."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (row for _, row in islice(self._all(), self.start, self.stop))

    def passports(self) -> Iterator[Passport]:
        """One of each example, in their order."""
        return (found for found, _ in islice(self._all(), self.start, self.stop))

    def _all(self) -> Iterator[tuple[Passport, Mapping[str, Any]]]:
        found = self._files
        if self.beside and len(found) != len(self.beside):
            what = f"{len(found)} files of {self.fields[0]} and {len(self.beside)} of {self.fields[1]}"
            raise UserError(what, "give as many of the one as of the other, in the same order")
        for number, path in enumerate(found):
            yield from self._parallel(path, self.beside[number]) if self.beside else self._rows(path)

    @property
    def _files(self) -> list[Path]:
        if self.beside:  # such as train.en: what it is, the file beside it says
            return files_of(self.paths, PLAIN, any_named=True)
        return files_of(self.paths, SUFFIXES)

    def _parallel(self, path: Path, other: Path) -> Iterator[tuple[Passport, Mapping[str, Any]]]:
        ends, number = object(), 0
        for number, pair in enumerate(zip_longest(*(lines(decoded(p), p) for p in (path, other)), fillvalue=ends)):
            if ends in pair:
                shorter, longer = (path, other) if pair[0] is ends else (other, path)
                what = f"{shorter} has {number} lines and {longer} has more"
                raise UserError(what, "line i of the one must belong to line i of the other")
            first, second = (line.strip() for line in pair)
            if first and second:
                yield (
                    passport({}, f"{path.name}:{number}", path.name),
                    dict(zip(self.fields, (first, second), strict=True)),
                )

    def _rows(self, path: Path) -> Iterator[tuple[Passport, Mapping[str, Any]]]:
        kind = kind_of(path, SUFFIXES)
        names = [field.removesuffix("[]") for field in self.fields]
        if kind in PLAIN:
            what = f"{path} is plain text, which has no fields {' and '.join(names)}"
            raise UserError(what, "name the file with the other field, or give jsonl, parquet, tsv or csv")
        if kind in SENTENCES:
            rows: Iterator[Any] = _sentences(path, names)
        elif kind in COLUMNS:
            rows = columns(path, COLUMNS[kind], names)
        else:
            rows = json_rows(path) if kind == ".jsonl" else parquet_rows(path, names)
        for number, row in good(path, rows, self._problem, f"name its fields (now {' and '.join(names)})"):
            yield (
                passport(row, f"{path.name}:{number}", path.name, names),
                {field: row[name] for field, name in zip(self.fields, names)},
            )

    def _problem(self, row: Any) -> str:
        """Why a row lacks one of the fields, or an empty string."""
        for field in self.fields:
            name = field.removesuffix("[]")
            if field == name:
                if isinstance(row, dict) and isinstance(row.get(name), (int, float)):
                    row[name] = str(row[name])  # labels are often numbers
                if found := problem(row, name):
                    return found
            else:
                texts = row.get(name) if isinstance(row, dict) else None
                if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                    return f"no list of texts in field {name!r}"
        lists = {len(row[field.removesuffix("[]")]) for field in self.fields if field.endswith("[]")}
        return "lists of different lengths" if len(lists) > 1 else ""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the content and kind of the files and the way they are read, not over their names."""
        digest = hashlib.sha256(json.dumps([self.fields, self.start, self.stop]).encode())
        for path in (*self._files, *self.beside):
            digest.update(f"{kind_of(path, SUFFIXES)} {files.sha256(path)}\n".encode())
        return digest.hexdigest()

    def split(self, share: float) -> tuple[Self, Self]:
        """(training, held-out) examples: the last `share` is held out. Raises UserError when either is empty."""
        if not 0 < share < 1:
            raise UserError(f"a share of {share} cannot be held out", "give a share between 0 and 1, for example 0.1")
        total = sum(1 for _ in self)
        cut = int(total * (1 - share))
        if cut in (0, total):
            what = f"holding out a share of {share} of {total} examples leaves one part empty"
            raise UserError(what, "give more examples, another share, or a file of its own to hold out")
        return (
            replace(self, start=self.start, stop=self.start + cut),
            replace(self, start=self.start + cut, stop=self.start + total),
        )


def columns(path: Path, separator: str, names: Sequence[str], text: Iterable[str] | None = None) -> Iterator[Any]:
    """The lines of a csv or tsv file as mappings, of all columns if none is named; quotes count in csv files only.

    text: its lines, where they do not come from a file of UTF-8.
    """
    text = lines(decoded(path), path) if text is None else text
    if separator == ",":
        rows = csv.reader(text, strict=True)
    else:
        rows = csv.reader(text, delimiter=separator, quoting=csv.QUOTE_NONE, strict=True)
    numbered = bool(names) and all(name.isdecimal() for name in names)
    header: list[str] | None = None
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield ValueError(f"not csv ({error})")
            continue
        if header is None and not numbered:
            header = row
            if missing := [name for name in names if name not in header]:
                shown = ", ".join(repr(name[:40]) for name in header[:20])
                mend = f"name one of: {shown}; or a number, if the first line is no header"
                raise UserError(f"{path} has no column {missing[0]!r}", mend)
            continue
        keys = header or [str(number + 1) for number in range(len(row))]
        if len(row) >= len(keys):
            yield dict(zip(keys, row))
        elif row:
            yield ValueError(f"columns are missing ({len(row)} of {len(keys)} columns)")


def _sentences(path: Path, names: Sequence[str]) -> Iterator[Any]:
    """The sentences of a conll file: its first column as the first field, its last as the second."""
    rows: list[list[str]] = []
    for line in chain(lines(decoded(path), path), "\n"):
        columns = line.split()
        if columns and columns[0] != "-DOCSTART-":
            rows.append(columns)
        elif rows:
            short = next((row for row in rows if len(row) < len(names)), None)
            if short:
                yield ValueError(f"{' '.join(short)!r} has no tag")
            else:
                yield dict(zip(names, ([row[0] for row in rows], [row[-1] for row in rows])))
            rows = []
