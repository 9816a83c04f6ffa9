"""Tasks in many processes: each once, none left behind, and a process that dies is replaced."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from idiolect.errors import UserError
from idiolect.text.curation.engine import ENGINES, each


def square(task):
    return task, task * task, os.getpid()


def dies_once(folder, task):
    """Kills its own process the first time it meets the task 3."""
    mark = folder / "died"
    if task == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def dies(task):
    os.kill(os.getpid(), signal.SIGKILL)


def refuses(task):
    raise UserError(f"{task} is bad", "give another")


@pytest.mark.parametrize("engine", ENGINES)
def test_every_task_is_done_once_in_at_least_two_processes(engine):
    if engine == "ray":
        pytest.importorskip("ray")
    found = sorted(each(square, range(23), workers=2, engine=engine))
    assert [(task, result) for task, result, _ in found] == [(n, n * n) for n in range(23)]
    assert len({pid for *_, pid in found} - {os.getpid()}) >= 2


def test_one_worker_is_this_process():
    assert {pid for *_, pid in each(square, range(3), workers=1)} == {os.getpid()}


def test_a_process_that_dies_is_replaced_and_its_task_done(tmp_path):
    assert sorted(each(partial(dies_once, tmp_path), range(11), workers=2)) == list(range(11))
    assert (tmp_path / "died").exists()


def test_a_task_whose_process_always_dies_ends_the_work():
    with pytest.raises(UserError, match="died 2 times"):
        list(each(dies, range(5), workers=2))


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_task_raises_is_raised_here(engine):
    if engine == "ray":
        pytest.importorskip("ray")
    with pytest.raises(UserError, match="is bad") as raised:
        list(each(refuses, range(5), workers=2, engine=engine))
    assert raised.value.mend == "give another"


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_engine
from functools import partial
from idiolect.text.curation.engine import each
if __name__ == "__main__":
    list(each(partial(test_engine.sleeps, {str(tmp_path)!r}), range(2), workers=2))
"""
    script = tmp_path / "parent.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, script])
    while len(pids := list(tmp_path.glob("pid-*"))) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    workers = [int(path.name.removeprefix("pid-")) for path in pids]
    for _ in range(100):
        if not any(map(alive, workers)):
            return
        time.sleep(0.1)
    raise AssertionError(f"{workers} are still there")


def sleeps(folder, task):
    (Path(folder) / f"pid-{os.getpid()}").touch()
    time.sleep(600)
