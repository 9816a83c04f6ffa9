"""Bytes of unknown encoding as text."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte order marks, and what they stand for."""
SEVEN_BITS = ("iso2022", "hz")
"""How the names of encodings begin whose text looks like ASCII."""
SAMPLE = 128 << 10
"""Bytes that the encoding is guessed from."""


def mark(data: bytes) -> bytes:
    """The byte order mark that data begins with, or nothing."""
    return next((known for known in MARKS if data.startswith(known)), b"")


def unmarked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same content without a byte order mark; UTF-8 in place of UTF-16 or UTF-32 that has one."""
    pieces = iter(pieces)
    first = b""
    while len(first) < 4 and (piece := next(pieces, b"")):
        first += piece
    found = mark(first)
    rest = chain([first[len(found) :]], pieces)
    if MARKS.get(found, "utf-8") == "utf-8":
        yield from rest
        return
    decoder = codecs.getincrementaldecoder(MARKS[found])("replace")
    for piece in chain(rest, [b""]):
        yield decoder.decode(piece, final=not piece).encode("utf-8", "replace")


def decoded(data: bytes, declared: str) -> tuple[str, float]:
    """The text, and the share of its characters that are U+FFFD for what could not be decoded.

    A byte order mark decides; what is UTF-8 is UTF-8, as text of another encoding hardly ever is; then what is
    declared, if it is an encoding of the web (WHATWG, Encoding, section 4.2) and fits; then what it looks like.
    """
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    found = mark(data)
    if found:
        return _replaced(data[len(found) :], MARKS[found])
    stated = map_encoding_to_html5(declared, fallback_utf8=False) or ""
    guessed = [stated, "utf-8"] if stated.startswith(SEVEN_BITS) else ["utf-8", stated]
    for name in filter(None, guessed):
        try:
            return data.decode(name), 0.0
        except UnicodeDecodeError:
            continue
    ends = _replaced(data, "utf-8")
    if ends[1] < 0.001:  # a byte or two are wrong
        return ends
    return _replaced(data, detect_encoding(data, max_len=SAMPLE) or "cp1252")


def _replaced(data: bytes, encoding: str) -> tuple[str, float]:
    text = data.decode(encoding, "replace")
    return text, text.count("\ufffd") / max(1, len(text))
