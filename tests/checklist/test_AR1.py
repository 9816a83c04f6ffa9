"""AR1: a block is attention, feed-forward network, norms and residuals; the blocks have weights of their own."""

import pytest
import torch

from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings

V, L, D, H, K, d, W, C = 23, 3, 14, 6, 2, 4, 17, 19

SHAPES = {
    # 2 norms of D, q and out of D x Hd, k and v of D x Kd, gate, up and down of D x W a block; then norm, embedding
    "llama": (
        DecoderSettings(layers=L, heads=H, kv_heads=K, width=D, head_width=d, mlp_width=W, context=C),
        L * (2 * D + 2 * D * H * d + 2 * D * K * d + 3 * D * W) + D + V * D,
    ),
    # 2 norms with bias, four D x D with bias, up and down with bias; then norm, positions, embedding and a head apart
    "gpt2": (
        DecoderSettings(
            layers=L,
            heads=2,
            width=D,
            mlp_width=W,
            context=C,
            norm="layer",
            position="learned",
            mlp="gelu",
            attention_bias="all",
            mlp_bias=True,
            tied=False,
        ),
        L * (4 * D + 4 * (D * D + D) + 2 * D * W + W + D) + 2 * D + C * D + 2 * V * D,
    ),
    # biases of q, k and v only, and a norm of each head's queries and keys
    "qwen": (
        DecoderSettings(
            layers=L, heads=H, kv_heads=K, width=D, head_width=d, mlp_width=W, attention_bias="qkv", qk_norm=True
        ),
        L * (2 * D + 2 * D * H * d + 2 * D * K * d + 3 * D * W + (H + 2 * K) * d + 2 * d) + D + V * D,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_AR1_parameters_equal_the_formula(name):
    settings, formula = SHAPES[name]
    model = build(settings, V)
    assert sum(parameter.numel() for parameter in model.parameters()) == formula


def test_AR1_blocks_share_no_weights():
    model = build(SHAPES["llama"][0], V)
    addresses = [parameter.data_ptr() for parameter in model.blocks.parameters()]
    assert len(set(addresses)) == len(addresses)
    ids = torch.arange(11)[None]
    before = model.body(ids)
    first = [parameter.detach().clone() for parameter in model.blocks[0].parameters()]
    with torch.no_grad():
        for parameter in model.blocks[1].parameters():
            parameter.add_(0.1)
    assert all(torch.equal(a, b) for a, b in zip(first, model.blocks[0].parameters()))
    assert not torch.equal(model.body(ids), before)


def test_AR1_a_block_adds_to_the_residual():
    """With both output projections at zero the sublayers say nothing, and a block hands on what it was given."""
    model = build(SHAPES["llama"][0], V)
    block, x = model.blocks[0], torch.randn(2, 7, D)
    assert not torch.equal(block(x), x)
    with torch.no_grad():
        block.attention.out.weight.zero_()
        block.mlp.down.weight.zero_()
    assert torch.equal(block(x), x)
