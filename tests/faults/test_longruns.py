"""What a long run meets, through the command line: what it says, its exit code, and that it ends the same after all.

Each promise is checked twice: as it is kept, and with what keeps it taken away, when the check must fail.
"""

import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import targets

from idiolect import files
from idiolect.errors import Exit
from idiolect.runs import Run

FILE = Path(targets.__file__)
ASIDE = "checkpoints"
"""What a run that met a fault may have more of: what was set aside."""


class Line:
    """The command line in a fork of a server, with an optional mutant, on runs in a folder of their own."""

    def __init__(self, server, folder, mutant=""):
        self.server, self.folder, self.mutant = server, folder, mutant
        self.run = Run(folder / "run")
        (folder / "text.jsonl").write_bytes(targets.text_of(folder.parent / "any").read_bytes())

    def __call__(self, *arguments, fault="", function="idiolect", limits=(), **how):
        environment = {"IDIOLECT_TESTING": "1", "IDIOLECT_FAULT": fault} if fault else {}
        environment["IDIOLECT_MUTANT"] = self.mutant
        asked = (self.run.folder, *limits, *arguments)
        return self.server.run(FILE, function, *asked, environment=environment, **how)

    def train(self, *overrides, **how):
        return self(*targets.arguments(self.run.folder, "lstm", *overrides), **how)

    def stopped(self, point, *overrides):
        """A run that was killed at a point."""
        assert self.train(*overrides, fault=f"hang@{point}").hung

    def resume(self, *arguments, **how):
        return self("resume", self.run.folder, *arguments, **how)

    def ends_as(self, reference):
        """Goes on, and the end is that of the run that met nothing."""
        ended = self.resume()
        assert ended.code == 0, ended
        self.is_as(reference)

    def is_as(self, reference):
        assert targets.trained(self.run.folder) | {ASIDE: None} == reference | {ASIDE: None}


def told(ended, code, *words):
    """Ended with a code and two lines at most, which say something."""
    assert ended.code == code, ended
    *_, last = ended.output.partition("error: ")
    assert "Traceback" not in ended.output and len(last.strip().splitlines()) <= 2, ended.output
    for word in words:
        assert word in ended.output, (word, ended.output)


@pytest.fixture(scope="module")
def reference(server, tmp_path_factory):
    """The end of a run that met nothing."""
    folder = tmp_path_factory.mktemp("reference")
    line = Line(server, folder)
    ended = line.train()
    assert ended.code == 0, ended
    return targets.trained(line.run.folder)


def whole(run):
    """Every checkpoint, also those that lie aside, is whole and holds nothing but numbers."""
    from safetensors.torch import load_file

    for folder in run.checkpoints.iterdir():
        files.verify(folder)
        for path in folder.glob("*.safetensors"):
            assert all(tensor.isfinite().all() for tensor in load_file(path).values() if tensor.is_floating_point())


def rewritten(folder, name, change):
    """A file of a folder is another, and the folder's manifest says so, as another program might have done."""
    value = json.loads((folder / name).read_text())
    change(value)
    about = json.loads((folder / files.MANIFEST).read_text())
    os.unlink(folder / files.MANIFEST)
    (folder / name).write_text(json.dumps(value))
    files.write_manifest(folder, **{key: about[key] for key in about if key not in ("format", "files", "sha256")})


# The promises: each is kept, or raises AssertionError


def a_damaged_checkpoint(line, reference):
    """The newest one has a changed byte: the one before is used and the end is the same; asked for, it is refused."""
    line.stopped("step-12:placed")
    path = line.run.checkpoint(12) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[5000] ^= 120
    path.write_bytes(data)
    told(line.resume("--step", 12), Exit.BAD_INPUT, "step-12/model.safetensors", "damaged")
    assert path.read_bytes() == data
    ended = line.resume()
    told(ended, 0, "step-12/model.safetensors", "using step-8")
    assert (line.run.checkpoints / "damaged-step-12" / "model.safetensors").read_bytes() == data
    line.is_as(reference)


def changed_text(line, reference):
    """Refused with both fingerprints; accepted when asked, and recorded."""
    line.stopped("step-8:placed")
    with open(line.folder / "text.jsonl", "a") as file:
        file.write('\n{"text": "and more"}\n')
    refused = line.resume()
    told(refused, Exit.BAD_INPUT, "data.train", "--accept-change")
    before, after = re.search(r"data\.train (\w{32,}) → (\w{32,})", refused.output).groups()
    assert before != after
    told(line.resume("--accept-change"), 0)
    lineage = json.loads((line.run.model / "lineage.json").read_text())
    assert any(before in change and after in change for change in lineage["accepted_changes"])


def a_changed_recipe(line, reference):
    """Refused, naming what changed."""
    line.stopped("step-8:placed")
    told(line.resume("train.learning_rate=0.5"), Exit.BAD_INPUT, "recipe", "--accept-change")


def another_version(line, reference):
    """The checkpoint was written by another torch: goes on and says that the bits may differ."""
    line.stopped("step-8:placed")
    rewritten(line.run.checkpoint(8), "state.json", lambda state: state["environment"].update(torch="1.0.0"))
    told(line.resume(), 0, "not bit-exact: torch 1.0.0 → ")
    line.is_as(reference)


def dates_that_lie(line, reference):
    """The newest checkpoint is that of the highest step, whatever the clock said when it was written."""
    line.stopped("step-12:placed")
    os.utime(line.run.checkpoint(4), (4e9, 4e9))
    os.utime(line.run.checkpoint(12), (9e8, 9e8))
    told(line.resume(), 0, "going on from checkpoint step-12")
    line.is_as(reference)


def a_clock_that_jumps(line, reference):
    """Every reading of the clock is two hours before the last: no line is lost, no duration negative."""
    assert line.train(fault="hang@step-8:placed", function="idiolect_with_a_mad_clock").hung
    told(line.resume(function="idiolect_with_a_mad_clock"), 0)
    line.is_as(reference)
    lines = [values for values in line.run.read_metrics() if "tokens_per_second" in values]
    assert len(lines) == 12 and all(values["tokens_per_second"] > 0 for values in lines)
    memory = json.loads((line.run.checkpoint(12) / "state.json").read_text())["memory"]
    assert memory["totals"]["seconds"] > 0


def no_memory_at_a_step(line, reference):
    """Memory runs out inside a step: what was tried and what would help; the last checkpoint is whole."""
    told(line.train(fault="oom@step:7"), Exit.OUT_OF_MEMORY, "step 7", "2 micro-batches of 4 rows x 32", "lower")
    assert line.run.steps() == [4]
    line.ends_as(reference)


def no_memory_by_a_limit(line, reference):
    """The system refuses it, as under `ulimit -v`: said before the run begins; or, where the plan erred, in it."""
    large, limits = "train.batch_tokens=2097152", (0, 400 << 20)
    ended = line.train(large, function="idiolect_with_limits", limits=limits)
    told(ended, Exit.OUT_OF_MEMORY, "are available", "this would fit")
    assert not line.run.folder.exists()
    ended = line.train(large, function="idiolect_unplanned_with_limits", limits=limits)
    told(ended, Exit.OUT_OF_MEMORY, "2 micro-batches of 32768 rows x 32 tokens", "raise train.micro_batches")


def no_number(line, reference):
    """The loss is no number: stops before the weights move, keeps what there was aside, and can go on."""
    told(line.train(fault="nan@step:7"), Exit.DIVERGED, "step 7", "nan")
    assert line.run.steps() == [4] and not line.run.model.exists()
    assert (line.run.checkpoints / "diverged-step-6").is_dir()
    whole(line.run)
    line.ends_as(reference)


def a_diverging_loss(line, reference):
    """Stops, keeps the best checkpoint where it was and the last state aside."""
    wild = ("train.steps=100", "train.learning_rate=50", "train.warmup_steps=30", "checkpoint.every=2")
    told(line.train(*wild, "validation.every=2", "train.clip=0"), Exit.DIVERGED, "median")
    measured = {v["step"]: v["validation.loss"] for v in line.run.read_metrics() if "validation.loss" in v}
    assert min(measured, key=measured.__getitem__) in line.run.steps()
    assert len([*line.run.checkpoints.glob("diverged-*")]) == 1
    whole(line.run)


def a_limit_on_file_sizes(line, reference):
    """`ulimit -f`: ends with exit 4, and can go on."""
    line.stopped("step-8:placed")
    limits = (20_000, 0)
    told(line.resume(function="idiolect_with_limits", limits=limits), Exit.CANNOT_WRITE, "cannot write", "large")
    assert line.run.steps()[-1] == 8
    whole(line.run)
    line.ends_as(reference)


def signals(line, reference):
    """The first of three kinds: the step is finished and saved, exit 75 within 10 seconds; and it can go on."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        shutil.rmtree(line.run.folder, ignore_errors=True)
        ended, seconds = signalled(line, number)
        assert ended.code == Exit.STOPPED and seconds < 10, ended
        state = json.loads((line.run.checkpoint(7) / "state.json").read_text())
        assert state["reason"] == number.name
    line.ends_as(reference)


def two_signals(line, reference):
    """A second one ends the run at once; which of two that wait together is the second, the system chooses."""
    ended, seconds = signalled(line, signal.SIGINT, signal.SIGTERM)
    assert ended.code in (-signal.SIGINT, -signal.SIGTERM) and seconds < 1, ended
    assert line.run.steps() == [4]
    line.ends_as(reference)


def signalled(line, *numbers):
    """A run that is stopped at its seventh step, sent signals there and let go; how it ended, and after what time."""
    ended = []
    how = {"fault": "hang@step:7", "kill_after": 100}
    thread = threading.Thread(target=lambda: ended.append((line.train(**how), time.monotonic())))
    thread.start()
    while thread.is_alive() and not (pid := stopped_process(line.run)):
        time.sleep(0.01)
    began = time.monotonic()
    for number in (*numbers, signal.SIGCONT):
        os.kill(pid, number)
    thread.join()
    return ended[0][0], ended[0][1] - began


def stopped_process(run):
    """The run's process when it is stopped."""
    try:
        pid = json.loads(run.lock_file.read_bytes())["pid"]
        return pid if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T" else None
    except (OSError, ValueError):
        return None


PROMISES = {
    "a_damaged_checkpoint": a_damaged_checkpoint,
    "changed_text": changed_text,
    "a_changed_recipe": a_changed_recipe,
    "another_version": another_version,
    "dates_that_lie": dates_that_lie,
    "a_clock_that_jumps": a_clock_that_jumps,
    "no_memory_at_a_step": no_memory_at_a_step,
    "no_memory_by_a_limit": no_memory_by_a_limit,
    "no_number": no_number,
    "a_diverging_loss": a_diverging_loss,
    "a_limit_on_file_sizes": a_limit_on_file_sizes,
    "signals": signals,
    "two_signals": two_signals,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMISES)
def test_a_run_that_meets(server, tmp_path, record, reference, name):
    PROMISES[name](Line(server, tmp_path), reference)
    record("long runs", name.replace("_", " "), kept=1)


MUTANTS = {
    "checkpoints are not compared with their hashes": "a_damaged_checkpoint",
    "fingerprints are not compared": "changed_text",
    "versions are not compared": "another_version",
    "checkpoints are ordered by date": "dates_that_lie",
    "durations are taken from the calendar": "a_clock_that_jumps",
    "memory errors are not explained": "no_memory_at_a_step",
    "numbers are not checked": "no_number",
    "losses are not watched": "a_diverging_loss",
    "nothing is kept aside": "a_diverging_loss",
    "errors of the disk are not told as such": "a_limit_on_file_sizes",
    "signals are not heeded": "signals",
}
"""The name of a mutant in targets.py → the promise it breaks."""


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_promise_that_nothing_keeps_is_seen_to_break(server, tmp_path, record, reference, name):
    assert {*MUTANTS} == {*targets.MUTANTS}
    with pytest.raises((AssertionError, OSError)):
        PROMISES[MUTANTS[name]](Line(server, tmp_path, name), reference)
    record("mutants", name, caught_by=MUTANTS[name].replace("_", " "))
