"""LoRA in the fused block of bf16 training on a CPU."""

import pytest
import torch

from idiolect.adapt import lora
from idiolect.adapt.edits import edit
from idiolect.adapt.settings import LoraSettings
from idiolect.models import fused, layers
from idiolect.models.settings import DecoderSettings

BF16 = 2.0**-8
"""The spacing of bf16 around 1."""
needs_products = pytest.mark.skipif(not fused.products(), reason="this CPU leaves its products to torch")
BLOCKS = {
    "gpt2": {"norm": "layer", "mlp": "gelu", "position": "learned", "attention_bias": "all", "mlp_bias": True},
    "llama": {"kv_heads": 2},
}
WAYS = {
    "all": LoraSettings(rank=6),
    "some": LoraSettings(rank=2, alpha=5.0, targets=("attention.value", "mlp.down")),
    "out": LoraSettings(rank=4, targets=("attention.out", "mlp.up")),
}


class Model(torch.nn.Module):
    """A block where an edit finds it."""

    def __init__(self, block):
        super().__init__()
        self.blocks = torch.nn.ModuleList([block])


def made(changes, settings):
    shape = DecoderSettings(layers=1, heads=4, width=64, mlp_width=106, context=53, **changes)
    model, generator = Model(layers.Block(shape)), torch.Generator().manual_seed(5)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator)
    edit(model, settings)
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1, generator=generator)
    rope = layers.rotary(torch.arange(53), 16, 1e4) if shape.position == "rope" else None
    x, upstream = (torch.randn(3, 53, 64, generator=generator) for _ in range(2))
    return model, model.blocks[0], rope, x.requires_grad_(), upstream


@needs_products
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("changes", BLOCKS.values(), ids=BLOCKS.keys())
def test_a_block_with_updates_is_that_of_its_modules_in_fp32_and_only_they_have_gradients(changes, way):
    model, block, rope, x, upstream = made(changes, WAYS[way])
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    exact = block(x, rope)
    with torch.autocast("cpu", torch.bfloat16):
        assert block.fuses(x)
        ours = block(x, rope)
    assert (ours - exact).norm() <= 3 * BF16 * exact.norm()
    theirs = torch.autograd.grad(exact, wanted, upstream)
    for got, want in zip(torch.autograd.grad(ours, wanted, upstream, retain_graph=True), theirs, strict=True):
        assert got.dtype == torch.float32
        assert (got - want).norm() <= 6 * BF16 * want.norm()
    ours.backward(upstream)
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


@needs_products
def test_what_the_block_has_no_product_for_is_left_to_the_modules():
    def fuses(settings, change=lambda model: None, training=True):
        model, block, _, x, _ = made(BLOCKS["llama"], settings)
        change(model.train(training))
        with torch.autocast("cpu", torch.bfloat16):
            return block.fuses(x)

    assert fuses(LoraSettings(rank=6))
    assert fuses(LoraSettings(rank=6, dropout=0.1), training=False)
    assert fuses(LoraSettings(rank=6, dora=True), lambda model: lora.use(model, None))
    assert fuses(LoraSettings(rank=6, dora=True), lora.merge)
    assert not fuses(LoraSettings(rank=5))
    assert not fuses(LoraSettings(rank=6, dora=True))
    assert not fuses(LoraSettings(rank=6, dropout=0.1))
    assert not fuses(LoraSettings(rank=6, base="nf4"))
    assert not fuses(
        LoraSettings(rank=6), lambda model: model.blocks[0].mlp.up.linear.register_forward_hook(lambda *call: None)
    )
