"""Trackers: TensorBoard's files read back by its own reader; W&B and MLflow through stand-ins of their API."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from idiolect import track
from idiolect.errors import UserError

RECIPE = {"model": {"kind": "gru", "width": 7}, "train": {"steps": 11}}


def scalars(folder, name):
    """(step, value) of one name, as TensorBoard itself reads them."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_reads_back_what_was_logged(tmp_path):
    (tracker,) = track.start(["tensorboard"], tmp_path, RECIPE)
    tracker.log(10, {"loss": 2.5, "learning_rate": 0.25})
    tracker.log(20, {"loss": 1.5})
    tracker.finish()
    assert scalars(tmp_path / "tensorboard", "loss") == [(10, 2.5), (20, 1.5)]
    assert scalars(tmp_path / "tensorboard", "learning_rate") == [(10, 0.25)]


def test_tensorboard_forgets_what_lies_after_the_step_resumed_from(tmp_path):
    for start, steps in ((0, (10, 20, 30)), (20, (20, 40))):
        (tracker,) = track.start(["tensorboard"], tmp_path, RECIPE, start)
        for step in steps:
            tracker.log(step, {"loss": float(start + step)})
        tracker.finish()
    assert scalars(tmp_path / "tensorboard", "loss") == [(10, 10.0), (20, 40.0), (40, 60.0)]


def test_wandb_gets_the_numbers_and_the_same_run_again(tmp_path, monkeypatch):
    calls = []

    def init(**given):
        calls.append(("init", given["id"], given["resume"], given["config"], given["name"]))
        log = lambda values, step: calls.append(("log", step, values))  # noqa: E731
        return SimpleNamespace(id="abc", log=log, finish=lambda: calls.append(("finish",)))

    monkeypatch.setitem(sys.modules, "wandb", module("wandb", init=init))
    for _ in range(2):
        (tracker,) = track.start(["wandb"], tmp_path, RECIPE)
        tracker.log(10, {"loss": 2.5})
        tracker.finish()
    once = [("log", 10, {"loss": 2.5}), ("finish",)]
    first, again = ("init", None, "allow", RECIPE, tmp_path.name), ("init", "abc", "allow", RECIPE, tmp_path.name)
    assert calls == [first, *once, again, *once]


def test_mlflow_gets_the_numbers_and_the_same_run_again(tmp_path, monkeypatch):
    calls = []

    def start_run(run_id, run_name):
        calls.append(("start", run_id))
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    fake = module(
        "mlflow",
        start_run=start_run,
        log_params=lambda values: calls.append(("params", values)),
        log_metrics=lambda values, step: calls.append(("log", step, values)),
        end_run=lambda: calls.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    for _ in range(2):
        (tracker,) = track.start(["mlflow"], tmp_path, RECIPE)
        tracker.log(10, {"loss": 2.5})
        tracker.finish()
    once = [("log", 10, {"loss": 2.5}), ("finish",)]
    params = ("params", {"model.kind": "gru", "model.width": 7, "train.steps": 11})
    assert calls == [("start", None), params, *once, ("start", "r1"), *once]


@pytest.mark.parametrize(
    ("name", "package", "mend"),
    [
        ("tensorboard", "torch.utils.tensorboard", "pip install 'idiolect[track]'"),
        ("wandb", "wandb", "pip install wandb"),
        ("mlflow", "mlflow", "pip install mlflow"),
    ],
)
def test_a_missing_package_is_named_with_how_to_install_it(tmp_path, monkeypatch, name, package, mend):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as error:
        track.start([name], tmp_path, RECIPE)
    assert name in error.value.what and mend in error.value.mend and error.value.code == 2


def module(name, **members):
    """A stand-in of a package."""
    made = ModuleType(name)
    vars(made).update(members)
    return made
