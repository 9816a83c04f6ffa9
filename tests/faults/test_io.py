"""Every operation of every writer is made to fail once: a UserError, the old intact, nothing half-written."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import traceback
from pathlib import Path

import pytest
import targets
import writers
from forkserver import KILLED, ForkServer
from writers import WRITERS

from idiolect import files
from idiolect.errors import Exit, UserError
from idiolect.runs import Run

TARGETS = Path(targets.__file__)
CALLS = ["open", "write", "pwrite", "fsync", "rename", "replace", "mkdir", "chmod", "close", "ftruncate"]
SYSTEM_CALLS = ["openat", "mkdir", "write", "pwrite64", "fsync", "rename", "renameat", "renameat2", "chmod", "close"]
SYSTEM_CALLS += ["ftruncate"]


class Failing:
    """The number-th call of os.`name` on something below `root` fails; a failing close has closed all the same."""

    def __init__(self, monkeypatch, root, name, number, error):
        self.root, self.number, self.error, self.calls = str(root), number, error, 0
        self.cleaning = False
        self.name, self.real = name, getattr(os, name)
        monkeypatch.setattr(os, name, self)

    def __call__(self, first, *args, **kwargs):
        path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.fspath(first)
        self.calls += str(path).startswith(self.root)
        failing = self.calls == self.number and str(path).startswith(self.root)
        if not failing or self.name == "close":
            result = self.real(first, *args, **kwargs)
        if failing:
            self.cleaning = any(frame.filename == shutil.__file__ for frame in traceback.extract_stack())
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


@pytest.mark.slow
@pytest.mark.parametrize("swap", [True, False], ids=["", "renamed twice"])
def test_every_operation_that_fails_ends_with_exit_4_and_the_old_intact(tmp_path, monkeypatch, swap):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    names, failures = [*WRITERS], 0
    if not swap:
        monkeypatch.setattr(files, "_swap", lambda one, other: False)
        names = ["Folder"]
    for name in names:
        writer = WRITERS[name]
        shutil.rmtree(tmp_path / "before", ignore_errors=True)
        (tmp_path / "before").mkdir()
        for version in writer.versions:
            if version in (writer.versions[0], writer.versions[-1]):
                failures += sum(fail_each(writer, call, version, tmp_path) for call in CALLS)
            writer.write(tmp_path / "before", version)
    print(f"{failures} operations failed")
    assert failures >= (500 if swap else 50)


def fail_each(writer, name, version, tmp_path):
    """Writes `version` again and again, each time with the next call of os.`name` failing, until none is left."""
    number = 0
    while True:
        number += 1
        for error in (errno.ENOSPC, errno.EIO):
            root = tmp_path / "root"
            shutil.copytree(tmp_path / "before", root)
            with pytest.MonkeyPatch.context() as patch:
                failing = Failing(patch, root, name, number, error)
                code = exit_code(lambda root=root: writer.write(root, version))
            where = f"{type(writer).__name__}: {name} {number} of {failing.calls}"
            assert code in (Exit.DONE, Exit.CANNOT_WRITE), f"{where}: {code}"
            assert failing.cleaning or half_written(root) == [], where  # the next writer clears what this one could not
            found = writer.read(root)
            assert found == version or (found == version - 1 and code is Exit.CANNOT_WRITE), where
            shutil.rmtree(root)
        if failing.calls < number:
            return 2 * (number - 1)


# What the system itself refuses, in a process of its own


@pytest.fixture(scope="module")
def expected(server, tmp_path_factory):
    """What an undisturbed run ends with."""
    folder = tmp_path_factory.mktemp("expected") / "run"
    assert server.run(TARGETS, "tiny", folder).code == 0
    return targets.result(folder)


def killed_at(server, folder, point):
    fault = {"IDIOLECT_TESTING": "1", "IDIOLECT_FAULT": f"hang@{point}"}
    assert server.run(TARGETS, "tiny", folder, environment=fault).hung


def assert_refused(ended):
    assert ended.code == Exit.CANNOT_WRITE, ended
    assert ended.output.startswith("cannot write ") and len(ended.output.splitlines()) == 2


@pytest.mark.slow
def test_a_limit_on_file_sizes_ends_with_exit_4_and_the_run_can_go_on(server, tmp_path, expected):
    folder = tmp_path / "run"
    killed_at(server, folder, "step-12:placed")
    before = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert_refused(server.run(TARGETS, "tiny_with_limit", folder, 2500))
    assert set(Run(folder).steps()) <= {int(name.removeprefix("step-")) for name in before if name[0] == "s"}
    assert half_written(folder) == [] and 12 in Run(folder).steps()
    assert server.run(TARGETS, "tiny", folder).code == 0
    assert targets.result(folder) == expected


@pytest.fixture
def small_disk(tmp_path):
    """A fork server that sees a real disk of 400 kB at the returned place; nobody else does."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["unshare", "-Urm", "sh", "-c", 'mount -t tmpfs -o size=400k none "$0" && exec "$@"', str(place)]
    tried = subprocess.run([*mount, "true"], capture_output=True, text=True) if shutil.which("unshare") else None
    if tried is None or tried.returncode:
        pytest.skip(f"no private mount here: {tried.stderr.strip() if tried else 'there is no unshare'}")
    server = ForkServer(tmp_path / "log", mount)
    yield server, place
    server.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_full_disk_ends_with_exit_4_and_the_run_can_go_on(small_disk, tmp_path, expected):
    server, place = small_disk
    killed_at(server, place / "run", "step-15:write")  # where no older checkpoint is left to make room
    assert server.run(TARGETS, "fill", place / "ballast").code == 0
    assert_refused(server.run(TARGETS, "tiny", place / "run"))
    assert server.run(TARGETS, "assert_whole", place / "run", 12).code == 0
    assert server.run(TARGETS, "empty", place / "ballast").code == 0
    assert server.run(TARGETS, "tiny", place / "run").code == 0
    assert server.run(TARGETS, "copy_out", place / "run", tmp_path / "copy").code == 0
    assert targets.result(tmp_path / "copy") == expected


def strace_works():
    if not shutil.which("strace"):
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not strace_works(), reason="strace is not installed or may not trace here")
@pytest.mark.parametrize("name", ["Checkpoints", "Model"])
def test_every_system_call_that_fails_ends_with_exit_4_and_the_old_intact(server, tmp_path, name):
    """Sees what Python does not: the calls of safetensors."""
    writer, failures, log = WRITERS[name], 0, tmp_path / "strace"
    for call in SYSTEM_CALLS:
        for number in range(1, 100):
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
    print(f"{failures} system calls failed")
    assert failures >= 40


# Two writers


@pytest.mark.slow
def test_of_two_runs_in_one_folder_the_second_is_refused_and_a_third_goes_on(server, tmp_path, expected):
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
