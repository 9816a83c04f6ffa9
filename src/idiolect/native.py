"""Small C++ kernels that lie beside their Python users: compiled here on first use, kept, called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from idiolect import devices
from idiolect.cache import cache_folder

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
    depends on, in the cache folder; two processes may do so at once. torch's own loader of extensions would need ninja
    and half a minute for torch's headers; these files have a C interface of pointers and need none.
    """
    compiler = devices.compiler()
    if compiler is None:
        return None
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
        parts = sorted(source.parent.glob("*.h"))  # what the file may include
        about = [*(part.read_bytes() for part in (source, *parts)), " ".join(FLAGS).encode(), version]
        about.append(devices.processor().encode())
        name = f"{source.stem}-{hashlib.sha256(b'|'.join(about)).hexdigest()[:16]}.so"
        target = folder() / name
        if not target.exists():
            _compile(compiler, source, target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        line = said.decode("utf-8", "replace").strip().splitlines()[0]
        print(f"{source.name} was not compiled; slower ways take its place: {line}", file=sys.stderr)
        return None


def folder() -> Path:
    """Where compiled kernels are kept."""
    return cache_folder() / "native"


def _compile(compiler: str, source: Path, target: Path) -> None:
    """Compiles aside, then moves into place: a reader never meets half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        made = Path(aside) / target.name
        command = [compiler, *FLAGS, "-o", str(made), str(source)]
        subprocess.run(command, capture_output=True, check=True, timeout=SECONDS)
        os.replace(made, target)
