"""LoRA by hand: its sum, its scales, DoRA's lengths, merging."""

import math

import pytest
import torch
from torch import nn

from idiolect.adapt import lora
from idiolect.adapt.edits import edit
from idiolect.adapt.quantised import BLOCK, Quantised, levels
from idiolect.adapt.settings import LoraSettings


class Layer(nn.Module):
    """One linear layer."""

    def __init__(self, K, N, bias=True):
        super().__init__()
        self.layer = nn.Linear(K, N, bias=bias)

    def forward(self, x):
        return self.layer(x)


def layer(weight, bias, settings, A, B):
    model = Layer(2, 3)
    with torch.no_grad():
        model.layer.weight.copy_(torch.tensor(weight))
        model.layer.bias.copy_(torch.tensor(bias))
    edit(model, settings)
    pair = model.layer.pairs["default"]
    with torch.no_grad():
        pair.A.copy_(torch.tensor(A))
        pair.B.copy_(torch.tensor(B))
    return model


W, BIAS, A, B = [[3.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [1.0, 2.0, 3.0], [[2.0, 1.0]], [[1.0], [0.0], [-1.0]]
X = torch.tensor([[1.0, 2.0]])


def test_the_sum_by_hand():
    """x Wᵀ + b = [4, 4, 6]; A x = 4; s = 6 / 1; so the first gains 24 and the last loses it."""
    model = layer(W, BIAS, LoraSettings(rank=1, alpha=6.0, targets=("layer",)), A, B)
    assert model(X).tolist() == [[28.0, 4.0, -18.0]]


@pytest.mark.parametrize(("rslora", "scale"), [(False, 12 / 9), (True, 12 / 3)])
def test_the_scale_is_alpha_over_the_rank_or_its_root(rslora, scale):
    assert LoraSettings(rank=9, alpha=12.0, rslora=rslora).scale == scale


def test_dora_by_hand():
    """W + B A = [[5, 1], [0, 1], [-1, 0]] of lengths √26, 1, 1; the magnitudes stay 3, 1, √2.

    So the rows become 3/√26 [5, 1], [0, 1] and √2 [-1, 0], which give 21/√26 + 1, 2 + 2 and 3 - √2.
    """
    model = layer(W, BIAS, LoraSettings(rank=1, alpha=1.0, dora=True, targets=("layer",)), A, B)
    expected = [21 / math.sqrt(26) + 1, 4.0, 3 - math.sqrt(2)]
    assert model(X)[0].tolist() == pytest.approx(expected, abs=1e-6)
    lora.merge(model)
    assert model(X)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_dora_lets_no_gradient_through_the_length():
    """d/dm is the direction times x: (W + B A) x / ‖W + B A‖, and A's is that of a plain sum times m / ‖…‖."""
    model = layer(W, BIAS, LoraSettings(rank=1, alpha=1.0, dora=True, targets=("layer",)), A, B)
    model(X).sum().backward()
    pair = model.layer.pairs["default"]
    assert pair.magnitude.grad.tolist() == pytest.approx([7 / math.sqrt(26), 2.0, -1.0], abs=1e-6)
    ratio = [3 / math.sqrt(26), 1.0, math.sqrt(2)]
    assert pair.A.grad[0].tolist() == pytest.approx([ratio[0] - ratio[2], 2 * (ratio[0] - ratio[2])], abs=1e-5)


def test_dropout_acts_on_what_the_update_reads_alone_and_only_in_training():
    torch.manual_seed(0)
    model = layer(W, BIAS, LoraSettings(rank=1, alpha=1.0, dropout=0.5, targets=("layer",)), A, B)
    rows = model.train()(X.repeat(200, 1))
    seen = {round(value, 4) for value in rows[:, 0].tolist()}
    assert seen == {4.0, 8.0, 12.0}  # 4 + (0, 2·2, 2·1·2 or both)
    assert rows[:, 1].unique().tolist() == [4.0]
    assert model.eval()(X).tolist() == [[8.0, 4.0, 2.0]]


def test_merging_and_back_restores_every_bit():
    model = Layer(37, 41).eval()
    edit(model, LoraSettings(rank=5, targets=("layer",)))
    with torch.no_grad():
        model.layer.pairs["default"].B.normal_()
    x, before = torch.randn(7, 37), model.layer.weight.clone()
    apart = model(x)
    lora.merge(model)
    assert model.layer.merged and not torch.equal(model.layer.weight, before)
    torch.testing.assert_close(model(x), apart, atol=1e-5, rtol=0)
    lora.merge(model)  # once more changes nothing
    torch.testing.assert_close(model(x), apart, atol=1e-5, rtol=0)
    lora.unmerge(model)
    assert torch.equal(model.layer.weight, before) and torch.equal(model(x), apart)


def test_it_trains_under_bf16_autocast():
    model = Layer(32, 32)
    edit(model, LoraSettings(rank=4, targets=("layer",)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.randn(11, 32)).float().square().sum().backward()
    pair = model.layer.pairs["default"]
    assert pair.B.grad.dtype == torch.float32 and pair.B.grad.abs().sum() > 0
    assert model.layer.linear.weight.grad is None


# --- quantised layers


def test_the_levels_of_nf4_are_those_of_the_paper():
    """QLoRA, appendix E, to the digits printed there."""
    printed = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
    printed += [-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725]
    printed += [0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023]
    assert levels().tolist() == pytest.approx([*printed, 1.0], abs=2e-6)


def test_int8_by_hand():
    """A block whose largest is 2.54 has steps of 0.02."""
    model = nn.Linear(3, 1, bias=False)
    model.weight.data = torch.tensor([[2.54, -0.031, 1.0]])
    assert Quantised(model, "int8").weight[0].tolist() == pytest.approx([2.54, -0.04, 1.0], abs=1e-6)


def test_nf4_takes_the_nearest_level_of_each_block():
    model = nn.Linear(67, 5, bias=False)  # the last block is part empty
    weight = model.weight.detach().clone()
    made = Quantised(model, "nf4")
    blocks = nn.functional.pad(weight.flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1, keepdim=True)
    apart = (blocks[..., None] / scales[..., None] - levels()).abs()
    nearest = levels()[apart.argmin(-1)] * scales
    torch.testing.assert_close(made.weight.flatten(), nearest.flatten()[: weight.numel()], atol=1e-7, rtol=0)
    assert made.nbytes == 6 * 32 + 6 * 4  # 335 numbers are 6 blocks
    assert isinstance(made.plain(), nn.Linear) and torch.equal(made.plain().weight, made.weight)


def test_scales_can_be_quantised_themselves():
    model = nn.Linear(1024, 64, bias=False)  # 1024 blocks
    model.weight.data.normal_()
    one, two = Quantised(nn.Linear(1, 1), "int8"), None
    first = nn.Linear(1024, 64, bias=False)
    first.weight.data = model.weight.data.clone()
    one, two = Quantised(first, "nf4"), Quantised(model, "nf4", double=True)
    assert one.nbytes == 32 * 1024 + 4 * 1024
    assert two.nbytes == 32 * 1024 + 1024 + 4 * 8  # a byte a scale, two numbers for every 256
    assert (one.weight - two.weight).abs().max() / one.weight.abs().max() < 0.005
    zero = nn.Linear(3, 5, bias=False)
    zero.weight.data.zero_()
    assert not Quantised(zero, "nf4", double=True).weight.any()
