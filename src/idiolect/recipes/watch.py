"""What a run does between its steps: metrics, progress, validation, samples, checkpoints, signals."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from idiolect import files, track
from idiolect.adapt.edits import trained
from idiolect.errors import UserError
from idiolect.recipes.ledger import Ledger
from idiolect.recipes.prepare import say
from idiolect.recipes.stage import Stage
from idiolect.runs import Run
from idiolect.train import checkpoint, hooks
from idiolect.train.checkpoint import Snapshot
from idiolect.train.loop import Hook, Memory, Step
from idiolect.train.optimisers import Optimizer
from idiolect.train.settings import Resolved


class Totals:
    """Tokens and seconds of the steps so far, over every interruption."""

    def __init__(self) -> None:
        self.tokens, self.seconds = 0, 0.0

    def __call__(self, step: Step) -> None:
        """The hook."""
        self.tokens += step.count
        self.seconds += step.seconds

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"tokens": self.tokens, "seconds": self.seconds}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """From the checkpoint."""
        self.tokens, self.seconds = state["tokens"], state["seconds"]


class Watched:
    """The run's hooks, and what it takes to save and restore it."""

    def __init__(self, run: Run, stage: Stage, model: Any, optimizer: Optimizer, memory: Memory) -> None:
        self.run, self.stage, self.recipe = run, stage, stage.recipe
        self.model, self.optimizer = model, optimizer
        self.step = 0
        self.saved = -1
        self.hooks: list[Hook] = []
        self.totals = Totals()
        self.validate = hooks.Validate(
            self._score,
            every=self.recipe.validation.every,
            patience=self.recipe.validation.patience,
            gap_alarm=self.recipe.validation.gap_alarm,
            write=self.write,
            warn=say,
        )
        self.remembering: dict[str, Any] = {"loop": memory, "validate": self.validate, "totals": self.totals}
        self.trackers: list[track.Tracker] = []
        self.ledger: Ledger | None = None

    def write(self, figures: dict[str, Any]) -> None:
        """One line of metrics, here and wherever the recipe sends them."""
        self.run.append_metrics(figures)
        numbers = {key: value for key, value in figures.items() if key != "step" and isinstance(value, (int, float))}
        for tracker in self.trackers:
            tracker.log(figures["step"], numbers)

    def restore(self, step: int | None) -> None:
        """Goes back to the newest whole checkpoint (or that of `step`); stays at step 0 without one."""
        snapshot = checkpoint.newest(self.run) if step is None else checkpoint.load(self.run, step)
        if snapshot is None:
            return
        where = f"checkpoint step-{snapshot.step}"
        checkpoint.check_tensors(snapshot.model, trained(self.model), where)
        self.model.load_state_dict(snapshot.model, strict=False)
        with files.understood(self.run.checkpoint(snapshot.step)):
            self.optimizer.load_tensors(snapshot.optimizer)
            for name, part in self.remembering.items():
                part.load_state(snapshot.memory[name])
        self.step = self.saved = snapshot.step
        checkpoint.prune(self.run, self.recipe.checkpoint.keep, snapshot.step)
        say(f"going on from {where}")

    def save(self, reason: str) -> None:
        """A checkpoint of the last step done, unless there is one."""
        if self.saved == self.step:
            return
        checkpoint.save(self.run, self._snapshot(), reason=reason, keep=self.recipe.checkpoint.keep)
        self.saved = self.step

    def save_aside(self, reason: str) -> None:
        """What there was before the step that diverged, beside the checkpoints, which stay as they are."""
        try:
            folder = checkpoint.save_aside(self.run, self._snapshot(), reason=reason)
            say(f"what there was before that step is kept aside in {folder}")
        except UserError as error:  # the loss is what ended the run
            say(f"nothing is kept aside: {error.what}")

    def _snapshot(self) -> Snapshot:
        about = {**self.stage.fingerprints, "validation_loss": self._validation_loss()}
        memory = {name: part.state() for name, part in self.remembering.items()}
        return Snapshot(self.step, trained(self.model), self.optimizer.tensors(), memory, about)

    def _validation_loss(self) -> float | None:
        """The loss measured at this very step when it was the best so far; what `keep` spares is the lowest."""
        return self.validate.best if self.validate.best_step == self.step else None

    def count(self, step: Step) -> None:
        """The hook that knows how far the run is; before all others."""
        self.step = step.step
        if step.skipped:
            say(f"left out, the weights stay as they are: {step.skipped}")

    def checkpoint(self, step: Step) -> None:
        """The hook that saves: every so often, and what early stopping would return to."""
        improved = self.recipe.validation.patience and self.validate.best_step == step.step
        if step.step % self.recipe.checkpoint.every == 0 or improved:
            self.save("interval")

    def _score(self) -> dict[str, float]:
        """The held-out figures worth a curve; those of the ledger's probes go into the metrics beside them."""
        if self.ledger is not None:
            self.write({"step": self.step, **self.ledger.now(self.model)})
        found = self.stage.score(self.model, self.recipe.validation.tokens)
        return {key: float(found[key]) for key in self.stage.curves if found.get(key) is not None}

    def write_sample(self) -> str:
        """A short text of the model's own."""
        with hooks.evaluating(self.model):
            return self.stage.sample(self.model, self.step)

    def sample(self, step: int, text: str) -> None:
        """What the model wrote, into the metrics and onto stderr."""
        if not text:
            return
        self.run.append_metrics({"step": step, "sample": text})
        say(f"── step {step} writes ──\n{text}\n──")


@contextlib.contextmanager
def watching(
    run: Run,
    stage: Stage,
    resolved: Resolved,
    model: Any,
    optimizer: Optimizer,
    memory: Memory,
    step: int | None,
) -> Iterator[Watched]:
    """The run restored, and its hooks in the order they act: measured first, saved last, so a checkpoint knows all."""
    recipe = stage.recipe
    watched = Watched(run, stage, model, optimizer, memory)
    watched.restore(step)
    run.truncate_metrics(watched.step)
    names = [name for name in ("tensorboard", "wandb", "mlflow") if getattr(recipe.track, name)]
    with contextlib.ExitStack() as stack:
        watched.trackers = track.start(names, run.folder, json.loads(recipe.model_dump_json()), watched.step)
        for tracker in watched.trackers:
            stack.callback(tracker.finish)
        watched.ledger = Ledger.of(run, stage)
        if watched.ledger is not None and watched.step == 0:
            watched.ledger.begin(model)
        watched.hooks = [
            watched.count,
            watched.totals,
            hooks.log_metrics(watched.write, recipe.track.log_every, resolved.device),
            stack.enter_context(hooks.progress(recipe.train.steps, resolved.device)),
            watched.validate,
            hooks.sample(watched.write_sample, watched.sample, recipe.sample.every),
            watched.checkpoint,
            stack.enter_context(hooks.stop_on_signals()),
        ]
        yield watched
