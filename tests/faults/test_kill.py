"""A run that is killed at any moment and gone on with ends bit-identical to one that was left alone."""

import os
import random
import time
from pathlib import Path

import pytest
import targets
from forkserver import KILLED

TARGETS = [(Path(targets.__file__), "tiny", targets.result)]
"""(file, function that begins a run in a folder or goes on with it, what must come out the same)."""
POINTS = ["write", "manifest", "rename", "placed"]
KILLS_A_CHAIN = 6


def chain(server, file, function, folder, draw, seconds):
    """Kills a run KILLS_A_CHAIN times, by the clock or inside a save, then lets it end; returns how often it took."""
    kills = inside = 0
    while kills < KILLS_A_CHAIN:
        if draw.random() < 0.5:
            ended = server.run(file, function, folder, kill_after=draw.uniform(0, seconds))
        else:
            step = draw.randrange(targets.EVERY, targets.STEPS + 1, targets.EVERY)
            fault = {"IDIOLECT_TESTING": "1", "IDIOLECT_FAULT": f"hang@step-{step}:{draw.choice(POINTS)}"}
            ended = server.run(file, function, folder, environment=fault)
            inside += ended.hung
        assert ended.code in (0, KILLED), ended.output
        assert "Traceback" not in ended.output and "damaged" not in ended.output, ended.output
        if ended.code == 0:
            break
        kills += 1
    ended = server.run(file, function, folder)
    assert ended.code == 0, ended.output
    return kills, inside


def kill_until(server, tmp_path, file, function, result, wanted, seed):
    assert server.run(file, function, tmp_path / "reference").code == 0
    began = time.monotonic()
    assert server.run(file, function, tmp_path / "again").code == 0  # the first had imports to do
    seconds = time.monotonic() - began
    expected, draw, total, total_inside = result(tmp_path / "reference"), random.Random(seed), 0, 0
    while total < wanted:
        folder = tmp_path / f"chain-{total}"
        kills, inside = chain(server, file, function, folder, draw, seconds)
        assert result(folder) == expected, f"seed {seed}, chain-{total}"
        left = {path.name for path in (folder / "checkpoints").iterdir()}
        assert left == {path.name for path in (tmp_path / "reference" / "checkpoints").iterdir()}
        total, total_inside = total + kills, total_inside + inside
    print(f"seed {seed}: {total} kills, {total_inside} of them inside a save, {time.monotonic() - began:.0f} s")
    return total, total_inside


@pytest.mark.slow
@pytest.mark.parametrize(("file", "function", "result"), TARGETS, ids=[name for _, name, _ in TARGETS])
def test_runs_killed_at_any_moment_end_bit_identical(server, tmp_path, file, function, result):
    kills, inside = kill_until(server, tmp_path, file, function, result, wanted=36, seed=1)
    assert kills >= 36 and inside >= 9


@pytest.mark.nightly
@pytest.mark.parametrize(("file", "function", "result"), TARGETS, ids=[name for _, name, _ in TARGETS])
def test_a_thousand_kills(server, tmp_path, file, function, result):
    kill_until(server, tmp_path, file, function, result, wanted=1000, seed=int.from_bytes(os.urandom(4)))


@pytest.mark.slow
def test_the_harness_sees_a_run_that_does_not_come_back_the_same(server, tmp_path):
    """Runs whose optimiser, or whose place in the random numbers, is forgotten end with other bits."""
    file = Path(targets.__file__)
    assert server.run(file, "tiny", tmp_path / "reference").code == 0
    expected = targets.result(tmp_path / "reference")
    for forgetful in ("without_optimizer", "with_torchs_own_draws"):
        fault = {"IDIOLECT_TESTING": "1", "IDIOLECT_FAULT": "hang@step-12:placed"}
        assert server.run(file, forgetful, tmp_path / forgetful, environment=fault).hung
        assert server.run(file, forgetful, tmp_path / forgetful).code == 0
        assert targets.result(tmp_path / forgetful)["24/model.safetensors"] != expected["24/model.safetensors"]
