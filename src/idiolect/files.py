"""Files that are either whole or absent: written aside, flushed to disk, hashed, then renamed into place.

A folder becomes visible by one rename, after its manifest of SHA-256 hashes was written last. A reader that finds the
manifest and matching hashes has what the writer meant; anything else is named and refused. What this module creates,
only its owner may read (folders 0700, files 0600).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from idiolect.errors import Exit, UserError

MANIFEST = "manifest.json"
FORMAT = 1
"""The version of the manifest's own layout; a reader refuses a newer one."""
TEMPORARY = ".partial-"
"""How the name of an unfinished file or folder begins; leftovers of a killed writer are removed by `sweep`."""
REPLACED = ".replaced-"
"""How the name begins that a folder bears while its successor takes its place; `sweep` puts it back if none did."""


class Damaged(UserError):
    """What was written is not what is there: a file is missing, cut short or changed."""


class Full(UserError):
    """The disk, a quota or a limit leaves no room for what is to be written."""


def fault(point: str) -> str | None:
    """Acts out the fault that IDIOLECT_FAULT=kind@point asks for; does nothing unless IDIOLECT_TESTING=1.

    exit leaves at once with nothing cleaned up, as kill -9 does; hang stops the process until a signal moves it; io
    raises EIO; oom raises MemoryError. nan is the caller's to act out, so its name is returned.
    """
    if os.environ.get("IDIOLECT_TESTING") != "1":
        return None
    kind, _, where = os.environ.get("IDIOLECT_FAULT", "").partition("@")
    if where != point:
        return None
    if kind == "exit":
        os._exit(128 + signal.SIGKILL)
    if kind == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "io":
        raise OSError(errno.EIO, os.strerror(errno.EIO), point)
    if kind == "oom":
        raise MemoryError(f"IDIOLECT_FAULT {kind}@{point}")
    return kind


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turns the operating system's refusal to write `target` into a UserError with exit code 4.

    Libraries written in Rust (safetensors, tokenizers) report it as an exception of their own that ends in
    "(os error N)".
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if not isinstance(error, OSError) and not found:
            raise
        number = error.errno if isinstance(error, OSError) else int(found.group(1)) if found else None
        reason = os.strerror(number) if number else str(error)
        what = f"cannot write {target}: {reason}"
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Full(what, "free some space and run it again", Exit.CANNOT_WRITE) from error
        raise UserError(what, "check the folder's permissions and the disk", Exit.CANNOT_WRITE) from error


@contextlib.contextmanager
def reading(target: Path) -> Iterator[None]:
    """Turns the operating system's refusal to read `target` into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {target}: {error.strerror}", "check its permissions and the disk") from error


@contextlib.contextmanager
def understood(path: Path) -> Iterator[None]:
    """Turns what a value of another shape than expected raises into a UserError naming the file it was read from."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is not as Idiolect writes it ({reason})", "restore it from where it came") from error


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries, so that a rename in it survives a power cut."""
    _sync(folder)


def sync_file(path: Path) -> None:
    """Flushes a file's content to disk."""
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Creates `folder` and what is missing above it, so that they survive a power cut. Raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        if not folder.is_dir():  # a folder may be there by now: another process was as quick
            raise
    sync_folder(folder.parent)


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """The path of a file to make; on leaving without an error it becomes `target`, whole. The caller flushes it.

    On an error nothing remains, and an old `target` is as it was. Raises UserError (exit 4) when the disk refuses.
    """
    if target.is_dir():
        raise UserError(f"{target} is a folder, not a file", "choose another name")
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    with writing(target):
        make_folder(target.parent)
        try:
            yield temporary
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(target.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` atomically. Raises UserError (exit 4) when the disk refuses; `path` stays as it was."""
    with new_file(path) as temporary:
        write_new(temporary, data)


def write_new(path: Path, data: bytes) -> None:
    """Creates `path` with `data`, flushed to disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, data: bytes) -> None:
    """Writes all of `data` to an open file; the system may take it in parts."""
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


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
    if not path.exists():
        raise UserError(f"{path} does not exist", "check the path")
    try:
        with reading(path):
            return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}", "restore the file from where it came") from None


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, **about: Any) -> None:
    """Writes the manifest of every file now below `folder` (after flushing each), with `about` beside the hashes.

    The manifest ends with the SHA-256 of itself without that line, so that damage to it is seen too.
    """
    entries = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST):
        os.chmod(path, 0o600)
        sync_file(path)
        entries[path.relative_to(folder).as_posix()] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    for path in [p for p in folder.rglob("*") if p.is_dir()]:
        os.chmod(path, 0o700)
        sync_folder(path)
    body = {"format": FORMAT, **about, "files": entries}
    write_new(folder / MANIFEST, to_json({**body, "sha256": _digest(body)}).encode("utf-8"))
    sync_folder(folder)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(body).encode("utf-8")).hexdigest()


@contextlib.contextmanager
def new_folder(target: Path, **about: Any) -> Iterator[Path]:
    """A temporary folder to write into; on leaving without an error it becomes `target`, whole, with its manifest.

    An existing `target` is replaced and removed only after the new one stands. On an error nothing of the new
    folder remains and the old one is as it was. Raises UserError (exit 4) when the disk refuses, and UserError when
    `target` is something that this module did not write.
    """
    target = target.resolve() if target.is_symlink() or target.name in ("", "..") else target
    with writing(target):
        refuse_foreign(target)
    temporary = target.with_name(f"{TEMPORARY}{target.name}-{uuid.uuid4().hex}")
    with writing(target):
        try:
            make_folder(target.parent)
            os.mkdir(temporary, 0o700)
            fault(f"{target.name}:write")
            yield temporary
            fault(f"{target.name}:manifest")
            write_manifest(temporary, **about)
            fault(f"{target.name}:rename")
            put_in_place(temporary, target)
            fault(f"{target.name}:placed")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_foreign(folder: Path) -> None:
    """Raises UserError when replacing `folder` would delete anything that its manifest does not name."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder", "choose another name")
    foreign = {path.name for path in folder.iterdir()}
    if MANIFEST in foreign:
        foreign -= {MANIFEST, *(name.split("/")[0] for name in read_manifest(folder)["files"])}
    if foreign:
        raise UserError(
            f"{folder} holds {min(foreign)}, which is not known to be written by Idiolect",
            "choose another folder, or move what is in it",
        )


def put_in_place(temporary: Path, target: Path) -> None:
    """Renames the finished folder `temporary` to `target`, durably; an old `target` goes only once the new one stands.

    Where the kernel can swap two names, the old one is then called `temporary`, for the caller to remove. Elsewhere
    it is set aside under a name from which `sweep` and `read_manifest` bring it back.
    """
    aside = target.with_name(f"{REPLACED}{target.name}")
    swapped = target.exists() and _swap(temporary, target)
    try:
        if not swapped:
            if target.exists():
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(target, aside)
            os.rename(temporary, target)
        sync_folder(target.parent)
    except OSError:
        with contextlib.suppress(OSError):  # the new folder may not survive a power cut, so the old one comes back
            if swapped:
                _swap(temporary, target)
            elif target.exists() and not temporary.exists():
                os.rename(target, temporary)
        _restore(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _swap(one: Path, other: Path) -> bool:
    """Swaps two names in one step; False where the system cannot (it needs Linux's renameat2)."""
    import ctypes

    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _restore(target: Path) -> None:
    """Gives a folder its name back when its replacement was cut short between two renames."""
    if not target.exists():
        with contextlib.suppress(OSError):
            os.rename(target.with_name(f"{REPLACED}{target.name}"), target)


def remove_folder(folder: Path) -> None:
    """Removes `folder`; at no moment is a part of it visible under its name. Raises UserError (exit 4)."""
    with writing(folder):
        aside = folder.with_name(f"{TEMPORARY}{folder.name}-{uuid.uuid4().hex}")
        os.rename(folder, aside)
        try:
            sync_folder(folder.parent)
        except OSError:  # a power cut could bring the name back, so nothing below it may go
            os.rename(aside, folder)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Clears what killed writers left directly in `folder`; only the folder's single writer calls it.

    Unfinished files and folders are removed. A folder that was set aside for a successor that never came gets its
    name back. Raises UserError (exit 4) when the system refuses.
    """
    with writing(folder):
        for path in folder.glob(f"{REPLACED}*"):
            _restore(path.with_name(path.name.removeprefix(REPLACED)))
        for path in [*folder.glob(f"{TEMPORARY}*"), *folder.glob(f"{REPLACED}*")]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`.

    Raises Damaged when it is missing, unreadable or changed, UserError when there is no folder or its format is newer.
    """
    _restore(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", "check the path")
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
        manifest = json.loads(raw)
        digest = manifest.pop("sha256")
        whole = _digest(manifest) == digest and to_json({**manifest, "sha256": digest}).encode("utf-8") == raw
    except FileNotFoundError:
        raise Damaged(f"{folder} has no {MANIFEST}", "check the path, or make the folder anew") from None
    except OSError as error:
        raise Damaged(f"cannot read {path}: {error.strerror}", "check its permissions and the disk") from None
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        whole = False
    if not whole or not isinstance(manifest.get("files"), dict):
        raise Damaged(f"{path} was changed or damaged since it was written", "restore it from a copy, or make it anew")
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{folder} has manifest format {manifest.get('format')}; this version reads {FORMAT}",
            "use the version of Idiolect that wrote it",
        )
    return dict(manifest)


def verify(folder: Path, only: Collection[str] | None = None) -> dict[str, Any]:
    """Checks every file of `folder`, or those named in `only`, against its manifest and returns the manifest.

    Raises Damaged naming the first file that is missing, unreadable, of another size or of other content.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest["files"].items():
        if only is not None and name not in only:
            continue
        path = folder / name
        try:
            problem = _problem(path, folder, entry)
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if problem:
            raise Damaged(f"{path} {problem}", "restore it from a copy, or make it anew")
    return manifest


def _problem(path: Path, folder: Path, entry: dict[str, Any]) -> str | None:
    if not path.resolve().is_relative_to(folder.resolve()):
        return "points outside the folder"
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != entry["bytes"]:
        return f"has {path.stat().st_size} bytes, not the {entry['bytes']} that were written"
    if sha256(path) != entry["sha256"]:
        return "was changed or damaged since it was written (its SHA-256 differs)"
    return None
