"""OT9: a built-in local tracker that needs no account; TensorBoard and Weights & Biases if wanted."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from idiolect import track
from idiolect.data.batch import Batch
from idiolect.errors import UserError
from idiolect.runs import Run
from idiolect.testing import TinyModel
from idiolect.train import hooks, objectives, optimisers, schedules
from idiolect.train.loop import Step, fit
from idiolect.train.settings import Resolved, TrainSettings


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*parts: object) -> NoReturn:
        raise AssertionError("the tracker asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def train(run: Run, *trackers: track.Tracker) -> list[Step]:
    """Seven steps of a tiny model, with metrics written to the run and to the trackers."""

    def write(figures: dict[str, Any]) -> None:
        run.append_metrics(figures)
        for tracker in trackers:
            tracker.log(figures["step"], {key: value for key, value in figures.items() if key != "step"})

    settings = TrainSettings(steps=7, learning_rate=0.1)
    model = TinyModel(13)
    ids = torch.arange(12).reshape(2, 6)
    steps: list[Step] = []
    fit(
        model,
        lambda step: [Batch(ids, ids + 1)],
        objectives.next_token,
        optimisers.build(model, settings),
        schedules.build(settings),
        settings=settings,
        resolved=Resolved(),
        hooks=[steps.append, hooks.log_metrics(write, 2, "cpu")],  # type: ignore[list-item]
    )
    return steps


def test_OT9_the_local_tracker_needs_no_account_no_network_and_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("wandb", "tensorboard", "torch.utils.tensorboard", "mlflow"):
        monkeypatch.setitem(sys.modules, package, None)  # as if none were installed
    run = Run.create(tmp_path / "run")
    with run.lock():
        steps = train(run)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 4, 6]
    for line in lines:
        done = steps[line["step"] - 1]
        assert (line["loss"], line["norm"], line["learning_rate"]) == (done.loss, done.norm, done.learning_rate)
        assert line["tokens_per_second"] > 0
        assert line["peak_memory_bytes"] > 0
    assert run.read_metrics() == lines
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra `track` is not installed")
def test_OT9_tensorboard_reads_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run.create(tmp_path / "run")
    with run.lock():
        (board,) = track.start(["tensorboard"], run.folder, {"train": {"steps": 7}})
        train(run, board)
        board.finish()
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    ours = {line["step"]: line for line in run.read_metrics()}
    for name in ("loss", "norm", "learning_rate"):
        theirs = {event.step: event.value for event in events.Scalars(name)}
        assert theirs == pytest.approx({step: line[name] for step, line in ours.items()}, rel=1e-6)


def test_OT9_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb") as caught:
        track.start(["wandb"], tmp_path, {})
    assert "pip install wandb" in caught.value.mend


def test_OT9_weights_and_biases_gets_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeRun:
        id = "abc"
        logged: list[tuple[int, dict[str, float]]] = []
        finished = False

        def log(self, values: dict[str, float], step: int) -> None:
            self.logged.append((step, values))

        def finish(self) -> None:
            FakeRun.finished = True

    class FakePackage:
        @staticmethod
        def init(**settings: Any) -> FakeRun:
            return FakeRun()

    monkeypatch.setitem(sys.modules, "wandb", FakePackage)
    run = Run.create(tmp_path / "run")
    with run.lock():
        (tracker,) = track.start(["wandb"], run.folder, {})
        train(run, tracker)
        tracker.finish()
    assert [{"step": step, **values} for step, values in FakeRun.logged] == run.read_metrics()
    assert FakeRun.finished
