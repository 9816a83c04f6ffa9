"""The files in zip and tar archives, as streams: nothing is written to the disk, no link is followed."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from idiolect.text.document import Drop
from idiolect.text.stream import CHUNK, UNPACK, Budget, Damaged, chunks

DIRECTORY = 32 << 20
"""Bytes of a zip file's table of contents, some 300,000 files; zipfile holds all of it, ten times as large."""
TAR_HEADER = 1 << 20
"""Bytes of a name, or of other extra fields, in a tar file."""
HELD = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X")
"""Headers whose content tarfile holds in memory; X is Solaris' name of extra fields."""
DAMAGED = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError)  # type: ignore[attr-defined]
"""What tarfile calls such headers; the others of its names stand for the end."""
ENDS = 16
"""How often a reader may ask for more after the end; tarfile asks until it is where a header's size points to."""


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    pieces: Iterator[bytes]
    """Its content, unpacked if its name says that it is packed. Iterating raises Damaged."""


class BadMember(NamedTuple):
    """A file in an archive that cannot be read."""

    name: str
    drop: Drop


class Stream(io.RawIOBase):
    """Pieces as a file that is read once from its beginning."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.held = b""
        self.at = 0
        self.ends = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, so many or fewer."""
        assert size is not None and size >= 0
        if self.at == len(self.held):
            self.held, self.at = next(self.pieces, b""), 0
            self.ends += not self.held
            if self.ends > ENDS:
                raise EOFError("it ends before it should")
        out = self.held[self.at : self.at + size]
        self.at += len(out)
        return out


def zip_members(path: Path) -> Iterator[Member | BadMember]:
    """The files in a zip file. Raises Damaged when it is none."""
    budget = Budget(path)
    try:
        with open(path, "rb") as file:
            _check_directory(path, file)
            with zipfile.ZipFile(file) as archive:
                for about in archive.infolist():
                    name = _shown(about.filename)
                    if about.is_dir():
                        continue
                    if about.flag_bits & 1:
                        yield BadMember(name, Drop("encrypted"))
                    elif about.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        yield BadMember(name, Drop("unknown compression", about.compress_type))
                    else:
                        yield Member(name, _content(path, name, budget, partial(archive.open, about)))
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise Damaged(f"{path} cannot be read as zip: {error}", "fetch or write the file again") from None


def _check_directory(path: Path, file: IO[bytes]) -> None:
    """Refuses a table of contents that would fill the memory, before zipfile reads it."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 66_000))  # the record of the end, and the longest comment after it
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    stated = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    if stated == 0xFFFFFFFF:  # it is in the record of zip64, which lies before
        at = tail.rfind(b"PK\x06\x06", 0, at)
        stated = int.from_bytes(tail[at + 40 : at + 48], "little") if at >= 0 else 0
    if stated > DIRECTORY:
        raise Damaged(f"{path} lists too many files ({stated >> 20} MB of names)", "unpack it, or make several of it")
    file.seek(0)


class Header(tarfile.TarInfo):
    """A header of a tar file. tarfile itself takes a damaged one for the end, and holds a name of any length."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):  # type: ignore[no-untyped-def]
        """The header in a block, as tarfile asks for it."""
        try:
            header = super().frombuf(buf, encoding, errors)
        except DAMAGED as error:
            raise tarfile.ReadError(str(error)) from None
        if header.size < 0 or (header.type in HELD and header.size > TAR_HEADER):
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


def tar_members(path: Path) -> Iterator[Member | BadMember]:
    """The files in a tar file, which may be packed. Raises Damaged when it is none, or from where on it is damaged."""
    budget = Budget(path)
    stream = Stream(chunks(path))
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK, tarinfo=Header) as archive:
            while about := archive.next():
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all, in an archive of any length
                name = _shown(about.name)
                if about.isdir():
                    continue
                if not about.isreg() or about.issparse():
                    yield BadMember(name, Drop("no plain file"))
                    continue
                yield Member(name, _content(path, name, budget, partial(archive.extractfile, about)))
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise Damaged(f"{path} cannot be read as tar: {error}", "fetch or write the file again") from None


def _content(path: Path, name: str, budget: Budget, opened: Callable[[], IO[bytes] | None]) -> Iterator[bytes]:
    """The content of a file in an archive, unpacked by its suffix."""
    try:
        with opened() or io.BytesIO() as file:
            pieces = budget.spend(iter(lambda: file.read(CHUNK), b""))
            unpack = UNPACK.get(Path(name).suffix.lower())
            yield from budget.spend(unpack(Stream(pieces))) if unpack else pieces
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise Damaged(f"{name} in {path} is damaged or cut off: {error}", "fetch the file again") from None


def _shown(name: str) -> str:
    """A name as one can print it: what has no printed form, half of a surrogate pair too, is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
