"""Small C++ kernels that lie beside their Python users: compiled here on first use, kept, called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from idiolect import devices, files
from idiolect.cache import cache_folder, only_writer
from idiolect.errors import UserError

FLAGS = (
    *("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    # what vectors need of sums and divisions; NaN and infinity keep their meaning
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math"),
)
SECONDS = 120
"""A compiler that takes longer is given up."""


@functools.cache
def load(source: Path) -> ctypes.CDLL | None:
    """The functions of a C++ file; None, with one line on stderr, where it cannot be compiled.

    The first call on a machine compiles it (about two seconds) and keeps the result, under the hash of everything it
    depends on, in the cache folder; one that was damaged since is compiled again, as it would run. torch's own loader
    of extensions would need ninja and half a minute for torch's headers; these files have a C interface of pointers
    and need none.
    """
    compiler = devices.compiler()
    if compiler is None:
        return None
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
        parts = sorted(source.parent.glob("*.h"))  # what the file may include
        about = [*(part.read_bytes() for part in (source, *parts)), " ".join(FLAGS).encode(), version]
        about.append(devices.processor().encode())
        name = f"{source.stem}-{hashlib.sha256(b'|'.join(about)).hexdigest()[:16]}"
        return ctypes.CDLL(str(kept(folder() / name, lambda made: _compile(compiler, source, made))))
    except (OSError, subprocess.SubprocessError, UserError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        line = said.decode("utf-8", "replace").strip().splitlines()[0]
        print(f"{source.name} was not compiled; slower ways take its place: {line}", file=sys.stderr)
        return None


def folder() -> Path:
    """Where compiled kernels are kept."""
    return cache_folder() / "native"


def kept(target: Path, compiled: Callable[[Path], None]) -> Path:
    """The whole library in the folder `target`, which `compiled` makes when it is missing or damaged."""
    library = target / "kernel.so"
    if not _stands(target):
        with only_writer(target.parent):
            if not _stands(target):  # no other process did it while this one waited
                files.sweep(target.parent)
                if target.is_dir():
                    files.remove_folder(target)
                with files.new_folder(target) as new:
                    compiled(new / library.name)
    return library


def _stands(target: Path) -> bool:
    try:
        files.verify(target)
    except UserError:
        return False
    return True


def _compile(compiler: str, source: Path, target: Path) -> None:
    command = [compiler, *FLAGS, "-o", str(target), str(source)]
    subprocess.run(command, capture_output=True, check=True, timeout=SECONDS)
