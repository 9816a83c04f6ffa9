"""Bytes of plain, gz and zst files as a stream of bounded memory, and the text lines in them."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from idiolect.errors import UserError, missing_extra

CHUNK = 1 << 20
"""Bytes read at once."""
LARGEST_LINE = 64 << 20
"""The longest line held in memory; a longer one is refused."""
BOMB_RATIO = 200
"""Decompressed over compressed bytes beyond which a file larger than BOMB_BYTES is refused."""
BOMB_BYTES = 64 << 20
"""Decompressed bytes that are allowed whatever the ratio."""
LARGEST_WINDOW = 1 << 27
"""Memory that a zst file may ask for."""
GZ_STEP = 1 << 17
"""Packed gz bytes taken at once."""
ZST_STEP = 1 << 10
"""Packed zst bytes taken at once; 4 of them can stand for 128 kB."""


class Damaged(UserError):
    """A file, or a file in an archive, is not what its packing says: what came before may be whole."""


class Bomb(Damaged):
    """It unpacks to far more than its size."""


class Budget:
    """The bytes that a packed file may unpack to, over all that lies in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size)

    def spend(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same pieces. Raises Bomb after as many as may be."""
        for piece in pieces:
            self.left -= len(piece)
            if self.left < 0:
                yield piece[: self.left]
                raise Bomb(
                    f"{self.path} unpacks to more than {BOMB_RATIO} times its size",
                    "unpack it yourself if you trust where it comes from",
                )
            yield piece


def chunks(path: Path, start: int = 0) -> Iterator[bytes]:
    """The content of `path`, from a byte on, decompressed by its suffix (.gz, .zst), in pieces of bounded size.

    Raises UserError when the file cannot be read, Damaged when it is cut off or damaged, or unpacks to more than
    BOMB_RATIO times its size.
    """
    packed = path.suffix.lower()
    try:
        with open(path, "rb") as file:
            file.seek(start)
            pieces = UNPACK.get(packed, _plain)(file)
            yield from Budget(path).spend(pieces) if packed in UNPACK else pieces
    except (EOFError, zlib.error) as error:
        raise Damaged(f"{path} is damaged or cut off: {error}", "fetch the file again") from None
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}", "check the path and its permissions"
        ) from None


def _plain(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    """Member by member, because the library's own reader keeps back what it read before a damage."""
    unpack = None
    while packed := file.read(GZ_STEP):
        while packed:
            unpack = unpack or zlib.decompressobj(zlib.MAX_WBITS | 16)
            while not unpack.eof and (chunk := unpack.decompress(packed, CHUNK)):
                yield chunk
                packed = unpack.unconsumed_tail
            if unpack.eof:
                packed, unpack = unpack.unused_data.lstrip(b"\0"), None
            else:
                packed = b""
    if unpack is not None:
        raise EOFError("the last member is not whole")


def _unzst(file: BinaryIO) -> Iterator[bytes]:
    """Frame by frame, because the package's own reader takes a frame that is cut off for the end of the file."""
    try:
        import zstandard
    except ImportError:
        raise missing_extra("data", "zstandard", "reading .zst files") from None
    frame = None
    try:
        while packed := file.read(ZST_STEP):
            while packed:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW).decompressobj()
                if chunk := frame.decompress(packed):
                    yield chunk
                packed = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from None
    if frame is not None:
        raise EOFError("the last frame is not whole")


UNPACK: dict[str, Callable[[Any], Iterator[bytes]]] = {".gz": _gunzip, ".tgz": _gunzip, ".zst": _unzst}
"""How a packed file is unpacked, by suffix."""


def decoded(path: Path) -> Iterator[str]:
    """The text of a UTF-8 file in pieces, without a byte order mark. Raises UserError naming the first bad byte."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, first = 0, True
    for chunk in chunks(path):
        text = _decode(decoder, chunk, False, path, offset)
        offset += len(chunk)
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        if text:
            yield text
    _decode(decoder, b"", True, path, offset)


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool, path: Path, offset: int) -> str:
    held = len(decoder.getstate()[0])
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {offset - held + error.start} does not belong there",
            "convert it first, for example with: iconv -f LATIN1 -t UTF-8",
        ) from None


def lines(pieces: Iterable[Any], path: Path, newline: Any = "\n") -> Iterator[Any]:
    """Cuts pieces of text (or bytes, with newline=b"\\n") after each newline; the last line may lack one.

    Raises UserError when a line is longer than LARGEST_LINE.
    """
    held: list[Any] = []
    length = 0
    for piece in pieces:
        first, *whole = piece.split(newline)
        held.append(first)
        length += len(first)
        if whole:
            yield newline[:0].join([*held, newline])
            rest = whole.pop()
            for line in whole:
                yield line + newline
            held, length = [rest], len(rest)
        if length > LARGEST_LINE:
            raise too_long(path)
    if length:
        yield newline[:0].join(held)


def too_long(path: Path) -> UserError:
    """The error for a line, paragraph or text that cannot be cut and does not fit into memory."""
    return UserError(
        f"{path} has more than {LARGEST_LINE >> 20} MB without a place to cut it (a newline or a space before a word)",
        "break its lines, or check that it is text",
    )
