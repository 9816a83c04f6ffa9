"""A process that reads what may hang or crash its reader: pages and foreign tables. It dies in this one's place.

Both sides write frames: the lengths of a header and a body, the header as JSON, the body as bytes. A question is one
frame, its answers are some, of which the last says so.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import functools
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

MEMORY = 2 << 30
"""Bytes of address space that it may ask for; a real page of 8 MB needs a tenth."""
FILES = 64
"""Files it may have open."""
LENGTHS = struct.Struct("<II")
PIPE = 1 << 20
"""Bytes that lie in a pipe before its writer waits; it is 64 kB unless asked."""
PR_SET_PDEATHSIG = 1
ROWS = 64
"""Rows of a parquet file in an answer."""

Frame = tuple[dict[str, Any], bytes]


class Lost(Exception):
    """The child gave no answer: why, in a few words."""


class Child:
    """The process; it is started at the first question, and again at the first after its death."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, job: str, about: dict[str, Any], body: bytes, seconds: float) -> Frame:
        """The only answer to a question. Raises as `answers` does."""
        (answer,) = self.answers(job, about, body, seconds)
        return answer

    def answers(self, job: str, about: dict[str, Any], body: bytes, seconds: float) -> Iterator[Frame]:
        """The answers to a question of JOBS, each within so many seconds.

        Raises Lost when the child was too slow or died of it, ValueError when it said what is wrong.
        """
        if self.process and self.process.poll() is not None:  # it died since, of nothing that was asked here
            self.close()
        process = self.process or self._start()
        assert process.stdin and process.stdout
        last = False
        try:
            process.stdin.write(_frame({"job": job, **about}, body))
            process.stdin.flush()
            while not last:
                header, content = _answer(process.stdout.fileno(), time.monotonic() + seconds)
                last = header.pop("last")
                if "error" in header:
                    raise ValueError(header["error"])
                yield header, content
        except BrokenPipeError:
            raise Lost("crashed its reader") from None
        finally:
            if not last:
                self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", __name__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe and hasattr(fcntl, "F_SETPIPE_SZ"):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)
        return self.process

    def close(self) -> None:
        """Ends the process."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):  # what was not sent yet
                    pipe.close()
        process.wait()


def child() -> Child:
    """The child of this process, one for all pages."""
    return _child_of(os.getpid())


@functools.cache
def _child_of(parent: int) -> Child:
    made = Child()
    atexit.register(made.close)
    return made


def _frame(header: dict[str, Any], body: bytes) -> bytes:
    about = json.dumps(header).encode()
    return b"".join([LENGTHS.pack(len(about), len(body)), about, body])


def _answer(pipe: int, until: float) -> Frame:
    """The next frame. Raises Lost when it is not there in time."""
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    content, size, header = bytearray(), LENGTHS.size, 0
    while len(content) < size:
        if not ready.poll(max(0, until - time.monotonic()) * 1000):
            raise Lost("took too long to read")
        # no more than this frame: what comes after it is not waited for with its time
        if not (part := os.read(pipe, min(size - len(content), PIPE))):
            raise Lost("crashed its reader")
        content += part
        if len(content) == LENGTHS.size == size:
            header, body = LENGTHS.unpack(content)
            size += header + body
    begin = LENGTHS.size + header
    return json.loads(content[LENGTHS.size : begin]), bytes(content[begin:])


def _page(body: bytes, charset: str, main: bool) -> Iterator[Frame]:
    from idiolect.text.reading.html import page

    text, found = page(body, charset, main)
    yield found, text.encode("utf-8", "replace")


def _decode(body: bytes, charset: str) -> Iterator[Frame]:
    from idiolect.text.reading.encoding import decoded

    text, share = decoded(body, charset)
    yield {"lost": share}, text.encode("utf-8", "replace")


def _parquet(body: bytes, fields: list[str]) -> Iterator[Frame]:
    """Rows, some at a time, as JSON: what is no text, number or list of these becomes text."""
    from idiolect.errors import UserError
    from idiolect.text.read import parquet_rows
    from idiolect.text.stream import Damaged

    try:
        rows = parquet_rows(Path(os.fsdecode(body)), fields)
        while some := list(islice(rows, ROWS)):
            yield {}, json.dumps(some, default=str, ensure_ascii=False).encode("utf-8", "replace")
        yield {}, b"[]"
    except UserError as error:
        yield {"refused": [error.what, error.mend], "damaged": isinstance(error, Damaged)}, b""


JOBS: dict[str, Callable[..., Iterator[Frame]]] = {"page": _page, "decode": _decode, "parquet": _parquet}
"""What can be asked: a function of the body and of what else the question says."""


def _limit() -> None:
    """Takes from this process what reading does not need."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it does not outlive who asks
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for limit, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_NOFILE, FILES)):
        _, most = resource.getrlimit(limit)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(limit, (value, value))


def main() -> None:
    """Answers until nobody asks any more."""
    _limit()
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while lengths := asked.read(LENGTHS.size):
        header, body = LENGTHS.unpack(lengths)
        about = json.loads(asked.read(header))
        content = asked.read(body)
        found: dict[str, Any] = {}
        text = b""
        try:
            jobs = JOBS[about.pop("job")](content, **about)
            found, text = next(jobs)
            for after in jobs:
                answers.write(_frame(found | {"last": False}, text))
                found, text = after
        except Exception as error:  # told to the parent, which counts it
            found, text = {"error": f"{type(error).__name__}: {error}"[:200]}, b""
        answers.write(_frame(found | {"last": True}, text))
        answers.flush()


if __name__ == "__main__":
    main()
