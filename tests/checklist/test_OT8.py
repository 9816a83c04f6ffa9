"""OT8: overfitting is handled by dropout and early stopping, and an alarm tells of the gap.

The text is noise, so whatever a model learns of it beyond the uniform distribution is learnt by heart and only hurts on
held-out noise: the best possible held-out loss is ln 11.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from idiolect.data.batch import Batch
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, RecurrentSettings
from idiolect.train import objectives, optimisers, schedules
from idiolect.train.hooks import EARLY_STOP, Validate, evaluating
from idiolect.train.loop import fit
from idiolect.train.settings import Resolved, TrainSettings

VOCABULARY = 11


def noise(seed: int) -> Batch:
    ids = torch.randint(0, VOCABULARY, (4, 17), generator=torch.Generator().manual_seed(seed))
    return Batch(ids[:, :-1], ids[:, 1:])


class Overfitted:
    """A decoder trained on four rows of noise, validated on four others."""

    def __init__(self, dropout: float = 0.0, steps: int = 60, **validation: Any) -> None:
        self.settings = TrainSettings(steps=steps, learning_rate=0.01, schedule="constant", warmup_steps=0)
        self.model = build(DecoderSettings(layers=1, heads=2, width=24, context=16, dropout=dropout), VOCABULARY)
        self.warned: list[str] = []
        self.metrics: list[dict[str, Any]] = []
        make: dict[str, Any] = {"every": 5, "warn": self.warned.append, "write": self.metrics.append, **validation}
        self.validate = Validate(self.held_out, **make)
        self.reason = fit(
            self.model,
            lambda step: [noise(1)],
            objectives.next_token,
            optimisers.build(self.model, self.settings),
            schedules.build(self.settings),
            settings=self.settings,
            resolved=Resolved(),
            hooks=[self.validate],
        )

    def held_out(self) -> Mapping[str, float]:
        return {"loss": self.loss(noise(2))}

    def loss(self, batch: Batch) -> float:
        with evaluating(self.model):
            loss = objectives.next_token(self.model, batch)
        return loss.total.item() / loss.count

    @property
    def gap(self) -> float:
        return self.loss(noise(2)) - self.loss(noise(1))


def test_OT8_without_a_remedy_the_model_overfits_and_the_alarm_says_so_once() -> None:
    run = Overfitted(gap_alarm=0.5)
    assert run.reason == "finished"
    assert run.gap > 2
    (line,) = run.warned
    assert "overfitting: validation loss" in line and "dropout" in line
    told = int(line.split(":")[0].removeprefix("step "))
    gaps = {figures["step"]: figures["gap"] for figures in run.metrics}
    assert gaps[told] > 0.5
    assert all(gap <= 0.5 for step, gap in gaps.items() if step < told)


def test_OT8_a_wide_enough_alarm_is_silent() -> None:
    assert Overfitted(gap_alarm=50.0).warned == []


def test_OT8_early_stopping_ends_near_the_best_held_out_loss() -> None:
    through = Overfitted()
    stopped = Overfitted(patience=3)
    assert stopped.reason == EARLY_STOP
    measured = [figures["validation.loss"] for figures in through.metrics]
    seen = [figures["validation.loss"] for figures in stopped.metrics]
    assert seen == measured[: len(seen)]  # the same run, only shorter
    assert len(seen) < len(measured)
    best = measured.index(min(seen))
    assert (stopped.validate.best, stopped.validate.best_step) == (seen[best], 5 * (best + 1))
    assert all(loss >= seen[best] for loss in seen[-3:])  # the three that used up the patience
    assert stopped.validate.best == pytest.approx(math.log(VOCABULARY), abs=0.4)
    assert measured[-1] > 2 * math.log(VOCABULARY)


def test_OT8_dropout_narrows_the_gap() -> None:
    assert Overfitted(dropout=0.5).gap < 0.5 * Overfitted().gap


@pytest.mark.parametrize(
    "make",
    [
        lambda p: DecoderSettings(layers=1, heads=2, width=24, context=16, dropout=p),
        lambda p: RecurrentSettings(kind="lstm", layers=2, width=24, context=16, dropout=p),
    ],
    ids=["decoder", "lstm"],
)
def test_OT8_dropout_acts_in_training_and_never_in_evaluation(make: Callable[[float], Any]) -> None:
    plain, dropping = build(make(0.0), VOCABULARY), build(make(0.4), VOCABULARY)
    ids = noise(1).ids
    with evaluating(plain), evaluating(dropping):
        assert torch.equal(plain.body(ids), dropping.body(ids))
    plain.train()
    dropping.train()
    torch.manual_seed(0)
    first, second = dropping.body(ids), dropping.body(ids)
    assert not torch.equal(first, second)
    assert torch.equal(plain.body(ids), plain.body(ids))
