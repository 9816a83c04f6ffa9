"""PE2: LoRA, h = x W + x A B: at first the base exactly, and gradients for A and B only."""

import torch

from idiolect.adapt.edits import edit
from idiolect.adapt.settings import LoraSettings
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings

SHAPE = DecoderSettings(layers=2, heads=11, width=22, context=19)
IDS = torch.randint(31, (3, 17), generator=torch.Generator().manual_seed(1))


def test_PE2_at_first_the_output_is_that_of_the_base_and_only_A_and_B_have_gradients():
    base, model = build(SHAPE, 31), build(SHAPE, 31)
    edit(model, LoraSettings(rank=3))
    assert torch.equal(model.body(IDS), base.body(IDS))
    for _ in range(2):  # A's gradient is 0 as long as B is
        model.body(IDS).square().sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= parameter.grad
    found = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    layers = ("attention.query", "attention.key", "attention.value", "attention.out", "mlp.gate", "mlp.up", "mlp.down")
    assert found == {f"blocks.{i}.{at}.pairs.default.{part}" for i in (0, 1) for at in layers for part in "AB"}
    assert all(model.get_parameter(name).grad.abs().sum() > 0 for name in found)


def test_PE2_the_change_is_of_no_higher_rank_than_r():
    model = build(SHAPE, 31)
    edit(model, LoraSettings(rank=3, targets=("mlp.up",)))
    pair = model.blocks[1].mlp.up.pairs["default"]
    with torch.no_grad():
        pair.B.normal_(generator=torch.Generator().manual_seed(2))
        assert torch.linalg.matrix_rank(pair.update()) == 3
        x = torch.randn(5, 22, generator=torch.Generator().manual_seed(3))
        W = model.blocks[1].mlp.up.weight
        torch.testing.assert_close(
            model.blocks[1].mlp.up(x), x @ W.T + x @ (pair.A.T @ pair.B.T) * (16 / 3), atol=1e-5, rtol=0
        )
