"""Metrics sent elsewhere besides the run's own metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

None of them is needed to train. Each is opened with the run's folder and recipe, given numbers by step, and closed.
The two that keep runs of their own get the same run again when training resumes: its id lies in RUN/tracking.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from idiolect import files
from idiolect.errors import UserError, missing_extra

IDS = "tracking.json"


class Tracker(Protocol):
    """Where numbers go."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values of one step."""
        ...

    def finish(self) -> None:
        """Flushes and closes."""
        ...


class TensorBoard:
    """Event files in RUN/tensorboard; `tensorboard --logdir RUN` shows them."""

    def __init__(self, run: Path, recipe: Mapping[str, Any], step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing_extra("track", "tensorboard", "track.tensorboard") from None
        # purge_step hides what an interrupted run logged after the checkpoint that this one resumes from
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step or None)
        self._writer.add_text("recipe", f"```json\n{json.dumps(recipe, indent=2, default=str)}\n```", step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values of one step, each as a scalar of its name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        """Flushes and closes the event file."""
        self._writer.close()


class WeightsAndBiases:
    """A run at Weights & Biases; its own environment variables (WANDB_PROJECT, WANDB_MODE, …) apply."""

    def __init__(self, run: Path, recipe: Mapping[str, Any], step: int = 0) -> None:
        try:
            import wandb
        except ImportError:
            raise _not_installed("wandb") from None
        self._run = wandb.init(dir=str(run), name=run.name, id=_id(run, "wandb"), resume="allow", config=dict(recipe))
        _keep_id(run, "wandb", self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values of one step."""
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        """Waits until everything is sent."""
        self._run.finish()


class MLflow:
    """A run in MLflow; its own environment variables (MLFLOW_TRACKING_URI, …) apply."""

    def __init__(self, run: Path, recipe: Mapping[str, Any], step: int = 0) -> None:
        try:
            import mlflow
        except ImportError:
            raise _not_installed("mlflow") from None
        self._mlflow = mlflow
        known = _id(run, "mlflow")
        started = mlflow.start_run(run_id=known, run_name=run.name)
        if known is None:  # parameters of an MLflow run cannot be changed once logged
            mlflow.log_params(_flat(recipe))
            _keep_id(run, "mlflow", started.info.run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values of one step."""
        self._mlflow.log_metrics(dict(values), step=step)

    def finish(self) -> None:
        """Ends the run."""
        self._mlflow.end_run()


TRACKERS: dict[str, type[TensorBoard] | type[WeightsAndBiases] | type[MLflow]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def start(names: Sequence[str], run: Path, recipe: Mapping[str, Any], step: int = 0) -> list[Tracker]:
    """Opens the trackers of these names (keys of TRACKERS) for the run folder `run`, which goes on from `step`.

    Raises UserError when the package of one is not installed.
    """
    return [TRACKERS[name](run, recipe, step) for name in names]


def _not_installed(package: str) -> UserError:
    return UserError(
        f"track.{package} needs the package {package}, which is not installed",
        f"install it with: pip install {package}",
    )


def _id(run: Path, name: str) -> str | None:
    path = run / IDS
    return files.read_json(path).get(name) if path.exists() else None


def _keep_id(run: Path, name: str, id_: str) -> None:
    path = run / IDS
    files.write_json(path, {**(files.read_json(path) if path.exists() else {}), name: id_})


def _flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"steps": 3}} as {"train.steps": 3}."""
    out: dict[str, Any] = {}
    for name, value in tables.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return out
