"""Every automatic choice of a run, made once at its start and recorded, so that resuming makes the same run."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from idiolect import devices, seeds
from idiolect.data.batch import Batch
from idiolect.errors import UserError
from idiolect.models import fused
from idiolect.train import precision
from idiolect.train.loop import memory_errors_explained
from idiolect.train.objectives import Objective
from idiolect.train.settings import Resolved, TrainSettings

COMPILE_SECONDS = 30.0
"""What compiling costs at the start of a run, about (17 to 28 s measured cold on two cores)."""
COMPILE_SAVES = {"cuda": 0.3}
"""The share of a step's time that compiling saves, cautiously; on a CPU fused kernels save more, without waiting."""


def resolve(settings: TrainSettings, model: nn.Module, batch: Batch, objective: Objective) -> Resolved:
    """Chooses device, precision, threads and compilation for a run; leaves the model on the chosen device.

    `batch` is one micro-batch of the run; when it takes a measurement to decide on compiling, its forward and backward
    passes are timed (weights and random state stay as they are). Raises UserError for a wish that cannot be met.
    """
    device = devices.choose(settings.device)
    resolved = Resolved(
        device=device,
        hardware=devices.hardware(device),
        threads=settings.threads or devices.threads(),
        torch=torch.__version__,
    )
    prepare(model, settings, resolved)
    with memory_errors_explained("before the first step", [batch]):
        chosen, *reasons = _precision(settings, resolved, model, batch, objective)
        resolved = resolved.model_copy(update={"precision": chosen})
        resolved = resolved.model_copy(update={"kernels": _kernels(resolved)})
        compiled, reason = _compile(settings, resolved, model, batch, objective)
    return resolved.model_copy(update={"compile": compiled, "reasons": (*reasons, reason)})


def prepare(model: nn.Module, settings: TrainSettings, resolved: Resolved) -> None:
    """Puts the model where the run trains it, and sets what it is to recompute. Raises UserError if it cannot."""
    model.to(resolved.device)
    if hasattr(model, "activation_checkpointing"):
        setattr(model, "activation_checkpointing", settings.activation_checkpointing)  # noqa: B010 (not a Module's own)
    elif settings.activation_checkpointing:
        raise UserError(
            f"{type(model).__name__} has no blocks to recompute", "leave train.activation_checkpointing at false"
        )


def again(resolved: Resolved) -> tuple[Resolved, list[str]]:
    """What of a recorded choice this machine can honour now, and why the resumed run would not be bit-exact, if so.

    Raises UserError when the run's device is not there at all.
    """
    devices.choose(resolved.device)
    now: dict[str, object] = {"torch": torch.__version__, "hardware": devices.hardware(resolved.device)}
    changes = [f"{key} {getattr(resolved, key)} → {new}" for key, new in now.items() if getattr(resolved, key) != new]
    if _kernels(resolved) != resolved.kernels:
        now["kernels"] = _kernels(resolved)
        changes.append(f"kernels {resolved.kernels} → {now['kernels']}")
    if resolved.compile and not devices.can_compile(resolved.device):
        now["compile"] = False
        changes.append("compiled → not compiled (no C++ compiler here)")
    return resolved.model_copy(update=now), changes


def _kernels(resolved: Resolved) -> Literal["torch", "fused"]:
    """Whose operations a run on this machine has."""
    wanted = resolved.device == "cpu" and resolved.precision == "bf16"
    return "fused" if wanted and fused.library() is not None else "torch"


def _precision(
    settings: TrainSettings, resolved: Resolved, model: nn.Module, batch: Batch, objective: Objective
) -> list[str]:
    """The precision, and why unless it was asked for; one row of the batch shows whether the model can."""
    asked = settings.precision
    out: list[str] = [asked]
    if asked == "auto":
        rates = devices.race(resolved.device)
        core = ", of one core," if resolved.device == "cpu" else ""
        measured = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
        out = [devices.fastest(resolved.device, rates)]
        out.append(f"precision {out[0]}: GFLOP/s measured here{core} are {measured}")
    if out[0] == "fp32":
        return out
    row = replace(batch, **{name: part[:1] for name, part in vars(batch).items() if isinstance(part, torch.Tensor)})
    try:
        _seconds(settings, resolved.model_copy(update={"precision": out[0]}), model, row, objective)
    except RuntimeError as error:  # what torch says when a kernel lacks a precision
        if devices.is_out_of_memory(error):
            raise
        why = f"this model does not run in {out[0]} on this {resolved.device}: {str(error).splitlines()[0]}"
        if asked != "auto":
            raise UserError(why, "use train.precision=fp32 (or auto)") from error
        return ["fp32", f"precision fp32: {why}"]
    return out


def _compile(
    settings: TrainSettings, resolved: Resolved, model: nn.Module, batch: Batch, objective: Objective
) -> tuple[bool, str]:
    """Whether to compile, and why."""
    device = resolved.device
    if settings.compile == "no":
        return False, "not compiled: asked for"
    if not getattr(model, "compiles", True):
        if settings.compile == "yes":
            raise UserError(f"compiling does not help {type(model).__name__}", "use train.compile=auto")
        return False, "not compiled: its kernels are fused as they are"
    if not devices.can_compile(device):
        if settings.compile == "yes":
            raise UserError(
                f"torch.compile finds no C++ compiler{' or no Triton' if device == 'cuda' else ''} for {device}",
                "install g++ (or set CXX), or use train.compile=auto",
            )
        return False, "not compiled: no C++ compiler"
    if settings.compile == "yes":
        return True, "compiled: asked for"
    if device not in COMPILE_SAVES:
        return False, f"not compiled: no gain on {device}"
    seconds = settings.steps * settings.micro_batches * _seconds(settings, resolved, model, batch, objective)
    pays = seconds * COMPILE_SAVES[device] > COMPILE_SECONDS
    return pays, f"{'' if pays else 'not '}compiled: the run takes about {seconds:.0f} s without"


def _seconds(
    settings: TrainSettings, resolved: Resolved, model: nn.Module, batch: Batch, objective: Objective
) -> float:
    """Time of one forward and backward, the second of two (the first warms up)."""
    moved = batch.to(resolved.device)
    training = model.training
    model.train()
    times = []
    with devices.pinned(resolved.threads, settings.deterministic), seeds.scope(settings.seed, "time a step"):
        for _ in range(2):
            began = time.perf_counter()
            with precision.forward(resolved.precision, resolved.device):
                total = objective(model, moved).total
            total.backward()
            total.item()  # waits for an accelerator
            times.append(time.perf_counter() - began)
            model.zero_grad(set_to_none=True)
    model.train(training)
    return times[-1]
