from __future__ import annotations

import pytest

from idiolect.config import validate
from idiolect.errors import UserError
from idiolect.train import schedules
from idiolect.train.settings import TrainSettings


def shares(**settings: object) -> list[float]:
    made = TrainSettings(**settings)  # type: ignore[arg-type]
    return [schedules.build(made)(step) for step in range(made.steps)]


def test_cosine_by_hand() -> None:
    # warm-up 1/4, 2/4, 3/4; then t = 0, 1/4, 1/2, 3/4, 1 and 0.2 + 0.8 (1 + cos(pi t)) / 2
    got = shares(steps=8, warmup_steps=3, schedule="cosine", min_learning_rate=0.2)
    assert got == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.8828427, 0.6, 0.3171573, 0.2], abs=1e-7)


def test_wsd_by_hand() -> None:
    # the last 4 of 10 steps go down the line 1 → 0.2
    got = shares(steps=10, warmup_steps=1, schedule="wsd", decay_share=0.4, min_learning_rate=0.2)
    assert got == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2], abs=1e-12)


def test_constant_by_hand() -> None:
    assert shares(steps=4, warmup_steps=2, schedule="constant") == pytest.approx([1 / 3, 2 / 3, 1, 1])


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_no_warm_up_and_one_step(schedule: str) -> None:
    assert shares(steps=1, warmup_steps=0, schedule=schedule)[0] in (1.0, pytest.approx(0.1))


def test_cosine_equals_torch() -> None:
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=16, eta_min=0.1)
    for ours in shares(steps=17, warmup_steps=0, schedule="cosine", min_learning_rate=0.1):
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(("steps", "warmup"), [(5, 0), (37, 3), (1000, 100), (90_000, 100)])
def test_the_unset_warm_up_is_a_tenth_and_at_most_a_hundred(steps: int, warmup: int) -> None:
    assert TrainSettings(steps=steps).warmup == warmup


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(UserError, match=r"warmup_steps \(5\) must be fewer than steps \(5\)"):
        validate(TrainSettings, {"steps": 5, "warmup_steps": 5}, "recipe.toml")
