"""The one training loop: batches and an objective become weights."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from idiolect import devices, files, seeds
from idiolect.errors import Exit, UserError
from idiolect.train import precision
from idiolect.train.objectives import Objective
from idiolect.train.optimisers import Optimizer
from idiolect.train.settings import Resolved, TrainSettings

FINISHED = "finished"
"""The reason `fit` returns after its last step."""


@dataclass(frozen=True)
class Step:
    """What one optimiser step did; handed to every hook."""

    step: int
    """Optimiser steps done since the run began, this one included."""
    loss: float
    """Mean over the supervised positions of the step, for language in nats a token."""
    count: int
    """Supervised positions."""
    norm: float
    """Norm of the gradient before clipping."""
    learning_rate: float
    """The learning rate of this step."""
    seconds: float
    """Wall clock of this step, hooks left out."""
    logs: Mapping[str, float]
    """The objective's further sums over the step."""
    skipped: str = ""
    """Why the optimiser did not move (see `train.on_nan`); empty when it did."""


Hook = Callable[[Step], str | None]
"""Called after every step; a text it returns is the reason to stop."""


class Diverged(UserError):
    """Training cannot go on; raised before the optimiser moves, so the weights are those of the step before."""

    def __init__(self, step: int, what: str) -> None:
        mend = "lower train.learning_rate or lengthen train.warmup_steps; the last checkpoint is as it was"
        super().__init__(f"step {step}: {what}", mend, Exit.DIVERGED)
        self.step = step


class NotFinite(Diverged):
    """A loss or a gradient is infinite or no number."""


class Memory:
    """What the loop itself remembers between steps: recent losses, and the scale of fp16 gradients."""

    KEPT, FACTOR, PATIENCE, FLOOR = 100, 3.0, 20, 0.1

    def __init__(self, resolved: Resolved) -> None:
        self.scale = precision.Scale(resolved.precision)
        self.losses: deque[float] = deque(maxlen=self.KEPT)
        self.above = 0

    def watch(self, step: int, loss: float) -> None:
        """Raises Diverged when the loss was above FACTOR x its running median for PATIENCE steps on end.

        Losses above it do not enter the median; a median below FLOOR nats counts as FLOOR, for a loss near zero jumps.
        """
        bound = self.FACTOR * max(self.FLOOR, statistics.median(self.losses)) if self.losses else math.inf
        if math.isfinite(loss) and loss <= bound:
            self.losses.append(loss)
            self.above = 0
            return
        self.above += 1
        if self.above >= self.PATIENCE:
            self.above = 0  # who goes on from here with other settings gets as many steps
            bad = f"above {bound:.3g} (3 x its median) or not finite"
            raise Diverged(step, f"the loss was {bad} for {self.PATIENCE} steps on end")

    def skip(self, problem: NotFinite, on_nan: str) -> str:
        """Why a step is left out; a step so left out counts as one whose loss was too high. Else raises the problem."""
        if on_nan == "stop":
            raise problem
        self.watch(problem.step, math.inf)
        return problem.what

    def state(self) -> dict[str, Any]:
        """For the checkpoint; JSON."""
        return {"losses": list(self.losses), "above": self.above, "scale": self.scale.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """From the checkpoint."""
        self.losses = deque(state["losses"], maxlen=self.KEPT)
        self.above = int(state["above"])
        self.scale.load_state(state["scale"])


def fit(
    model: Any,
    batch_at: Callable[[int], Sequence[Any]],
    objective: Objective,
    optimizer: Optimizer,
    schedule: Callable[[int], float],
    *,
    settings: TrainSettings,
    resolved: Resolved,
    memory: Memory | None = None,
    start: int = 0,
    hooks: Sequence[Hook] = (),
) -> str:
    """Trains from `start` steps done to settings.steps; returns "finished" or the reason a hook gave.

    batch_at(i) gives the micro-batches of step i + 1, each with `count` (supervised positions), `to(device)` and
    `ids`; `schedule(i)` the share of the highest learning rate. The gradient is that of the mean over all supervised
    positions of the step, however it is cut into micro-batches. Every draw inside is a function of (seed, i,
    micro-batch), so fit(0 … n) is fit(0 … k) followed by fit(k … n), bit for bit.
    Raises Diverged before the optimiser moves, and UserError (exit 7) when memory runs out.
    """
    memory = memory or Memory(resolved)
    weights = list(optimizer.named.values())
    body = torch.compile(model.body, dynamic=False) if resolved.compile else None
    model.train()
    if resolved.device == "cpu":
        devices.keep_memory()
    with devices.pinned(resolved.threads, settings.deterministic), _settled():
        for i in range(start, settings.steps):
            began = time.perf_counter()
            batches = batch_at(i)
            count = sum(batch.count for batch in batches)
            if count == 0:
                raise UserError(
                    f"step {i + 1} has nothing to learn from", "check how the data marks what is trained on"
                )
            totals, logs = [], []
            with memory_errors_explained(f"step {i + 1}", batches):
                fault = files.fault(f"step:{i + 1}")
                for m, batch in enumerate(batches):
                    with seeds.scope(settings.seed, "step", i, m), _with_body(model, body):
                        with precision.forward(resolved.precision, resolved.device):
                            loss = objective(model, batch.to(resolved.device))
                        total = loss.total * math.nan if fault == "nan" else loss.total
                        (total * (memory.scale.value / count)).backward()
                    assert loss.count == batch.count, "the loop divides by the batches' counts"
                    totals.append(total.detach())
                    logs.append(loss.logs)
                *sums, norm = _losses_and_norm(totals, weights, memory.scale.value)
                mean, skipped = sum(sums) / count, ""
                try:
                    _check_losses(i + 1, sums)
                    if memory.scale.accepts(norm):
                        _check_gradients(i + 1, norm, optimizer)
                        memory.watch(i + 1, mean)
                        optimizer.set_share(schedule(i))
                        optimizer.step(min(1.0, settings.clip / norm) if settings.clip and norm else 1.0)
                except NotFinite as problem:
                    skipped = memory.skip(problem, settings.on_nan)
                optimizer.zero_grad()
            rate = schedule(i) * settings.learning_rate
            done = Step(i + 1, mean, count, norm, rate, time.perf_counter() - began, _summed(logs), skipped)
            with seeds.scope(settings.seed, "hooks", i):
                reasons = [hook(done) for hook in hooks]  # every hook runs, whatever another one answers
            reason = next((reason for reason in reasons if reason), None)
            if reason:
                return reason
    return FINISHED


def _losses_and_norm(totals: list[Tensor], weights: list[nn.Parameter], scale: float) -> list[float]:
    """Takes the fp16 scale off the gradients; the micro-batches' losses and the gradient's norm, in one read."""
    gradients = []
    for weight in weights:
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.coalesce()  # a row that was looked up twice has one gradient
        if weight.grad is not None:
            gradients.append(weight.grad.values() if weight.grad.is_sparse else weight.grad)
    if scale != 1:
        torch._foreach_mul_(gradients, 1 / scale)
    norm = torch.nn.utils.get_total_norm(gradients)
    return torch.stack([value.to(norm.device, norm.dtype) for value in (*totals, norm)]).tolist()


def _check_losses(step: int, sums: list[float]) -> None:
    for m, total in enumerate(sums):
        if not math.isfinite(total):
            raise NotFinite(step, f"the loss of micro-batch {m + 1} of {len(sums)} is {total}")


def _check_gradients(step: int, norm: float, optimizer: Optimizer) -> None:
    if math.isfinite(norm):
        return
    for name, weight in optimizer.named.items():
        found = weight.grad
        if found is not None and not (found.values() if found.is_sparse else found).isfinite().all():
            raise NotFinite(step, f"the gradient of {name} is not finite")
    raise NotFinite(step, f"the norm of the gradient is {norm}")


def _summed(logs: Sequence[Mapping[str, Tensor | float]]) -> dict[str, float]:
    """The micro-batches' logs, added up."""
    return {key: sum(float(entry[key]) for entry in logs) for key in (logs[0] if logs else {})}


@contextlib.contextmanager
def _settled() -> Iterator[None]:
    """Objects that are there stay out of Python's collector, which would look through all of them every few steps."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _with_body(model: Any, body: Any) -> Iterator[None]:
    """The compiled body in the place of the model's own while it trains; evaluation and sampling see their own."""
    if body is None:
        yield
        return
    model.body = body
    try:
        yield
    finally:
        del model.body


@contextlib.contextmanager
def memory_errors_explained(when: str, batches: Sequence[Any]) -> Iterator[None]:
    """Memory that ran out becomes a UserError (exit 7) with what was tried."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not devices.is_out_of_memory(error):
            raise
        rows, length = batches[0].ids.shape
        raise UserError(
            f"{when}: out of memory with {len(batches)} micro-batches of {rows} rows x {length} tokens",
            "raise train.micro_batches, or lower train.batch_tokens, model.context or model.width; the last checkpoint "
            "is as it was",
            Exit.OUT_OF_MEMORY,
        ) from error
