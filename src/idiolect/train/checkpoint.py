"""Checkpoints: all that a run needs to go on bit for bit, whole or absent.

`checkpoints/step-N/` holds model.safetensors, optimizer.safetensors and state.json under a manifest of SHA-256 hashes;
the folder appears by one rename once all of it is on disk. What was damaged since is set aside, never deleted.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from idiolect import __version__, files
from idiolect.errors import Exit, UserError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from idiolect.runs import Run

FORMAT = 1
"""The version of a checkpoint's own layout."""
DAMAGED, LATER, DIVERGED = "damaged-", "later-", "diverged-"
"""How the name of a checkpoint begins that lies aside: it is not whole, the run went on from an older one, or the next
step diverged. Nothing reads or removes it; called step-N again, a whole one is as any other."""


@dataclass(frozen=True)
class Snapshot:
    """A run between two optimiser steps."""

    step: int
    """Optimiser steps done."""
    model: dict[str, Tensor]
    """The model's parameters and buffers."""
    optimizer: dict[str, Tensor]
    """The optimiser's moments and counters."""
    memory: dict[str, Any]
    """What else remembers (loss median, best so far, scaler), as JSON values; floats come back to the bit."""
    about: dict[str, Any]
    """What is known of the run: fingerprints of data, tokenizer and recipe; `validation_loss` when it was measured."""


def save(run: Run, snapshot: Snapshot, *, reason: str, keep: int) -> Path:
    """Saves the snapshot as checkpoints/step-N and returns the folder once it would survive a power cut.

    Only then older checkpoints go: the newest `keep` stay, and besides them the one of the lowest
    `about["validation_loss"]`. When it cannot be written it is tried once more, on a full disk after those have gone
    that would go next. Raises UserError, and what is left is whole: exit 4 when it still cannot be written, 5 when a
    number in it is not finite.
    """
    _check_finite(snapshot)
    run.sync_metrics()
    try:
        folder = _write(run, snapshot, reason)
    except UserError as error:
        if error.code is not Exit.CANNOT_WRITE:
            raise
        _clean(run, snapshot.step, max(1, keep - 1) if isinstance(error, files.Full) else keep)
        folder = _write(run, snapshot, reason)
    prune(run, keep, snapshot.step)
    return folder


def prune(run: Run, keep: int, stays: int) -> None:
    """Removes the checkpoints that `save` leaves no longer: also those that a killed one had not come to."""
    for step in _superfluous(run, keep):
        if step != stays:
            files.remove_folder(run.checkpoint(step))


def save_aside(run: Run, snapshot: Snapshot, *, reason: str) -> Path:
    """Saves the snapshot as checkpoints/diverged-step-N. Raises UserError as `save` does."""
    _check_finite(snapshot)
    return _write(run, snapshot, reason, DIVERGED)


def _check_finite(snapshot: Snapshot) -> None:
    """Raises UserError (exit 5) naming the first tensor with a number that is not finite: it is never saved."""
    for part in (snapshot.model, snapshot.optimizer):
        for name, tensor in part.items():
            if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
                what = f"step {snapshot.step}: {name} holds a number that is not finite, so it is not saved"
                mend = "lower train.learning_rate; the last checkpoint is as it was"
                raise UserError(what, mend, Exit.DIVERGED)


def _write(run: Run, snapshot: Snapshot, reason: str, mark: str = "") -> Path:
    folder = run.checkpoints / f"{mark}{run.checkpoint(snapshot.step).name}"
    state = {
        "step": snapshot.step,
        "reason": reason,
        "memory": snapshot.memory,
        "about": snapshot.about,
        "environment": environment(),
    }
    about = {"checkpoint": FORMAT, "step": snapshot.step, "reason": reason}
    with files.new_folder(folder, **about, validation_loss=snapshot.about.get("validation_loss")) as aside:
        save_file(_plain(snapshot.model), aside / "model.safetensors")
        save_file(_plain(snapshot.optimizer), aside / "optimizer.safetensors")
        files.write_json(aside / "state.json", state)
    return folder


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors of which no two share memory (tied weights do), as safetensors wants them."""
    out: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().contiguous()
        shared = (storage := plain.untyped_storage().data_ptr()) in seen and plain.numel() > 0
        out[name] = plain.clone() if shared else plain
        seen.add(storage)
    return out


def environment() -> dict[str, str]:
    """What the bits of a result depend on besides the recipe."""
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"idiolect": __version__, "torch": torch.__version__, "cpu": cpu, "gpu": gpu}


# Which stay


def _clean(run: Run, step: int, keep: int) -> None:
    """Makes room for the checkpoint of `step`: leftovers of killed writers go, then all but the newest `keep`.

    Nothing whole goes unless the newest one is whole, too.
    """
    files.sweep(run.checkpoints)
    older = [old for old in _superfluous(run, keep) if old != step]
    if older and _whole(run.checkpoint(run.steps()[-1])):
        for old in older:
            files.remove_folder(run.checkpoint(old))


def _whole(folder: Path) -> bool:
    try:
        files.verify(folder)
    except UserError:
        return False
    return True


def _superfluous(run: Run, keep: int) -> list[int]:
    """All but the newest `keep` and the best."""
    steps = run.steps()
    losses = {step: loss for step in steps if (loss := _validation_loss(run.checkpoint(step))) is not None}
    best = min(losses, key=lambda step: (losses[step], step), default=None)
    return [step for step in steps[:-keep] if step != best]


def _validation_loss(folder: Path) -> float | None:
    try:
        loss = files.read_manifest(folder).get("validation_loss")
    except UserError:  # damaged; `newest` says so when it comes to it
        return None
    return float(loss) if isinstance(loss, (int, float)) else None


# Which is read


def newest(run: Run) -> Snapshot | None:
    """The newest whole checkpoint, by its step; None when there is none.

    Says with a warning which were damaged, and which is used instead. The run's writer (it holds the lock) first
    clears what a killed save left and sets the damaged ones aside under another name.
    """
    if run.locked and run.checkpoints.is_dir():
        files.sweep(run.checkpoints)
    problems: list[str] = []
    found = None
    for step in reversed(run.steps()):
        try:
            found = _read(run.checkpoint(step), step)
            break
        except files.Damaged as error:
            problems.append(error.what)
            if run.locked:
                _set_aside(run.checkpoint(step), DAMAGED)
    instead = "starting at step 0" if found is None else f"using step-{found.step}"
    for problem in problems:
        warnings.warn(f"damaged checkpoint: {problem}; {instead}", stacklevel=2)
    return found


def load(run: Run, step: int) -> Snapshot:
    """The checkpoint of one step, to go on from: later ones are set aside. The caller holds the run's lock.

    Raises UserError (exit 2) when it is absent or damaged, naming what is wrong.
    """
    found = peek(run, step)
    for later in [n for n in run.steps() if n > step]:
        _set_aside(run.checkpoint(later), LATER)
    return found


def peek(run: Run, step: int) -> Snapshot:
    """The checkpoint of one step, to read it only. Raises UserError (exit 2) as `load` does."""
    if step not in run.steps():
        there = ", ".join(f"step-{n}" for n in run.steps()) or "none"
        raise UserError(f"{run.folder} has no checkpoint step-{step}", f"there is: {there}")
    return _read(run.checkpoint(step), step)


def _read(folder: Path, step: int) -> Snapshot:
    manifest = files.verify(folder)
    if manifest.get("checkpoint") != FORMAT or manifest.get("step") != step:
        raise UserError(
            f"{folder} is not a checkpoint of step {step} in format {FORMAT}",
            "use the version of Idiolect that wrote it, and leave its name as it was",
        )
    try:
        model = load_file(folder / "model.safetensors")
        optimizer = load_file(folder / "optimizer.safetensors")
    except (OSError, SafetensorError) as error:
        raise files.Damaged(f"{folder} cannot be read: {error}", "restore it from a copy") from error
    state = files.read_json(folder / "state.json")
    with files.understood(folder / "state.json"):
        memory, about, changes = state["memory"], dict(state["about"]), differences(state["environment"], environment())
    if changes:
        warnings.warn(f"not bit-exact: {'; '.join(changes)}", stacklevel=3)
    return Snapshot(step, model, optimizer, memory, about)


def _set_aside(folder: Path, mark: str) -> None:
    """Renames a checkpoint, so that its step can be saved again and nothing of it is lost."""
    with files.writing(folder):
        number = 0
        while (aside := folder.with_name(f"{mark}{folder.name}{f'-{number}' if number else ''}")).exists():
            number += 1
        folder.rename(aside)
        files.sync_folder(folder.parent)


# Whether it fits


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each key whose value is not the same, as "torch 2.13.0 → 2.14.0"."""
    keys = sorted({*saved, *now})
    return [f"{key} {saved.get(key)} → {now.get(key)}" for key in keys if saved.get(key) != now.get(key)]


def check_unchanged(saved: Mapping[str, Any], now: Mapping[str, Any], accept: bool = False) -> list[str]:
    """Whether a run goes on with what it began with: fingerprints by name (data, tokenizer, recipe).

    Returns the differences when the user accepts them, to be recorded. Raises UserError naming each with both
    fingerprints otherwise.
    """
    changes = differences(saved, now)
    if changes and not accept:
        raise UserError(
            f"not what the run began with: {'; '.join(changes)}",
            "restore it, or pass --accept-change to go on with a run that is no longer the same",
        )
    return changes


def check_tensors(saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    """Raises UserError when the tensors of a checkpoint are not those of the model: names, shapes, kinds of number."""
    problems = [f"{name} is missing{nearest(name, saved)}" for name in wanted if name not in saved]
    problems += [f"{name} is not known" for name in saved if name not in wanted]
    for name in [name for name in wanted if name in saved]:
        there, here = _kind(saved[name]), _kind(wanted[name])
        if there != here:
            problems.append(f"{name} is {there}, not {here}")
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{where} is of another model: {'; '.join(problems[:3])}{more}", "resume with its own recipe")


def _kind(tensor: Tensor) -> str:
    shape: Sequence[int] = tensor.shape
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(shape)}"
