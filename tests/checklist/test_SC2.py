"""SC2: N ≈ 2 D L (2 d_attn + d_ff) ≈ 12 L D², without embeddings; formula and counted parameters agree."""

import pytest

from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings
from idiolect.plan.parameters import attention_matrices, count, kaplan, mlp_matrices

GPT = {"norm": "layer", "position": "learned", "mlp": "gelu", "attention_bias": "all", "mlp_bias": True}


def counted(settings, vocabulary):
    """Parameters of the built model without embeddings and head, and all of them."""
    model = build(settings, vocabulary, device="meta")
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    outside = sum(size for name, size in sizes.items() if name.split(".")[0] in ("embedding", "position", "head"))
    return sum(sizes.values()) - outside, sum(sizes.values())


def test_SC2_gpt3_by_the_rule_of_thumb():
    """Erratum 2: the document prints 12·96·122882²; 12,288 is meant."""
    assert kaplan(96, 12288, 12288, 4 * 12288) == 12 * 96 * 12288**2 == 173_946_175_488
    gpt3 = DecoderSettings(layers=96, heads=96, width=12288, context=2048, **GPT)
    inner, every = counted(gpt3, 50257)
    assert count(gpt3, 50257).inner == inner and count(gpt3, 50257).total == every
    assert round(every / 1e9, 1) == 174.6  # "≈ 175B", embeddings included


@pytest.mark.parametrize(
    ("layers", "heads", "width"), [(1, 1, 7), (2, 3, 33), (12, 12, 768), (5, 13, 91), (96, 96, 12288)]
)
def test_SC2_gpt_shapes_differ_from_the_rule_by_biases_and_norms_only(layers, heads, width):
    settings = DecoderSettings(layers=layers, heads=heads, width=width, context=11, **GPT)
    inner, _ = counted(settings, 17)
    rule = 12 * layers * width**2
    assert inner == count(settings, 17).inner
    assert inner - rule == 13 * layers * width + 2 * width  # so relative 13 / (12 d), and 2 d of the last norm
    assert abs(inner - rule) <= rule * 13 / (12 * width) + 2 * width


def test_SC2_attention_of_another_width_than_the_model_has_its_own_formula():
    settings = DecoderSettings(layers=3, heads=5, width=28, head_width=6, mlp_width=37, context=11, **GPT)
    inner, _ = counted(settings, 17)
    rule = kaplan(3, 28, 5 * 6, 37)
    assert rule == 2 * 28 * 3 * (2 * 30 + 37) != 12 * 3 * 28**2
    biases_and_norms = 3 * (3 * 30 + 28 + 37 + 28 + 4 * 28) + 2 * 28
    assert inner == count(settings, 17).inner == rule + biases_and_norms


def test_SC2_gated_mlps_and_shared_key_heads_have_their_own_formula():
    settings = DecoderSettings(layers=3, heads=6, kv_heads=2, width=36, mlp_width=53, context=11)
    inner, _ = counted(settings, 17)
    attention, mlp = 3 * 36 * 6 * (2 * 6 + 2 * 2), 3 * 3 * 36 * 53
    assert (attention_matrices(settings), mlp_matrices(settings)) == (attention, mlp)
    assert inner == count(settings, 17).inner == attention + mlp + (2 * 3 + 1) * 36
    assert kaplan(3, 36, 36, 53) != attention + mlp
