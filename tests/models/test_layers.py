"""The parts of a transformer, by pencil and against transformers."""

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRotaryEmbedding, apply_rotary_pos_emb

from idiolect.models.layers import Attention, Mlp, norm, positions_within, reach, rotary, rotate
from idiolect.models.settings import DecoderSettings


def test_positions_start_anew_in_each_segment():
    segments = torch.tensor([[0, 0, 0, 1, 2, 2, -1], [0, 1, 1, 1, 1, 0, 0]])
    assert positions_within(segments).tolist() == [[0, 1, 2, 0, 0, 1, 0], [0, 0, 1, 2, 3, 0, 1]]


def test_reach_by_pencil():
    index = torch.arange(4)
    assert reach(index, index, None).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert reach(index, index, 2).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert reach(torch.tensor([[5], [1]]), index, 3).int().tolist() == [[[0, 0, 0, 1]], [[1, 1, 0, 0]]]


def test_rotations_turn_pairs_by_pencil():
    """Width 4: components 0 and 2 turn by the position, 1 and 3 by position / √theta."""
    cosine, sine = rotary(torch.tensor([0, 3]), 4, theta=100.0)
    x = torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(1, 1, 2, 4)
    expected = [[1, 0, 0, 1], [math.cos(3), -math.sin(0.3), math.sin(3), math.cos(0.3)]]
    torch.testing.assert_close(rotate(x, cosine, sine)[0, 0], torch.tensor(expected))


def test_rotations_equal_those_of_transformers():
    config = LlamaConfig(hidden_size=30, num_attention_heads=3, head_dim=10, max_position_embeddings=97)
    config.rope_parameters["rope_theta"] = 777.0
    positions = torch.tensor([[0, 1, 5, 96], [7, 2, 2, 50]])
    q, k = torch.randn(2, 3, 4, 10), torch.randn(2, 1, 4, 10)
    theirs = apply_rotary_pos_emb(q, k, *LlamaRotaryEmbedding(config)(q, positions))
    cosine, sine = (part[:, None] for part in rotary(positions, 10, theta=777.0))
    for ours, expected in zip((rotate(q, cosine, sine), rotate(k, cosine, sine)), theirs):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_only_distance_matters_to_rotated_products():
    q, k = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)

    def product(m, n):
        return float(rotate(q, *rotary(torch.tensor(m), 8, 1e4)) @ rotate(k, *rotary(torch.tensor(n), 8, 1e4)))

    assert product(3, 11) == pytest.approx(product(20, 28), abs=1e-5)


def test_swiglu_equals_llamas():
    config = LlamaConfig(hidden_size=7, num_attention_heads=7, intermediate_size=11, mlp_bias=True)
    theirs, ours = LlamaMLP(config), Mlp(DecoderSettings(heads=1, head_width=2, width=7, mlp_width=11, mlp_bias=True))
    pairs = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
    names = {f"{b}.{kind}": f"{a}.{kind}" for a, b in pairs.items() for kind in ("weight", "bias")}
    ours.load_state_dict({ours_: theirs.state_dict()[theirs_] for ours_, theirs_ in names.items()})
    x = torch.randn(3, 5, 7)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("mlp", "expected"), [("relu", [0.0, 2.0]), ("gelu", [-0.158808, 1.954598])])
def test_plain_mlp_by_pencil(mlp, expected):
    """Identity matrices leave the nonlinearity: relu and GELU's tanh form at -1 and 2 (Hendrycks and Gimpel 2016)."""
    layer = Mlp(DecoderSettings(heads=1, head_width=2, width=2, mlp_width=2, mlp=mlp))
    with torch.no_grad():
        layer.up.weight.copy_(torch.eye(2))
        layer.down.weight.copy_(torch.eye(2))
    assert layer(torch.tensor([-1.0, 2.0])).tolist() == pytest.approx(expected, abs=1e-5)


def test_norms_by_pencil():
    """Of (3, 4): the root mean square is √12.5; the mean 3.5 and the deviation 1/2."""
    x = torch.tensor([3.0, 4.0])
    rms = norm(2, DecoderSettings(norm="rms", norm_epsilon=1e-12))(x)
    assert rms.tolist() == pytest.approx([3 / 12.5**0.5, 4 / 12.5**0.5], abs=1e-6)
    layer = norm(2, DecoderSettings(norm="layer", norm_epsilon=1e-12))(x)
    assert layer.tolist() == pytest.approx([-1.0, 1.0], abs=1e-6)


def test_dropout_of_attention_only_while_training():
    attention = Attention(DecoderSettings(heads=2, width=14, head_width=4, dropout=0.5))
    x = torch.randn(2, 11, 14)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))
