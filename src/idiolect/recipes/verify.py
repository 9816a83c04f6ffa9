"""The verb `verify-resume`: on the user's own recipe, a run that was killed and resumed is the one that was not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import torch

from idiolect import config, files
from idiolect.errors import UserError
from idiolect.recipes import pretrain
from idiolect.recipes.settings import Recipe
from idiolect.runs import Run
from idiolect.train import checkpoint
from idiolect.train.checkpoint import Snapshot
from idiolect.train.loop import Step

REACHED = "reached"
"""The reason a piece of a run ends with."""


def verify_resume(run: Path | str, *, steps: int = 12) -> dict[str, Any]:
    """Trains the first `steps` steps of the run's recipe twice and compares every bit of what is left.

    One piece runs through; the other is killed by SIGKILL half-way, right after a step, and resumed in a new process.
    Both run beside the user's run, in a temporary folder, with its recorded choices.
    Returns {"identical", "steps", "tensors", "differences", "verdict"}. Raises UserError when the run's recipe cannot
    be resumed at all (an n-gram has no steps) or a piece fails.
    """
    opened = Run.open(Path(run))
    recipe = config.validate(Recipe, config.read_toml(opened.recipe), str(opened.recipe))
    if recipe.model.kind == "ngram":
        raise UserError("an n-gram is counted anew by every resume: there is nothing to verify", "nothing to mend")
    if not 2 <= steps <= recipe.train.steps:
        raise UserError(
            f"steps must be from 2 to the run's {recipe.train.steps}, not {steps}", "choose another --steps"
        )
    recipe = recipe.model_copy(
        update={"checkpoint": recipe.checkpoint.model_copy(update={"every": max(1, steps // 3)})}
    )
    with tempfile.TemporaryDirectory(prefix="idiolect-verify-") as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        for copy in (whole, killed):
            files.make_folder(copy)
            files.write_text(copy / "recipe.toml", config.dump(recipe))
        _process(whole, steps, 0)
        _process(killed, steps, steps // 2)
        _process(killed, steps, 0)
        return _compared(checkpoint.peek(Run.open(whole), steps), checkpoint.peek(Run.open(killed), steps))


def _process(folder: Path, stop: int, kill: int) -> None:
    """Goes on with the piece in a new process, to step `stop`, or to `kill`, where it kills itself."""
    process = multiprocessing.get_context("spawn").Process(target=_piece, args=(folder, stop, kill))
    process.start()
    process.join()
    expected = -signal.SIGKILL if kill else 0
    if process.exitcode != expected:
        raise UserError(
            f"a piece of the run ended with exit code {process.exitcode}",
            "see the lines above; does the run itself go on?",
        )


def _piece(folder: Path, stop: int, kill: int) -> None:
    def hook(step: Step) -> str | None:
        if step.step == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return REACHED if step.step == stop else None

    pretrain.resume_with(Run.open(folder), [hook])


def _compared(one: Snapshot, other: Snapshot) -> dict[str, Any]:
    """Every tensor of model and optimiser bit by bit, and all that the run remembers but how long it took."""
    tensors = {
        f"{part}/{name}" for part in ("model", "optimizer") for name in getattr(one, part) | getattr(other, part)
    }
    differences = []
    for key in sorted(tensors):
        part, _, name = key.partition("/")
        a, b = getattr(one, part).get(name), getattr(other, part).get(name)
        if a is None or b is None or a.dtype != b.dtype or not torch.equal(_bits(a), _bits(b)):
            differences.append(key)
    for name in one.memory:
        a, b = ({k: v for k, v in m[name].items() if k != "seconds"} for m in (one.memory, other.memory))
        if a != b:
            differences.append(f"memory/{name}")
    same = not differences
    verdict = (
        f"bit for bit the same after {one.step} steps: {len(tensors)} tensors"
        if same
        else f"NOT the same after {one.step} steps: {len(differences)} of {len(tensors)} tensors differ"
    )
    return {
        "identical": same,
        "steps": one.step,
        "tensors": len(tensors),
        "differences": differences,
        "verdict": verdict,
    }


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as bytes, so that NaN equals NaN and 0 differs from -0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
