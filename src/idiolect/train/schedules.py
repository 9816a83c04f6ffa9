"""The learning rate as a closed-form function of the step, so that resuming needs no memory of it."""

from __future__ import annotations

import math
from collections.abc import Callable

from idiolect.train.settings import TrainSettings


def build(settings: TrainSettings) -> Callable[[int], float]:
    """The share of the highest learning rate at each step 0 … steps - 1.

    Warm-up over w steps is linear, (step + 1) / (w + 1), so that step w is the first at the highest rate. After it,
    with t from 0 at step w to 1 at the last step and m = min_learning_rate:
      cosine    m + (1 - m) (1 + cos(pi t)) / 2            (Loshchilov and Hutter 2017, eq. 5, one period)
      wsd       1, then a straight line to m over the last decay_share of all steps       (MiniCPM, Hu et al. 2024)
      constant  1
    """
    shape = SHAPES[settings.schedule]

    def share(step: int) -> float:
        if step < settings.warmup:
            return (step + 1) / (settings.warmup + 1)
        return shape(step, settings)

    return share


def cosine(step: int, settings: TrainSettings) -> float:
    """Half a cosine from 1 at the end of the warm-up to min_learning_rate at the last step."""
    length = settings.steps - 1 - settings.warmup
    t = min(1.0, (step - settings.warmup) / length) if length > 0 else 0.0
    least = settings.min_learning_rate
    return least + (1 - least) * (1 + math.cos(math.pi * t)) / 2


def wsd(step: int, settings: TrainSettings) -> float:
    """1, then a line that reaches min_learning_rate at the last step."""
    length = max(1, round(settings.decay_share * settings.steps))
    t = min(1.0, max(0.0, (step + 1 - (settings.steps - length)) / length))
    return 1 - t * (1 - settings.min_learning_rate)


def constant(step: int, settings: TrainSettings) -> float:
    """Always 1."""
    return 1.0


SHAPES = {"cosine": cosine, "wsd": wsd, "constant": constant}
