from __future__ import annotations

import math

import torch

from idiolect.train import precision
from idiolect.train.precision import Scale


def test_products_are_taken_in_the_precision_asked_for() -> None:
    a = torch.ones(3, 3)
    for name, dtype in precision.DTYPES.items():
        with precision.forward(name, "cpu"):
            assert (a @ a).dtype == dtype


def test_only_fp16_scales() -> None:
    for name in ("fp32", "bf16"):
        scale = Scale(name)
        assert scale.value == 1
        assert scale.accepts(math.inf)  # there is no scale to blame: the loop's guard takes it
        assert scale.value == 1


def test_fp16_halves_on_overflow_and_doubles_after_a_clean_thousand() -> None:
    scale = Scale("fp16")
    assert scale.value == 65536
    assert not scale.accepts(math.nan)
    assert scale.value == 32768
    for _ in range(999):
        assert scale.accepts(1.0)
    assert scale.value == 32768
    assert scale.accepts(1.0)
    assert scale.value == 65536


def test_an_overflow_at_scale_one_is_the_models_own() -> None:
    scale = Scale("fp16")
    refused = 0
    while not scale.accepts(math.inf):
        refused += 1
    assert (refused, scale.value) == (16, 1)


def test_state_comes_back() -> None:
    scale, other = Scale("fp16"), Scale("fp16")
    scale.accepts(math.inf)
    for _ in range(7):
        scale.accepts(1.0)
    other.load_state(scale.state())
    assert (other.value, other.clean) == (32768, 7)
