"""Documents out of what was crawled or collected: rows, web pages, web archives, archives of files.

Other than `read`, which serves training and takes clean text only, it goes on after what cannot be read and says what
that was. Documents are whole. Each has an id that is its place: the file's name, the name and number of a file in an
archive, and where it begins: the byte of a jsonl row, plain text or record, the number of a csv or parquet row.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import functools
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from idiolect.errors import UserError, missing_extra
from idiolect.text.document import Document, Drop
from idiolect.text.examples import COLUMNS, columns
from idiolect.text.filtering.language import code
from idiolect.text.read import BAD_AT_ONCE, PACKED, PLAIN, files_of, json_value, kind_of, problem
from idiolect.text.reading.archives import BadMember, tar_members, zip_members
from idiolect.text.reading.child import Child, Lost, child
from idiolect.text.reading.encoding import mark, unmarked
from idiolect.text.reading.warc import BadRecord, records
from idiolect.text.reading.web import TYPES, Payload, payload
from idiolect.text.settings import ReadingSettings
from idiolect.text.stream import Bomb, Damaged, chunks

ARCHIVES = (".zip", ".tar", ".tgz")
PAGES = (".html", ".htm", ".xhtml")
RAW = (*PLAIN, ".jsonl", *COLUMNS, ".parquet", *PAGES, ".warc", ".wet", *ARCHIVES)
"""The suffixes of what is read."""
BLANK = "no text"
"""Why nothing came of a record that can be read."""
PARQUET_SECONDS = 120.0
"""Time for the next rows of a parquet file."""
MOST_LOST = 0.01
"""The share of a text's characters that may have been lost in decoding it."""
HALVES = (b"\\ud", b"\\uD", b"\xed")
"""How half of a surrogate pair begins in a line of JSON, among other characters."""
SAID = {"url": "warc-target-uri", "date": "warc-date", "language": "warc-identified-content-language"}
"""Where a record says where its page is from."""
NAMES = {"license": "licence", "lang": "language"}
"""Other names of columns that say where a text is from."""


class Unread(NamedTuple):
    """A record that could not be read, or holds nothing to read."""

    id: str
    """Its place, as a document has it."""
    source: str
    """The path of the file it is in."""
    drop: Drop


class Blob(NamedTuple):
    """A file, also one in an archive."""

    name: str
    """What its documents' ids begin with."""
    source: str
    kind: str
    pieces: Iterator[bytes]
    """Its content, unpacked."""
    path: Path | None
    """Where it lies on the disk unpacked."""


Found = Iterator[Document | Unread]


def raw_files(paths: Iterable[Path | str]) -> tuple[list[Path], list[Path]]:
    """The files in `paths` that can be read, and those in folders that cannot, such as images; both in order.

    Raises UserError for what does not exist, and for a file of an unknown kind that is named itself.
    """
    found = files_of(paths, RAW, any_found=True)
    return [file for file in found if kind_of(file, RAW)], [file for file in found if not kind_of(file, RAW)]


def stretches(path: Path, size: int) -> list[tuple[int, int | None]]:
    """Ranges of bytes, of about `size`, that `raw_documents` can read apart: of a plain jsonl file; else all of it."""
    if path.suffix.lower() != ".jsonl":
        return [(0, None)]
    starts = range(0, max(1, path.stat().st_size), size)
    return [(start, start + size if start != starts[-1] else None) for start in starts]


def raw_documents(
    path: Path, settings: ReadingSettings, start: int = 0, stop: int | None = None, *, name: str = ""
) -> Found:
    """The documents of a file, or of the rows that begin in a stretch of it, and what in it could not be read.

    metadata: `url`, `date`, `licence`, `language` where the file says so, and the other columns of rows.
    name: what the ids begin with, else the file's name; two files' must differ if their documents' are to.

    Raises UserError when the file cannot be opened, lacks the field, or, read as a whole, has more bad rows than
    `max_bad` (for stretches, add up and call `judge`).
    """
    name, kind = name or path.name, kind_of(path, RAW)
    whole = not start and stop is None
    try:
        if kind in ARCHIVES:
            yield from _members(path, name, kind, settings)
        elif whole:
            plain = path if path.suffix.lower() not in PACKED else None
            yield from READERS[kind](Blob(name, str(path), kind, chunks(path), plain), settings)
        else:
            blob = Blob(name, str(path), kind, chunks(path, max(0, start - 1)), path)
            yield from _rows(blob, _json_rows(blob, settings, start, stop), settings, judged=False)
    except Damaged as error:
        yield Unread(name, str(path), Drop("damaged file", error.what))


def judge(source: str, bad: int, rows: int, first: str, settings: ReadingSettings) -> None:
    """Raises UserError when too many of a file's rows are bad; `first` says what the first bad one is."""
    if bad > settings.max_bad * rows:
        hint = f"mend the file, name the field that holds the text (now {settings.field!r}), or raise read.max_bad"
        raise UserError(f"{source}: {bad} of {rows} rows cannot be read ({first})", hint)


def _members(path: Path, name: str, kind: str, settings: ReadingSettings) -> Found:
    """What is found in the files of an archive; one that is damaged costs itself only."""
    for number, member in enumerate(zip_members(path) if kind == ".zip" else tar_members(path)):
        inside, parts = Path(member.name), Path(member.name).parts
        place, source = f"{name}:{number}/{member.name}", f"{path}/{member.name}"
        if isinstance(member, BadMember):
            yield Unread(place, source, member.drop)
        elif ".." in parts or inside.is_absolute():
            yield Unread(place, source, Drop("name outside its archive"))
        elif any(part.startswith(".") for part in parts):
            continue
        elif (kind := kind_of(inside, RAW)) in ("", *ARCHIVES):
            yield Unread(place, source, Drop("archive in an archive" if kind else "unknown kind", inside.suffix[:20]))
        else:
            try:
                yield from READERS[kind](Blob(place, source, kind, member.pieces, None), settings)
            except Bomb:
                raise
            except Damaged as error:
                yield Unread(place, source, Drop("damaged file", error.what))


def _whole(blob: Blob, settings: ReadingSettings) -> bytes | Drop:
    """All of a file's content."""
    parts, length = [], 0
    for piece in blob.pieces:
        parts.append(piece)
        length += len(piece)
        if length > settings.largest:
            return Drop("too large", length)
    return b"".join(parts)


def _document(blob: Blob, place: int, text: str | Drop, metadata: dict[str, Any] | None = None) -> Document | Unread:
    """A document at a place in its file, unless there is none."""
    if isinstance(text, str) and not text.strip():
        text = Drop(BLANK)
    if isinstance(text, Drop):
        return Unread(f"{blob.name}:{place}", blob.source, text)
    metadata = metadata or {}
    if "language" in metadata:
        metadata["language"] = code(metadata["language"])
    return Document(text, f"{blob.name}:{place}", blob.source, metadata=metadata)


def _plain(blob: Blob, settings: ReadingSettings) -> Found:
    """The documents of a plain text."""
    if settings.document == "file":
        data = _whole(blob, settings)
        yield _document(blob, 0, data if isinstance(data, Drop) else _text(data, "", settings))
        return
    units = _lines(unmarked(blob.pieces), settings.largest)
    for offset, unit in units if settings.document == "line" else _paragraphs(units, settings.largest):
        if unit is None or unit.strip():
            text = Drop("too large") if unit is None else _text(unit.rstrip(b"\r\n"), "", settings)
            yield _document(blob, offset, text)


def _paragraphs(units: Iterable[tuple[int, bytes | None]], largest: int) -> Iterator[tuple[int, bytes | None]]:
    """Lines joined to paragraphs, which blank lines set apart; None for one that is too large."""
    held: list[bytes] = []
    begin, length = 0, 0
    for offset, line in chain(units, [(0, b"")]):
        if line is None or line.strip():
            begin = begin if length else offset
            length += largest + 1 if line is None else len(line)
            held = [*held, line] if line is not None and length <= largest else []
        elif length:
            yield begin, b"".join(held) if length <= largest else None
            held, length = [], 0


def _lines(pieces: Iterable[bytes], largest: int, offset: int = 0) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its newline and the place of its first byte; None for one of more than `largest` bytes."""
    held: list[bytes] = []
    length = 0
    for piece in chain(pieces, [b""]):
        lines = piece.split(b"\n")
        rest = lines.pop()
        for line in lines:
            size = length + len(line) + 1
            if held:
                line, held = b"".join([*held, line]), []
            yield offset, line + b"\n" if size <= largest else None
            offset, length = offset + size, 0
        length += len(rest)
        if length > largest:
            held = []
        elif rest:
            held.append(rest)
    if length:
        yield offset, b"".join(held) if length <= largest else None


def _rows(blob: Blob, rows: Iterable[tuple[int, Any]], settings: ReadingSettings, judged: bool = True) -> Found:
    """The documents of rows: mappings, or a ValueError saying why the row could not be read."""
    bad, number, first = 0, 0, ""
    for number, (place, row) in enumerate(rows, 1):
        said = str(row) if isinstance(row, ValueError) else problem(row, settings.field)
        if not said and len(row[settings.field]) > settings.largest:
            said = "too large"
        if said:
            bad += 1
            first = first or f"row {number}: {said}"
            reason, _, value = said.partition(" (")
            yield _document(blob, place, Drop(reason, value.removesuffix(")") or None))
            if judged and number > BAD_AT_ONCE:
                judge(blob.source, bad, number, first, settings)
        else:
            text = row.pop(settings.field)
            yield _document(blob, place, text, _metadata(row))
    if judged:
        judge(blob.source, bad, number, first, settings)


def _metadata(row: dict[str, Any]) -> dict[str, Any]:
    """The other fields of a row: those that say where the text is from are texts, under one name."""
    for other, name in NAMES.items():
        if other in row and name not in row:
            row[name] = row.pop(other)
    for name in ("url", "date", "licence", "language"):
        value = row.pop(name, None)
        if value not in (None, ""):
            row[name] = str(value)
    return row


def _json_rows(
    blob: Blob, settings: ReadingSettings, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, Any]]:
    """Each line's place and JSON value, or a ValueError: why it has none; of those that begin in the stretch.

    The content begins a byte before `start`, which tells whether a line begins there.
    """
    for place, line in _lines(blob.pieces, settings.largest, max(0, start - 1)):
        if stop is not None and place >= stop:
            return
        if place >= start:
            if line is None:
                yield place, ValueError("too large")
            elif line.strip():
                row = json_value(line)
                if any(half in line for half in HALVES) and not isinstance(row, ValueError) and not _is_utf8(row):
                    row = ValueError("half of a surrogate pair")
                yield place, row


def _json(blob: Blob, settings: ReadingSettings) -> Found:
    return _rows(blob, _json_rows(blob, settings), settings)


def _table(blob: Blob, settings: ReadingSettings) -> Found:
    """The documents of a csv or tsv file."""
    csv.field_size_limit(max(csv.field_size_limit(), settings.largest))
    lines = _lines(unmarked(blob.pieces), settings.largest)
    # map, unlike a generator, goes on after it raised
    rows = columns(Path(blob.source), COLUMNS[blob.kind], [settings.field], map(_table_line, lines))
    utf8 = (row if isinstance(row, ValueError) or _is_utf8(row) else ValueError("not UTF-8") for row in rows)
    return _rows(blob, enumerate(utf8), settings)


def _is_utf8(row: Any) -> bool:
    """Whether all texts in a row can be written as UTF-8: none has half of a surrogate pair."""
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _table_line(found: tuple[int, bytes | None]) -> str:
    """A line as text; bytes that are no UTF-8 become halves of surrogate pairs, which no row may have."""
    if found[1] is None:
        raise csv.Error("too large")
    return found[1].decode("utf-8", "surrogateescape")


def _parquet(blob: Blob, settings: ReadingSettings) -> Found:
    """The documents of a parquet file, which a child reads."""
    return _rows(blob, enumerate(_parquet_rows(blob, settings)), settings)


def _parquet_rows(blob: Blob, settings: ReadingSettings) -> Iterator[Any]:
    reader = Child()
    with tempfile.NamedTemporaryFile(suffix=".parquet") as unpacked:
        if blob.path is None:
            for piece in blob.pieces:
                unpacked.write(piece)
            unpacked.flush()
        file = str(blob.path or unpacked.name)
        try:
            for about, body in reader.answers(
                "parquet", {"fields": [settings.field]}, os.fsencode(file), PARQUET_SECONDS
            ):
                if "refused" in about:
                    what, mend = about["refused"]
                    raise (Damaged if about["damaged"] else UserError)(what.replace(file, blob.source), mend)
                yield from json.loads(body)
        except (Lost, ValueError) as error:
            raise Damaged(f"{blob.source} cannot be read as parquet: it {error}", "write the file again") from None
        finally:
            reader.close()


def _html(blob: Blob, settings: ReadingSettings) -> Found:
    """The document of a web page."""
    data = _whole(blob, settings)
    yield _document(blob, 0, *((data, None) if isinstance(data, Drop) else _page(data, "", settings)))


def _warc(blob: Blob, settings: ReadingSettings) -> Found:
    """The documents in the records of a web archive."""
    size = blob.path.stat().st_size if blob.path else None
    for record in records(blob.pieces, settings.largest, size):
        if isinstance(record, BadRecord):
            yield _document(blob, record.offset, record.drop)
        elif record.header.get("warc-type") in TYPES:
            held = payload(record, settings.largest)
            metadata: dict[str, Any] = {}
            if isinstance(held, Drop):
                text: str | Drop = held
            elif held.html:
                text, metadata = _page(held.data, held.charset, settings)
            else:
                text = _text(held.data, held.charset, settings)
            if isinstance(held, Payload):
                metadata |= held.reserved
            said = {name: record.header[field].strip("<>") for name, field in SAID.items() if record.header.get(field)}
            yield _document(blob, record.offset, text, metadata | said)


def _text(data: bytes, charset: str, settings: ReadingSettings) -> str | Drop:
    """The text in bytes of an unknown encoding."""
    if mark(data) in (b"", codecs.BOM_UTF8):
        with contextlib.suppress(UnicodeDecodeError):  # the rest is guessed in a child
            return data.decode("utf-8-sig")
    return _asked("decode", {"charset": charset}, data, settings)[0]


def _page(data: bytes, charset: str, settings: ReadingSettings) -> tuple[str | Drop, dict[str, Any]]:
    """The text of a page, and its metadata."""
    return _asked("page", {"charset": charset, "main": settings.html == "main"}, data, settings)


def _asked(
    job: str, about: dict[str, Any], data: bytes, settings: ReadingSettings
) -> tuple[str | Drop, dict[str, Any]]:
    """A text that a child reads, and what else it found."""
    _check_installed()
    try:
        found, body = child().ask(job, about, data, settings.deadline)
    except Lost as error:
        return Drop(str(error), len(data)), {}
    except ValueError as error:
        return Drop("cannot be read", str(error)), {}
    lost = found.pop("lost")
    return (Drop("unknown encoding", lost) if lost > MOST_LOST else body.decode("utf-8")), found


@functools.cache
def _check_installed() -> None:
    if importlib.util.find_spec("resiliparse") is None:
        raise missing_extra("data", "resiliparse", "reading web pages and text that is not UTF-8")


READERS: dict[str, Callable[[Blob, ReadingSettings], Found]] = {
    **dict.fromkeys(PLAIN, _plain),
    **dict.fromkeys(COLUMNS, _table),
    **dict.fromkeys(PAGES, _html),
    **dict.fromkeys((".warc", ".wet"), _warc),
    ".jsonl": _json,
    ".parquet": _parquet,
}
"""How each kind of file is read."""
