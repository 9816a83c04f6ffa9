"""Where encoded text is kept, and the lock that lets one process at a time write it; torch-free."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from idiolect import files


def cache_folder() -> Path:
    """$IDIOLECT_CACHE, or `idiolect` in the user's cache folder ($XDG_CACHE_HOME, ~/Library/Caches or ~/.cache)."""
    if given := os.environ.get("IDIOLECT_CACHE"):
        return Path(given).expanduser()
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "idiolect"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "idiolect"


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Waits until no other process writes in `folder`, then keeps others waiting until the block or the process ends.

    The lock is flock(2) on the file `lock` in the folder, which is made when missing. Raises UserError (exit 4).
    """
    with files.writing(folder):
        files.make_folder(folder)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with files.writing(folder):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process that writes {folder}", file=sys.stderr)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):  # nothing was written to it, and a failing close closes all the same
            os.close(handle)
