"""Files that are either whole or absent: written aside, flushed to disk, hashed, then renamed into place.

A folder becomes visible by one rename, after its manifest of SHA-256 hashes was written last. A reader that finds the
manifest and matching hashes has what the writer meant; anything else is named and refused.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from idiolect.errors import Exit, UserError

MANIFEST = "manifest.json"
FORMAT = 1
"""The version of the manifest's own layout; a reader refuses a newer one."""
TEMPORARY = ".partial-"
"""How the name of an unfinished file or folder begins; leftovers of a killed writer are removed by `sweep`."""


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turns the operating system's refusal to write `target` into a UserError with exit code 4."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        mend = "free some space and run it again" if full else "check the folder's permissions and the disk"
        raise UserError(f"cannot write {target}: {error.strerror or error}", mend, Exit.CANNOT_WRITE) from error


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Flushes a file's content to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` atomically. Raises UserError (exit 4) when the disk refuses; `path` is then as it was."""
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by UTF-8 `text` atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by `value` as indented JSON, atomically. Non-finite numbers are refused with ValueError."""
    write_text(path, to_json(value))


def to_json(value: Any) -> str:
    """`value` as indented JSON with a final newline."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """The JSON value in `path`. Raises UserError when the file is missing or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "check the path") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}", "restore the file from where it came") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, **about: Any) -> None:
    """Writes the manifest of every file now below `folder` (after flushing each), with `about` beside the hashes."""
    entries = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST):
        sync_file(path)
        entries[path.relative_to(folder).as_posix()] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    for path in [p for p in folder.rglob("*") if p.is_dir()]:
        sync_folder(path)
    data = to_json({"format": FORMAT, **about, "files": entries}).encode("utf-8")
    with open(folder / MANIFEST, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


@contextlib.contextmanager
def new_folder(target: Path, **about: Any) -> Iterator[Path]:
    """A temporary folder to write into; on leaving without an error it becomes `target`, whole, with its manifest.

    An existing `target` is moved aside and removed only after the new one stands. On an error nothing of the new
    folder remains. Raises UserError (exit 4) when the disk refuses.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{TEMPORARY}{target.name}-{uuid.uuid4().hex}")
        os.mkdir(temporary, 0o700)
    try:
        with writing(target):
            yield temporary
            write_manifest(temporary, **about)
            put_in_place(temporary, target)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(temporary: Path, target: Path) -> None:
    """Renames the finished folder `temporary` to `target`, replacing an older `target`, durably."""
    aside = None
    if target.exists():
        aside = target.with_name(f"{TEMPORARY}old-{uuid.uuid4().hex}")
        os.rename(target, aside)
    try:
        os.rename(temporary, target)
    except OSError:
        if aside is not None:
            os.rename(aside, target)
        raise
    sync_folder(target.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`. Raises UserError when the folder or the manifest is missing, unreadable or newer."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", "check the path")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise UserError(f"{folder / MANIFEST} is not a manifest", "restore the folder from where it came")
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{folder} has manifest format {manifest.get('format')}; this version reads {FORMAT}",
            "use the version of Idiolect that wrote it",
        )
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """Checks every file of `folder` against its manifest and returns the manifest.

    Raises UserError naming the first file that is missing, of another size or of other content.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            problem = "points outside the folder"
        elif not path.is_file():
            problem = "is missing"
        elif path.stat().st_size != entry.get("bytes"):
            problem = f"has {path.stat().st_size} bytes, not the {entry.get('bytes')} that were written"
        elif sha256(path) != entry.get("sha256"):
            problem = "was changed or damaged since it was written (its SHA-256 differs)"
        else:
            continue
        raise UserError(f"{path} {problem}", "restore it from a copy, or make it anew")
    return manifest


def sweep(folder: Path) -> None:
    """Removes what killed writers left unfinished directly in `folder`; only the folder's single writer calls it.

    A replaced folder moved aside without its successor in place is put back where the manifest says it was.
    """
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
