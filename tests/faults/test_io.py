"""Every operation of every writer is made to fail once: a UserError, the old intact, nothing half-written."""

import contextlib
import errno
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import targets
import writers
from forkserver import KILLED, ForkServer
from sizes import NIGHTLY, SHARE, at_each_size, some
from writers import WRITERS

from idiolect import files
from idiolect.errors import Exit, UserError
from idiolect.runs import Run

TARGETS = Path(targets.__file__)
CALLS = ["open", "write", "pwrite", "fsync", "rename", "replace", "mkdir", "chmod", "close", "ftruncate"]
SYSTEM_CALLS = ["openat", "mkdir", "write", "pwrite64", "fsync", "rename", "renameat", "renameat2", "chmod", "close"]
SYSTEM_CALLS += ["ftruncate"]


class Failing:
    """Calls of os on something below `root` that fail: those of the given numbers, counted over all of CALLS.

    A failing close has closed all the same.
    """

    def __init__(self, patch, root, numbers, error):
        self.root, self.numbers, self.error, self.calls = str(root), numbers, error, 0
        self.cleaning = False
        for name in CALLS:
            patch.setattr(os, name, partial(self.call, name, getattr(os, name)))

    def call(self, name, real, first, *args, **kwargs):
        path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.fspath(first)
        inside = str(path).startswith(self.root)
        self.calls += inside
        failing = inside and self.calls in self.numbers
        if not failing or name == "close":
            result = real(first, *args, **kwargs)
        if failing:
            self.cleaning |= any(frame.filename == shutil.__file__ for frame in traceback.extract_stack())
            raise OSError(self.error, os.strerror(self.error), str(path))
        return result


def exit_code(action):
    try:
        action()
    except UserError as error:
        return error.code
    return Exit.DONE


def half_written(root):
    return [path for path in root.rglob("*") if path.name.startswith((".partial-", ".replaced-", ".tmp"))]


IO_CASES = {name: (name, True) for name in WRITERS} | {"Folder, renamed twice": ("Folder", False)}


@pytest.mark.slow
@at_each_size
@pytest.mark.parametrize("case", IO_CASES)
def test_every_operation_that_fails_ends_with_exit_4_and_the_old_intact(tmp_path, monkeypatch, record, case, size):
    failures = fail_all(case, tmp_path, monkeypatch, pairs=size == NIGHTLY, share=True)
    record("I/O faults", case, injected=failures, wrong=0)
    assert failures >= 20 * SHARE


def fail_all(case, tmp_path, monkeypatch, pairs=False, share=False):
    """Writes the first and the last version of a writer with each operation failing in turn; how many failed."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    name, swap = IO_CASES[case]
    if not swap:
        monkeypatch.setattr(files, "_swap", lambda one, other: False)
    writer, failures = WRITERS[name], 0
    (tmp_path / "before").mkdir()
    for version in writer.versions:
        if version in (writer.versions[0], writer.versions[-1]):
            failures += fail_each(writer, version, tmp_path, pairs, share)
        writer.write(tmp_path / "before", version)
    return failures


def fail_each(writer, version, tmp_path, pairs, share):
    """Writes `version` with every operation failing in turn, or every two; returns how many were made to fail."""
    operations = range(1, fail(writer, version, tmp_path, (), errno.EIO) + 1)
    cases = [(number,) for number in operations]
    if pairs:  # a failure leads to operations that were not there before
        cases += [(one, other) for one in operations for other in range(one + 1, len(operations) + 9)]
    cases = some(cases, random.Random()) if share else cases
    for numbers in cases:
        for error in (errno.ENOSPC, errno.EIO):
            fail(writer, version, tmp_path, numbers, error)
    return 2 * len(cases)


def fail(writer, version, tmp_path, numbers, error):
    """Writes `version` with the operations of these numbers failing; returns how many operations there were."""
    root = tmp_path / "root"
    shutil.copytree(tmp_path / "before", root)
    with pytest.MonkeyPatch.context() as patch:
        failing = Failing(patch, root, numbers, error)
        code = exit_code(lambda: writer.write(root, version))
    where = f"{type(writer).__name__} {version}: {numbers} of {failing.calls}, {os.strerror(error)}"
    assert code == Exit.DONE if not numbers else code in (Exit.DONE, Exit.CANNOT_WRITE), f"{where}: {code}"
    assert failing.cleaning or half_written(root) == [], where  # the next writer clears what this one could not
    found = writer.read(root)
    assert found == version or (found == version - 1 and code is Exit.CANNOT_WRITE), where
    shutil.rmtree(root)
    return failing.calls


# Each of these would be noticed


def no_translation(monkeypatch):
    monkeypatch.setattr(files, "writing", lambda target: contextlib.nullcontext())


def nothing_cleared(monkeypatch):
    monkeypatch.setattr(files, "shutil", SimpleNamespace(rmtree=lambda path, ignore_errors=False: None))


def in_place(monkeypatch):
    def write(path, data):
        with files.writing(path):
            files.make_folder(path.parent)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                files.write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)

    monkeypatch.setattr(files, "write_bytes", write)


def no_way_back(monkeypatch):
    def put(temporary, target):
        aside = target.with_name("old")
        if target.exists():
            os.rename(target, aside)
        os.rename(temporary, target)
        shutil.rmtree(aside, ignore_errors=True)

    monkeypatch.setattr(files, "put_in_place", put)


IO_MUTANTS = {
    "an error of the system is not told as one": ("Json", no_translation, OSError, "a traceback"),
    "what failed half-way is left": ("Folder", nothing_cleared, AssertionError, "what is half-written stays"),
    "a file is written in its place": ("Json", in_place, UserError, "half a file"),
    "an old folder does not come back": ("Folder", no_way_back, AssertionError, "the old one is gone"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", IO_MUTANTS)
def test_a_writer_that_fails_badly_is_caught(tmp_path, monkeypatch, record, name):
    case, mutate, error, seen = IO_MUTANTS[name]
    mutate(monkeypatch)
    with pytest.raises(error):
        fail_all(case, tmp_path, monkeypatch)
    record("mutants", name, caught_by=seen)


# What the system itself refuses, in a process of its own


@pytest.fixture(scope="module")
def expected(server, tmp_path_factory):
    """What an undisturbed run ends with."""
    folder = tmp_path_factory.mktemp("expected") / "run"
    assert server.run(TARGETS, "tiny", folder).code == 0
    return targets.result(folder)


@pytest.fixture
def small_disk(tmp_path):
    """A fork server that sees a real disk of 3 MB at the returned place; nobody else does."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["unshare", "-Urm", "sh", "-c", 'mount -t tmpfs -o size=3m none "$0" && exec "$@"', str(place)]
    tried = subprocess.run([*mount, "true"], capture_output=True, text=True) if shutil.which("unshare") else None
    if tried is None or tried.returncode:
        pytest.skip(f"no private mount here: {tried.stderr.strip() if tried else 'there is no unshare'}")
    server = ForkServer(tmp_path / "log", mount)
    yield server, place
    server.close()


@pytest.mark.slow
def test_a_full_disk_ends_with_exit_4_and_the_run_can_go_on(small_disk, server, tmp_path, record):
    (tmp_path / "left alone").mkdir()
    alone, asked = tmp_path / "left alone" / "run", ("lstm", "checkpoint.keep=1")  # no older one is left to make room
    assert server.run(TARGETS, "train", alone, *asked).code == 0
    small, place = small_disk
    fault = {"IDIOLECT_TESTING": "1", "IDIOLECT_FAULT": "hang@step-12:write"}
    assert small.run(TARGETS, "train", place / "run", *asked, environment=fault).hung
    assert small.run(TARGETS, "fill", place / "ballast", 40_000).code == 0
    ended = small.run(TARGETS, "train", place / "run", *asked)
    *_, last = ended.output.partition("error: ")
    assert ended.code == Exit.CANNOT_WRITE and last.startswith("cannot write ") and "step-12" in last, ended
    assert "No space left" in last and len(last.splitlines()) == 2
    assert small.run(TARGETS, "assert_whole", place / "run", 8).code == 0
    assert small.run(TARGETS, "fill", place / "ballast", 1 << 20).code == 0
    assert small.run(TARGETS, "train", place / "run", *asked).code == 0
    assert small.run(TARGETS, "copy_out", place / "run", tmp_path / "copy").code == 0
    assert targets.trained(tmp_path / "copy") == targets.trained(alone)
    record("long runs", "a full disk", kept=1)


def strace_works():
    if not shutil.which("strace"):
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not strace_works(), reason="strace is not installed or may not trace here")
@pytest.mark.parametrize("name", ["Checkpoints", "Model", "Encoded"])
def test_every_system_call_that_fails_ends_with_exit_4_and_the_old_intact(server, tmp_path, record, name):
    """Sees what Python does not: the calls of safetensors."""
    writer, failures, log = WRITERS[name], 0, tmp_path / "strace"
    for call in some(SYSTEM_CALLS, random.Random()):
        for number in itertools.count(1):
            error = ("ENOSPC", "EIO")[number % 2]
            trace = [
                "strace",
                "-f",
                "-o",
                str(log),
                "-e",
                f"trace={call}",
                "-e",
                f"inject={call}:error={error}:when={number}",
            ]
            root = tmp_path / "root"
            ended = server.run(writers.__file__, "write_two", name, root, trace=trace)
            reads = {Exit.BAD_INPUT} if call in ("openat", "close") else set()
            assert ended.code in {0, Exit.CANNOT_WRITE} | reads, (call, number, ended)
            assert writer.read(root) in ((2,) if ended.code == 0 else (1, 2)), (call, number, ended)
            shutil.rmtree(root)
            if "INJECTED" not in log.read_text():
                break
            failures += 1
    record("I/O faults", f"{name}, by the system", injected=failures, wrong=0)
    assert failures >= 40 or SHARE < 1


# Two writers


@pytest.mark.slow
def test_of_two_runs_in_one_folder_the_second_is_refused_and_a_third_goes_on(server, tmp_path, expected, record):
    folder, first = tmp_path / "run", ForkServer(tmp_path / "log")
    stopped = {"IDIOLECT_TESTING": "1", "IDIOLECT_FAULT": "hang@step-6:placed"}
    assert first.run(TARGETS, "tiny", tmp_path / "warm").code == 0
    ended = []
    thread = threading.Thread(
        target=lambda: ended.append(first.run(TARGETS, "tiny", folder, kill_after=100, environment=stopped))
    )
    thread.start()
    while thread.is_alive() and not (folder / "checkpoints" / "step-6").exists():
        time.sleep(0.01)
    pid = json.loads((folder / "lock").read_bytes())["pid"]
    began = time.monotonic()
    second = server.run(TARGETS, "tiny", folder)
    assert second.code == Exit.IN_USE and time.monotonic() - began < 1, second
    assert f"in use by process {pid} on host {socket.gethostname()}" in second.output
    os.kill(pid, signal.SIGKILL)  # it is stopped, and nobody but its server reaps it
    assert server.run(TARGETS, "tiny", folder).code == 0
    assert targets.result(folder) == expected
    thread.join()
    assert ended[0].code == KILLED and ended[0].hung
    first.close()
    record("long runs", "two runs in one folder", kept=1)


@pytest.mark.slow
def test_without_the_lock_the_second_run_would_go_on(server, tmp_path, record):
    run = Run.create(tmp_path / "run")
    with run.lock():
        assert server.run(TARGETS, "tiny", run.folder).code == Exit.IN_USE
        assert server.run(TARGETS, "without_lock", run.folder).code == 0
    record("mutants", "the lock is not heeded", caught_by="exit 0 instead of 3")
