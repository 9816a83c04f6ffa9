"""The page or plain text in a record of a web archive, freed of what HTTP wrapped it in."""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

from idiolect.text.document import Drop
from idiolect.text.filtering.robots import reserves
from idiolect.text.reading.warc import Record, fields

TYPES = ("response", "resource", "conversion")
"""The records that hold a page; others say how it was got."""
HTML = ("text/html", "application/xhtml+xml")
PLAIN = ("text/plain", "text/markdown")
CHUNK_SIZE = re.compile(rb"\s*([0-9a-fA-F]{1,15})[^\n]*\n")
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:+-]{1,40})", re.ASCII | re.IGNORECASE)
RESERVING = ("x-robots-tag", "tdm-reservation")
"""HTTP headers by which a page may keep itself from training."""
LARGEST_HEADER = 64 << 10


class Payload(NamedTuple):
    """What a record holds."""

    html: bool
    """Whether it is a page, or plain text."""
    data: bytes
    charset: str
    """What it says its encoding is, or nothing."""
    reserved: dict[str, str]
    """The HTTP headers that keep it from training."""


def payload(record: Record, largest: int) -> Payload | Drop:
    """The page or text in a record of TYPES, of at most so many bytes."""
    stated = record.header.get("content-type", "")
    data, reserved = record.block, _reserved([])
    if stated.startswith("application/http") or record.header.get("warc-type") == "response":
        head, _, data = data.partition(b"\r\n\r\n") if b"\r\n\r\n" in data[:LARGEST_HEADER] else (b"", b"", data)
        status, *lines = head.split(b"\n")
        http = fields(lines)
        if (code := status.split()[1:2]) and code != [b"200"]:
            return Drop("HTTP status", code[0].decode("ascii", "replace"))
        stated = http.get("content-type", "")
        reserved = _reserved(lines)
        if "chunked" in http.get("transfer-encoding", "").lower():
            data = _joined(data)
        unpacked = _unpacked(data, http.get("content-encoding", "").lower(), largest)
        if isinstance(unpacked, Drop):
            return unpacked
        data = unpacked
    kind = record.header.get("warc-identified-payload-type", "") or stated.partition(";")[0].strip().lower()
    if kind not in HTML and kind not in PLAIN and (kind or not data.lstrip().startswith(b"<")):
        return Drop("no page or plain text", kind)
    charset = CHARSET.search(stated)
    return Payload(kind not in PLAIN, data, charset[1] if charset else "", reserved)


def _reserved(lines: list[bytes]) -> dict[str, str]:
    """Of a header's lines those that keep a page from training; a field may come more than once."""
    single = (fields([line]) for line in lines)
    return {name: value for one in single for name, value in one.items() if name in RESERVING and reserves(value, name)}


def _joined(data: bytes) -> bytes:
    """The content of HTTP chunks (RFC 9112, section 7.1); as it is when the archive's writer joined them already."""
    parts, at = [], 0
    while found := CHUNK_SIZE.match(data, at):
        size = int(found[1], 16)
        if not size:
            break
        parts.append(data[found.end() : found.end() + size])
        at = found.end() + size
    return b"".join(parts) if parts else data


def _unpacked(data: bytes, packed: str, largest: int) -> bytes | Drop:
    """The content of a packed body; as it is when the archive's writer unpacked it already."""
    if packed in ("", "identity") or data.lstrip().startswith(b"<"):
        return data
    if packed not in ("gzip", "x-gzip", "deflate"):
        return Drop("unknown compression", packed[:40])
    unpack = zlib.decompressobj(-zlib.MAX_WBITS if packed == "deflate" and data[:1] != b"\x78" else zlib.MAX_WBITS + 32)
    try:
        out = unpack.decompress(data, largest + 1)
    except zlib.error as error:
        return Drop("damaged page", str(error))
    return Drop("too large", len(data)) if len(out) > largest else out
