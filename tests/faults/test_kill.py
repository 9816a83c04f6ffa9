"""A run that is killed at any moment and gone on with ends bit-identical to one that was left alone."""

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import targets
from forkserver import KILLED

FILE = Path(targets.__file__)
POINTS = ["write", "manifest", "rename", "placed"]


@dataclass
class Target:
    """A function that begins a run in a folder or goes on with it, and what must come out the same."""

    name: str
    result: Any
    saves: list[str]
    """The folders it saves, to be killed in."""
    kills: int
    """How many kills a change is tested with."""


RECIPE = ["step-4", "step-8", "step-12", "model"]
TARGETS = [
    Target("tiny", targets.result, [f"step-{step}" for step in range(3, 25, 3)], 30),
    Target("lstm", targets.trained, RECIPE, 12),
    Target("decoder", targets.trained, RECIPE, 12),
    Target("ngram", targets.trained, ["model", "documents"], 6),
]
KILLS_A_CHAIN = 6


def chain(server, target, folder, draw, seconds):
    """Kills a run KILLS_A_CHAIN times, by the clock or inside a save, then lets it end.

    Returns how often it was killed, and how often inside a save.
    """
    kills = inside = 0
    while kills < KILLS_A_CHAIN:
        if draw.random() < 0.5:
            ended = server.run(FILE, target.name, folder, kill_after=draw.uniform(0, seconds))
        else:
            point = f"{draw.choice(target.saves)}:{draw.choice(POINTS)}"
            fault = {"IDIOLECT_TESTING": "1", "IDIOLECT_FAULT": f"hang@{point}"}
            ended = server.run(FILE, target.name, folder, environment=fault)
            inside += ended.hung
        assert ended.code in (0, KILLED), ended.output
        assert "Traceback" not in ended.output and "damaged" not in ended.output, ended.output
        if ended.code == 0:
            break
        kills += 1
    ended = server.run(FILE, target.name, folder)
    assert ended.code == 0, ended.output
    return kills, inside


def kill_until(server, tmp_path, target, wanted, seed):
    assert server.run(FILE, target.name, tmp_path / "reference").code == 0, server.log.read_text()
    began = time.monotonic()
    assert server.run(FILE, target.name, tmp_path / "again").code == 0  # the first had imports to do
    seconds = time.monotonic() - began
    expected, draw, total, total_inside = target.result(tmp_path / "reference"), random.Random(seed), 0, 0
    checkpoints = names(tmp_path / "reference" / "checkpoints")
    while total < wanted:
        folder = tmp_path / f"chain-{total}"
        kills, inside = chain(server, target, folder, draw, seconds)
        assert target.result(folder) == expected, f"seed {seed}, chain-{total}"
        assert names(folder / "checkpoints") == checkpoints
        total, total_inside = total + kills, total_inside + inside
    print(f"{target.name}, seed {seed}: {total} kills, {total_inside} inside a save, {time.monotonic() - began:.0f} s")
    return total, total_inside


def names(folder):
    return {path.name for path in folder.glob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_runs_killed_at_any_moment_end_bit_identical(server, tmp_path, target):
    kills, inside = kill_until(server, tmp_path, target, target.kills, seed=1)
    assert kills >= target.kills and inside >= 1


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_many_kills(server, tmp_path, target):
    kill_until(server, tmp_path, target, 250, seed=int.from_bytes(os.urandom(4)))


@pytest.mark.slow
def test_the_harness_sees_a_run_that_does_not_come_back_the_same(server, tmp_path):
    """Runs whose optimiser, or whose place in the random numbers, is forgotten end with other bits."""
    assert server.run(FILE, "tiny", tmp_path / "reference").code == 0
    expected = targets.result(tmp_path / "reference")
    for forgetful in ("without_optimizer", "with_torchs_own_draws"):
        fault = {"IDIOLECT_TESTING": "1", "IDIOLECT_FAULT": "hang@step-12:placed"}
        assert server.run(FILE, forgetful, tmp_path / forgetful, environment=fault).hung
        assert server.run(FILE, forgetful, tmp_path / forgetful).code == 0
        assert targets.result(tmp_path / forgetful)["24/model.safetensors"] != expected["24/model.safetensors"]
