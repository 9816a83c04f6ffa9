"""What happens between steps: metrics, progress, validation, samples, signals.

A hook is called with a `Step` after each one and returns a reason to stop, or None. What it needs is handed in, so the
loop knows none of this and this knows no file format.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from statistics import fmean
from typing import Any, TextIO

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import nn

from idiolect import devices
from idiolect.data.batch import bits_per_byte
from idiolect.train.loop import Hook, Step

EARLY_STOP = "early stop"
"""The reason of a run that no longer improves."""


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model neither drops activations nor records gradients; its mode is restored after."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def every(interval: int, act: Callable[[Step], None]) -> Hook:
    """Calls `act` after every `interval`-th step; never when the interval is 0."""

    def hook(step: Step) -> None:
        if interval and step.step % interval == 0:
            act(step)

    return hook


def figures(step: Step, device: str) -> dict[str, Any]:
    """One step as a line of metrics; bits per byte only where the objective counts the bytes of its labels.

    The loss is what is minimised; of it, "auxiliary" (where a model has such a term) says nothing of the text.
    """
    out: dict[str, Any] = {
        "step": step.step,
        "loss": step.loss,
        "norm": step.norm,
        "learning_rate": step.learning_rate,
        "tokens": step.count,
        "tokens_per_second": step.count / step.seconds,
        "peak_memory_bytes": devices.peak_memory(device),
    }
    if step.logs.get("bytes"):
        out["bits_per_byte"] = bits_per_byte(_nats(step), int(step.logs["bytes"]))
    if step.skipped:
        out["skipped"] = step.skipped
    if "auxiliary" in step.logs:
        out["auxiliary"] = step.logs["auxiliary"] / step.count
    return out | {key: value for key, value in step.logs.items() if key not in ("bytes", "auxiliary")}


def _nats(step: Step) -> float:
    """What of a step's loss is of the labels alone, summed."""
    return step.loss * step.count - step.logs.get("auxiliary", 0.0)


def log_metrics(write: Callable[[dict[str, Any]], None], interval: int, device: str) -> Hook:
    """Hands `figures` of every `interval`-th step to `write`, which owns metrics.jsonl or a tracker.

    Besides, those of step 1 and of every step that was skipped.
    """

    def hook(step: Step) -> None:
        if step.step == 1 or step.step % interval == 0 or step.skipped:
            write(figures(step, device))

    return hook


def sample(generate: Callable[[], str], show: Callable[[int, str], None], interval: int) -> Hook:
    """Lets the model write every `interval` steps; `generate` must put the model in evaluation mode (`evaluating`)."""
    return every(interval, lambda step: show(step.step, generate()))


class Validate:
    """Scores held-out text, remembers the best, stops when it no longer gets better, warns when the model overfits.

    `evaluate` gives at least "loss" (nats a token); `write` takes its figures with the step, for metrics; `warn` takes
    a line for people.
    """

    RECENT = 50
    """Training losses averaged for the gap between training and validation."""

    def __init__(
        self,
        evaluate: Callable[[], Mapping[str, float]],
        *,
        every: int,
        patience: int = 0,
        gap_alarm: float = 0.5,
        write: Callable[[dict[str, Any]], None] = lambda figures: None,
        warn: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self.evaluate, self.write, self.warn = evaluate, write, warn
        self.every, self.patience, self.gap_alarm = every, patience, gap_alarm
        self.recent: deque[float] = deque(maxlen=self.RECENT)
        self.best: float | None = None
        self.best_step = 0
        self.worse = 0
        self.alarmed = False

    def __call__(self, step: Step) -> str | None:
        """The hook."""
        if not step.skipped:
            self.recent.append(_nats(step) / step.count)
        if not self.every or step.step % self.every:
            return None
        self.measure(step.step)
        return EARLY_STOP if self.patience and self.worse >= self.patience else None

    def measure(self, step: int) -> Mapping[str, float]:
        """Scores now; keeps the best and the count of validations since, and raises the alarm of the gap."""
        figures = self.evaluate()
        loss = figures["loss"]
        gap = loss - fmean(self.recent) if self.recent else 0.0
        self.write({"step": step, "gap": gap, **{f"validation.{key}": value for key, value in figures.items()}})
        if self.best is None or loss < self.best:
            self.best, self.best_step, self.worse = loss, step, 0
        else:
            self.worse += 1
        if gap > self.gap_alarm and not self.alarmed:
            self.alarmed = True
            self.warn(
                f"step {step}: overfitting: validation loss {loss:.3f} is {gap:.3f} nats a token above the training "
                "loss; use more text, dropout, a smaller model, or validation.patience to stop early"
            )
        return figures

    def state(self) -> dict[str, Any]:
        """For the checkpoint; JSON."""
        kept = ("best", "best_step", "worse", "alarmed")
        return {"recent": list(self.recent), **{key: getattr(self, key) for key in kept}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """From the checkpoint."""
        self.recent = deque(state["recent"], maxlen=self.RECENT)
        self.best, self.best_step = state["best"], int(state["best_step"])
        self.worse, self.alarmed = int(state["worse"]), bool(state["alarmed"])


@contextlib.contextmanager
def progress(steps: int, device: str, *, stream: TextIO | None = None, seconds: float = 10.0) -> Iterator[Hook]:
    """A live line on stderr: a bar where it is a terminal, else a plain line every `seconds` and for the last step."""
    stream = stream or sys.stderr
    console = Console(file=stream)
    speed = _Speed(steps)
    if not console.is_terminal:
        yield _plain(steps, device, stream, seconds, speed)
        return
    columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(20), TextColumn("{task.description}"))
    with Progress(*columns, console=console, redirect_stdout=False) as bar:
        task = bar.add_task("", total=steps)

        def hook(step: Step) -> None:
            bar.update(task, completed=step.step, description=_line(step, device, speed(step)))

        yield hook


def _plain(steps: int, device: str, stream: TextIO, seconds: float, speed: _Speed) -> Hook:
    shown = -float("inf")

    def hook(step: Step) -> None:
        nonlocal shown
        left = speed(step)
        if step.step == steps or time.monotonic() - shown >= seconds:
            shown = time.monotonic()
            print(f"step {step.step}/{steps}  {_line(step, device, left)}", file=stream, flush=True)

    return hook


class _Speed:
    """Tokens a second and seconds left, from a running mean over about twenty steps, hooks included."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.last: float | None = None
        self.per_step = self.per_token = 0.0

    def __call__(self, step: Step) -> tuple[float, float]:
        now = time.monotonic()
        took = step.seconds if self.last is None else now - self.last
        weight = 1.0 if self.last is None else 0.05
        self.per_step += weight * (took - self.per_step)
        self.per_token += weight * (took / step.count - self.per_token)
        self.last = now
        return 1 / max(self.per_token, 1e-12), self.per_step * (self.steps - step.step)


def _line(step: Step, device: str, speed: tuple[float, float]) -> str:
    """loss, bits per byte, tokens a second, time left, peak memory."""
    rate, left = speed
    figure = figures(step, device)
    parts = [f"loss {step.loss:.4f}"]
    if "bits_per_byte" in figure:
        parts.append(f"{figure['bits_per_byte']:.3f} bits/byte")
    parts += [f"{rate:,.0f} tokens/s", f"{_duration(left)} left", f"{figure['peak_memory_bytes'] / 2**20:,.0f} MB"]
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Hook]:
    """Turns the first SIGTERM, SIGINT or SIGHUP into a reason to stop after the step; a second one leaves at once.

    The reason is the signal's name. Outside the main thread Python allows no handlers, and the hook never stops.
    """
    caught: list[str] = []

    def handle(number: int, frame: object) -> None:
        if caught:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        caught.append(signal.Signals(number).name)
        text = f"\n{caught[0]}: finishing this step, then saving; once more leaves at once\n"
        os.write(2, text.encode())  # print may be what was interrupted

    def hook(step: Step) -> str | None:
        return caught[0] if caught else None

    if threading.current_thread() is not threading.main_thread():
        yield hook
        return
    heeded = [n for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heeded}  # nohup's ignored SIGHUP stays ignored
    try:
        yield hook
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
