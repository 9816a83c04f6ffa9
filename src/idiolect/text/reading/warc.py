"""Records of web archives (WARC and WET, ISO 28500), in bounded memory, whatever they say of their lengths.

No library reads them here: a record that lies must cost itself alone, and foreign bytes meet no native code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from idiolect.text.document import Drop

VERSION = re.compile(rb"WARC/\d\.\d\s*$")
NEXT = re.compile(rb"(?m)^WARC/\d\.\d\r?\n")
"""Where a record may begin: a version on a line of its own."""
END = re.compile(rb"\r?\n\r?\n|[\r\n]*(?:WARC/\d\.\d\r?\n|$)")
"""What may come after a block: an empty line, or, where a writer forgot that, another record or nothing."""
OVERLAP = 16
"""Bytes that show whether a record begins or ends."""
WINDOW = 64 << 10
"""Bytes that are looked at together; no header is longer."""


class Record(NamedTuple):
    """One record."""

    offset: int
    """Where it begins, in unpacked bytes."""
    header: dict[str, str]
    """Its fields; their names are in small letters."""
    block: bytes


class BadRecord(NamedTuple):
    """What could not be read as a record, and where it began."""

    offset: int
    drop: Drop


class Buffer:
    """Bytes that come in pieces, taken from the front."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.held = b""
        self.at = 0
        """How much of what is held was taken."""
        self.taken = 0

    def fill(self, size: int) -> int:
        """How many of so many bytes are there."""
        if (length := len(self.held) - self.at) < size:
            parts = [self.held[self.at :]]
            while length < size and (piece := next(self.pieces, None)) is not None:
                parts.append(piece)
                length += len(piece)
            self.held, self.at = b"".join(parts), 0
        return min(length, size)

    def take(self, size: int) -> bytes:
        """The next bytes, so many or all there are."""
        size = self.fill(size)
        self.at, self.taken = self.at + size, self.taken + size
        return self.held[self.at - size : self.at]

    def skip(self, size: int) -> bool:
        """Leaves out so many bytes; whether they were there."""
        while size and (some := len(self.take(min(size, max(WINDOW, len(self.held) - self.at))))):
            size -= some
        return not size

    def line(self) -> bytes:
        """The next line, not taken; what there is of one that is too long."""
        self.fill(WINDOW)
        end = self.held.find(b"\n", self.at, self.at + WINDOW) + 1
        return self.held[self.at : end or self.at + WINDOW]


def records(pieces: Iterator[bytes], largest: int, size: int | None = None) -> Iterator[Record | BadRecord]:
    """The records in an archive's unpacked bytes.

    A block of more than `largest` bytes is left out unread. After a record whose Content-Length is wrong, reading goes
    on at the next that can be found, also within what the length took in.

    size: the bytes there are, where that is known.
    """
    buffer = Buffer(pieces)
    while line := buffer.line():
        if line.strip():
            yield _record(buffer, largest, size)
        else:
            buffer.take(len(line))


def _record(buffer: Buffer, largest: int, size: int | None) -> Record | BadRecord:
    """The record that begins here; the buffer is then where the next may begin."""
    offset = buffer.taken
    header = _header(buffer)
    length = header.get("content-length", "") if header else ""
    if header is None or not (length.isascii() and length.isdecimal() and len(length) < 19):
        _resume(buffer)
        return BadRecord(offset, Drop("not a WARC record"))
    stated = int(length)
    if size is not None and buffer.taken + stated > size:
        _resume(buffer)
        return BadRecord(offset, Drop("wrong Content-Length", stated))
    if stated > largest:
        whole = buffer.skip(stated)
        _resume(buffer)
        return BadRecord(offset, Drop("too large" if whole else "cut off", stated))
    there = buffer.fill(stated + OVERLAP)
    if there >= stated and END.match(buffer.held, buffer.at + stated, buffer.at + there):
        return Record(offset, header, buffer.take(stated))
    _resume(buffer)
    return BadRecord(offset, Drop("cut off" if there < stated else "wrong Content-Length", stated))


def _header(buffer: Buffer) -> dict[str, str] | None:
    """The fields of a header, or None: there is none up to here."""
    version, lines, length = buffer.line(), [], 0
    buffer.take(len(version))
    if not VERSION.match(version):
        return None
    while (line := buffer.line()).strip():
        length += len(line)
        if (b":" not in line and line[:1] not in b" \t") or length > WINDOW:
            return None
        lines.append(buffer.take(len(line)))
    buffer.take(len(line))
    return fields(lines)


def fields(lines: list[bytes]) -> dict[str, str]:
    """The fields of a header's lines, the first of equal ones; their names are in small letters."""
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode("utf-8", "replace").partition(":")
        found.setdefault(name.strip().lower(), value.strip())
    return found


def _resume(buffer: Buffer) -> None:
    """Goes on to where a record may begin, or to the end."""
    while True:
        there = buffer.fill(WINDOW)
        if found := NEXT.search(buffer.held, buffer.at, buffer.at + there):
            buffer.take(found.start() - buffer.at)
            return
        buffer.take(there if there < WINDOW else there - OVERLAP)
        if there < WINDOW:
            return
