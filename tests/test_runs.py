import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from idiolect import files
from idiolect.errors import Exit, UserError
from idiolect.runs import Run

HOLD = """
import sys, time
from pathlib import Path
from idiolect.runs import Run
with Run(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""
FORK_AND_HOLD = HOLD.replace("print(", "import os\n    if os.fork() == 0:\n        time.sleep(100)\n    print(")


@pytest.fixture
def run(tmp_path):
    made = Run.create(tmp_path / "run")
    with made.lock():
        made.recipe.write_text("steps = 3\n")
    return made


class Holder:
    """Another process that holds a run's lock."""

    def __init__(self, folder, code=HOLD):
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(Path(files.__file__).parents[1])},
            start_new_session=True,
        )
        assert self.process.stdout.readline() == "locked\n"

    def kill(self):
        self.process.kill()
        self.process.wait()

    def kill_group(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def hold():
    holders = []

    def start(folder, code=HOLD):
        holders.append(Holder(folder, code))
        return holders[-1]

    yield start
    for holder in holders:
        os.killpg(holder.process.pid, signal.SIGKILL) if holder.process.poll() is None else None
        holder.process.wait()


# Creating and opening


def test_a_new_run_is_for_its_owner_alone(tmp_path):
    run = Run.create(tmp_path / "deep" / "run")
    with run.lock():
        run.append_metrics({"step": 1})
    assert stat.S_IMODE(run.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in run.folder.iterdir()} == {0o600}


def test_a_run_that_is_there_is_not_trained_over(run):
    with pytest.raises(UserError, match="already holds a run") as caught:
        Run.create(run.folder)
    assert caught.value.code is Exit.BAD_INPUT
    assert f"idiolect resume {run.folder}" in caught.value.mend


def test_a_folder_with_something_else_is_not_trained_into(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"thesis\.tex") as caught:
        Run.create(tmp_path)
    assert caught.value.code is Exit.BAD_INPUT


def test_a_run_killed_before_its_recipe_was_written_is_begun_anew(tmp_path):
    (tmp_path / "lock").touch()
    (tmp_path / ".partial-recipe").write_text("steps =")
    assert Run.create(tmp_path).folder == tmp_path


def test_a_run_that_cannot_be_made_ends_with_exit_4(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError) as caught:
            Run.create(path)
        assert caught.value.code is Exit.CANNOT_WRITE


def test_opening_what_is_no_run_is_refused(tmp_path, run):
    assert Run.open(run.folder).recipe == run.recipe
    for folder, message in ((tmp_path, "holds no run"), (tmp_path / "none", "does not exist")):
        with pytest.raises(UserError, match=message):
            Run.open(folder)


def test_a_run_made_meanwhile_by_another_process_is_seen_under_the_lock(tmp_path):
    run = Run.create(tmp_path / "run")
    (tmp_path / "run" / "recipe.toml").write_text("")
    with pytest.raises(UserError, match="already holds a run"), run.lock():
        pass
    assert not run.locked


# The lock


def test_a_second_writer_is_told_who_the_first_is_within_a_second(run, hold):
    holder = hold(run.folder)
    for action in (lambda: run.lock().__enter__(), lambda: Run.create(run.folder)):
        began = time.monotonic()
        with pytest.raises(UserError) as caught:
            action()
        assert time.monotonic() - began < 1
        assert caught.value.code is Exit.IN_USE
        assert f"process {holder.process.pid} on host {socket.gethostname()}" in caught.value.what


@pytest.mark.parametrize("code", [HOLD, FORK_AND_HOLD], ids=["alone", "with a child that lives on"])
def test_the_lock_dies_with_its_owner(run, hold, code):
    holder = hold(run.folder, code)
    holder.kill()
    began = time.monotonic()
    with run.lock():
        assert time.monotonic() - began < 0.5
        assert json.loads(run.lock_file.read_bytes())["pid"] == os.getpid()


def test_the_same_process_cannot_lock_twice_and_gives_the_lock_back(run):
    with run.lock():
        assert run.locked
        with pytest.raises(UserError) as caught, Run(run.folder).lock():
            pass
        assert caught.value.code is Exit.IN_USE
    assert not run.locked and run.lock_file.read_bytes() == b""
    with run.lock():
        pass


def test_the_lock_is_given_back_after_an_error(run):
    with pytest.raises(ZeroDivisionError), run.lock():
        1 // 0
    with run.lock():
        pass


def claim(run, host, age):
    run.lock_file.write_text(json.dumps({"pid": 17, "host": host, "time": time.time() - age}))


def test_a_writer_on_another_machine_is_believed_for_a_minute(run):
    claim(run, "elsewhere", 5)
    with pytest.raises(UserError, match="process 17 on host elsewhere") as caught, run.lock():
        pass
    assert caught.value.code is Exit.IN_USE and "60 seconds" in caught.value.mend
    assert run.status().state == "running"
    claim(run, "elsewhere", 61)
    with run.lock():
        pass
    claim(run, socket.gethostname(), 5)  # on this machine flock is the truth
    with run.lock():
        pass


def test_metrics_renew_the_claim(run, monkeypatch):
    with run.lock():
        before = json.loads(run.lock_file.read_bytes())["time"]
        run.append_metrics({"step": 1})
        assert json.loads(run.lock_file.read_bytes())["time"] == before
        monkeypatch.setattr("idiolect.runs.RENEW_SECONDS", 0.0)
        run.append_metrics({"step": 2})
        assert json.loads(run.lock_file.read_bytes())["time"] > before


def test_a_forked_child_neither_holds_nor_renews_the_lock(run, monkeypatch):
    monkeypatch.setattr("idiolect.runs.RENEW_SECONDS", 0.0)
    with run.lock():
        before = run.lock_file.read_bytes()
        pid = os.fork()
        if pid == 0:
            run.append_metrics({"step": 1})
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert run.lock_file.read_bytes() == before and run.read_metrics() == [{"step": 1}]


# Metrics


def test_metrics_are_read_as_they_were_written(run):
    lines = [{"step": 1, "loss": 0.1}, {"step": 2, "text": "é\n"}]
    for line in lines:
        run.append_metrics(line)
    assert run.read_metrics() == lines and run.metrics.read_bytes().count(b"\n") == 2


def test_numbers_that_are_not_finite_become_null(run):
    run.append_metrics({"norm": float("inf"), "loss": float("nan"), "step": 3})
    assert run.read_metrics() == [{"norm": None, "loss": None, "step": 3}]


@pytest.mark.parametrize("end", [b'{"step": 3, "lo', b"\0" * 40, b'{"step": 3}'[:-1] + b"\n\xff\n", b"\n\n", b"3\n"])
def test_a_torn_end_is_left_out(run, end):
    run.append_metrics({"step": 1})
    with run.metrics.open("ab") as file:
        file.write(end)
    assert run.read_metrics() == [{"step": 1}]
    run.truncate_metrics(1)
    run.append_metrics({"step": 2})
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]


def test_a_bad_line_before_good_ones_is_named(run):
    run.metrics.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2 is not a JSON object"):
        run.read_metrics()


def test_no_metrics_are_no_lines(run):
    assert run.read_metrics() == []
    run.sync_metrics()
    run.truncate_metrics(5)
    assert run.read_metrics() == []


def test_truncating_keeps_the_lines_up_to_the_step(run):
    for step in (0, 10, 20, 30):
        run.append_metrics({"step": step})
    run.append_metrics({"note": "no step"})
    run.append_metrics({"step": 20, "final.loss": 1.5})
    run.truncate_metrics(20)
    assert run.read_metrics() == [{"step": 0}, {"step": 10}, {"step": 20}, {"note": "no step"}]


@pytest.mark.parametrize("bad", ["\0" * 9, '{"step": 3, "lo', '{"step": 3, "lo\0\0\0'])
def test_what_a_power_cut_left_of_lines_after_the_last_checkpoint_is_no_obstacle(run, bad):
    run.metrics.write_text(f'{{"step": 1}}\n{{"step": 2}}\n{bad}\n{{"step": 4}}\n')
    with pytest.raises(UserError, match="metrics.jsonl:3"):
        run.truncate_metrics(4)
    run.truncate_metrics(2)
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]


def test_a_line_that_cannot_be_written_leaves_no_half_of_it(run, monkeypatch):
    run.append_metrics({"step": 1})
    real, calls = os.write, []

    def half(handle, data):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(handle, data[:5])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(files.Full):
        run.append_metrics({"step": 2})
    monkeypatch.undo()
    run.append_metrics({"step": 3})
    assert run.read_metrics() == [{"step": 1}, {"step": 3}]


# What is there


def test_checkpoints_are_ordered_by_step_whatever_the_clock_said(run):
    for step, when in ((1000, 0), (40, 2_000_000_000), (7, 4_000_000_000)):
        run.checkpoint(step).mkdir(parents=True)
        os.utime(run.checkpoint(step), (when, when))
    for name in ("step-x", "step-", "step-²", "damaged-step-50", ".partial-step-60"):
        (run.checkpoints / name).mkdir()
    assert run.steps() == [7, 40, 1000]


def test_status_tells_who_runs_and_how_far_it_got(run, hold):
    assert run.status().state == "stopped" and run.status().step == 0
    run.append_metrics({"step": 30})
    run.checkpoint(20).mkdir(parents=True)
    holder = hold(run.folder)
    status = run.status()
    assert (status.state, status.step, status.checkpoints) == ("running", 30, [20])
    assert f"process {holder.process.pid} on host" in status.owner
    holder.kill()
    assert run.status().state == "stopped" and run.status().owner is None
    run.model.mkdir()
    assert run.status().state == "finished"
    with run.lock():
        assert run.status().state == "running"
