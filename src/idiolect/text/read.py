"""Documents from files of many kinds: txt, md, jsonl and parquet, each also as gz and zst, larger than memory."""

from __future__ import annotations

import glob
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from idiolect import files
from idiolect.errors import UserError, missing_extra
from idiolect.text.document import Document
from idiolect.text.stream import LARGEST_LINE, Damaged, chunks, decoded, lines, too_long

log = logging.getLogger(__name__)

Unit = Literal["file", "paragraph", "line"]
"""What one document of a plain text file is."""
PLAIN = (".txt", ".md")
SUFFIXES = (*PLAIN, ".jsonl", ".parquet")
PACKED = (".gz", ".zst")
PART = 2 << 20
"""Characters after which a long plain text is cut at the next good place."""
CUT = re.compile(r"(?<=\S\n)(?=\w)")
"""A good place: after a lone newline, before a word. No tokenizer of ours has a token across it."""
SECOND_CUT = re.compile(r"(?<=\S)(?= \w)")
"""The next best place, for text without such newlines: before a lone space. It too lies between tokens."""
DUCKDB: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,  # each thread holds a whole group of rows
    "enable_external_file_cache": "false",  # nothing is read twice
    "autoinstall_known_extensions": "false",  # nothing is fetched
}
CORPUS = "corpus"
"""What the manifest of a folder says that `idiolect curate` made."""
KEPT, DROPPED = "text", "dropped"
"""Its folders: the documents, and what was left out."""
MAX_BAD = 0.01
"""The share of a file's rows that may be unreadable."""
BAD_AT_ONCE = 1000
"""Records read before too large a share of bad ones stops the reading; smaller files are judged at their end."""


def kind_of(path: Path, suffixes: Sequence[str] = SUFFIXES) -> str:
    """The suffix that says how `path` is read, packing apart; empty when it is none of `suffixes`."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    suffix = Path(name).suffix
    return suffix if suffix in suffixes else ""


def files_of(
    paths: Iterable[Path | str], suffixes: Sequence[str] = SUFFIXES, *, any_named: bool = False, any_found: bool = False
) -> list[Path]:
    """The files in `paths`, in order; folders are walked, sorted by name, hidden files left out; none comes twice.
    Of a corpus that was curated they are its shards.

    Raises UserError for what does not exist and for files of an unknown kind; with `any_named` a file that is named
    itself may be of any, with `any_found` one that lies in a folder.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        try:
            exists = path.exists()
        except OSError as error:  # a name that is too long
            raise UserError(f"{str(path)[:99]!r} is no path: {error.strerror}", "check the path") from None
        if not exists:
            raise UserError(f"{path} does not exist", "check the path")
        below = path / KEPT if _is_corpus(path) else path
        inside = [p for p in below.rglob("*") if p.is_file() and not _hidden(p.relative_to(path))]
        for file in sorted(inside) if path.is_dir() else [path]:
            if not kind_of(file, suffixes) and not (any_named if file == path else any_found):
                known = ", ".join(suffixes)
                raise UserError(
                    f"{file} is of no kind that can be read", f"give {known} files (also {', '.join(PACKED)})"
                )
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _is_corpus(folder: Path) -> bool:
    return (folder / files.MANIFEST).is_file() and files.read_manifest(folder).get("kind") == CORPUS


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def read(
    paths: Iterable[Path | str], *, document: Unit = "file", field: str = "text", max_bad: float = MAX_BAD
) -> Iterator[Document]:
    """The documents of the files in `paths`, one after the other, blank ones left out, in bounded memory.

    document: what one document of a plain text file is. A text of more than PART characters comes in parts.
    field: the field of a jsonl or parquet row that holds the text.
    max_bad: the share of a file's rows that may be unreadable; they are left out, counted and logged.

    Raises UserError for a plain text that is not UTF-8 (file and byte), for damaged or bomb-like packed files, for
    lines longer than 64 MB, for too many bad rows, and when there is no text at all.
    """
    readers: dict[str, Callable[[Path], Iterator[Document]]] = {
        **dict.fromkeys(PLAIN, lambda path: _plain(path, document)),
        ".jsonl": lambda path: _rows(path, json_rows(path), field, max_bad),
        ".parquet": lambda path: _rows(path, parquet_rows(path, [field]), field, max_bad),
    }
    empty = True
    for path in files_of(paths):
        for found in readers[kind_of(path)](path):
            empty = False
            yield found
    if empty:
        raise UserError("there is no text in the given files: an empty corpus", "give files with text in them")


def _plain(path: Path, document: Unit) -> Iterator[Document]:
    """The documents of a plain text file."""
    name, source = path.name, str(path)
    if document == "file":
        parts = _parts(decoded(path), path)
        held = next(parts, None)
        while held is not None:
            after = next(parts, None)
            yield Document(held, f"{name}:0", source, last=after is None)
            held = after
        return
    units = lines(decoded(path), path)
    if document == "paragraph":
        units = _paragraphs(units, path)
    number = 0
    for unit in units:
        text = unit.rstrip("\r\n")
        if text and not text.isspace():
            yield Document(text, f"{name}:{number}", source)
            number += 1


def _parts(pieces: Iterable[str], path: Path) -> Iterator[str]:
    """Joins pieces to parts of at least PART characters cut at a good place; nothing when the whole is blank."""
    held: list[str] = []
    length, due = 0, PART
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length < due:
            continue
        text = "".join(held)
        while len(text) >= PART and (cut := CUT.search(text, PART)):
            yield text[: cut.start()]
            text = text[cut.start() :]
        while len(text) >= 2 * PART and (cut := SECOND_CUT.search(text, PART)):
            yield text[: cut.start()]
            text = text[cut.start() :]
        if len(text) > LARGEST_LINE:
            raise too_long(path)
        held, length = [text], len(text)
        due = PART if length < PART else min(2 * length, LARGEST_LINE + 1)  # what has no cut is not searched each time
    text = "".join(held)
    if text.strip():
        yield text


def _paragraphs(units: Iterable[str], path: Path) -> Iterator[str]:
    """Lines joined to paragraphs, which blank lines set apart."""
    held: list[str] = []
    length = 0
    for line in units:
        if line.strip():
            held.append(line)
            length += len(line)
            if length > LARGEST_LINE:
                raise too_long(path)
        elif held:
            yield "".join(held)
            held, length = [], 0
    yield "".join(held)


def _rows(path: Path, rows: Iterable[Any], field: str, max_bad: float) -> Iterator[Document]:
    """The documents of rows: mappings, or a ValueError saying why the row could not be read."""
    hint = f"name the field that holds the text (now {field!r})"
    for number, row in good(path, rows, lambda row: problem(row, field), hint, max_bad):
        if row[field].strip():
            rest = {key: value for key, value in row.items() if key != field}
            yield Document(row[field], f"{path.name}:{number}", str(path), metadata=rest)


def good(
    path: Path, rows: Iterable[Any], problem_of: Callable[[Any], str], hint: str, max_bad: float = MAX_BAD
) -> Iterator[tuple[int, Any]]:
    """(number, row) of the rows of a file that can be used; others are left out, counted and logged.

    A row is a value, or a ValueError saying why it could not be read. Raises UserError, with the hint, when more than
    `max_bad` of them are bad.
    """
    bad, number, first = 0, -1, ""
    for number, row in enumerate(rows):
        found = str(row) if isinstance(row, ValueError) else problem_of(row)
        if not found:
            yield number, row
            continue
        bad += 1
        first = first or f"row {number + 1}: {found}"
        if number >= BAD_AT_ONCE and bad > max_bad * (number + 1):
            break
    if not bad:
        return
    if bad > max_bad * (number + 1):
        raise UserError(f"{path}: {bad} of {number + 1} rows cannot be read ({first})", f"mend the file, or {hint}")
    log.warning("%s: left out %d of %d rows (%s)", path, bad, number + 1, first)


def problem(row: Any, field: str) -> str:
    """Why a row holds no text in the field, or an empty string."""
    if not isinstance(row, dict):
        return "not an object"
    text = row.get(field)
    if not isinstance(text, str):
        return f"no text in field {field!r}"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "half of a surrogate pair"
    return ""


def json_rows(path: Path) -> Iterator[Any]:
    """Each line's JSON value, or a ValueError: why it has none; blank lines are left out."""
    for line in lines(chunks(path), path, b"\n"):
        if not line.strip():
            continue
        yield json_value(line)


def json_value(text: bytes) -> Any:
    """The value that a text of JSON stands for, or a ValueError: why it stands for none."""
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except UnicodeDecodeError:
        return ValueError("not UTF-8")
    except (ValueError, RecursionError) as error:
        return ValueError(f"not JSON ({error})")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without repeated keys."""
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key comes twice")
    return out


def parquet_rows(path: Path, fields: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file; a packed one is unpacked beside the system's temporary files first.

    Raises UserError when a column is missing.
    """
    try:
        import duckdb
    except ImportError:
        raise missing_extra("data", "duckdb", "reading parquet") from None
    with tempfile.NamedTemporaryFile(suffix=".parquet") as unpacked:
        if path.suffix.lower() in PACKED:
            for chunk in chunks(path):
                unpacked.write(chunk)
            unpacked.flush()
        file = unpacked.name if path.suffix.lower() in PACKED else str(path)
        try:
            with duckdb.connect(config=DUCKDB) as connection:
                result = connection.execute("SELECT * FROM read_parquet(?)", [glob.escape(file)])
                names = [column[0] for column in result.description]
                if missing := [field for field in fields if field not in names]:
                    raise UserError(f"{path} has no column {missing[0]!r}", f"name one of: {', '.join(names)}")
                while rows := result.fetchmany(256):
                    yield from (dict(zip(names, row, strict=True)) for row in rows)
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise Damaged(f"{path} cannot be read as parquet: {reason}", "fetch or write the file again") from None
