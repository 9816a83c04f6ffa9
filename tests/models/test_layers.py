"""The parts of a transformer, by pencil and against transformers."""

import math

import pytest
import torch
from transformers import Gemma2Config, LlamaConfig, Olmo2Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.olmo2.modeling_olmo2 import Olmo2DecoderLayer

from idiolect.models.layers import Attention, Block, Mlp, norm, positions_within, reach, rotary, rotate
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


def redrawn(module, seed=1):
    """The module with every parameter moved by normal numbers: no bias or norm is its default."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return module.eval()


TORCHS = {
    "attention_norm": "norm1",
    "mlp_norm": "norm2",
    "attention.out": "self_attn.out_proj",
    "mlp.up": "linear1",
    "mlp.down": "linear2",
}


@pytest.mark.parametrize("place", ["before", "residual"])
@pytest.mark.parametrize("mlp", ["gelu-exact", "relu"])
@pytest.mark.parametrize("masked", ["", "bias", "bool"])
def test_a_block_equals_torchs_with_masks_of_either_kind(place, mlp, masked, monkeypatch):
    D, T = 12, 7
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)  # it takes no masks of numbers
    activation = {"gelu-exact": "gelu", "relu": "relu"}[mlp]
    kinds = {"norm_first": place == "before", "activation": activation, "batch_first": True, "layer_norm_eps": 0.02}
    theirs = redrawn(torch.nn.TransformerEncoderLayer(D, 2, 11, 0.0, **kinds))
    style = {"norm": "layer", "norm_epsilon": 0.02, "norm_place": place, "attention_bias": "all", "mlp_bias": True}
    ours = Block(DecoderSettings(heads=2, width=D, mlp_width=11, mlp=mlp, **style)).eval()
    tensors = theirs.state_dict()
    state = {f"{a}.{kind}": tensors[f"{b}.{kind}"] for a, b in TORCHS.items() for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        parts = tensors[f"self_attn.in_proj_{kind}"].chunk(3)
        state |= {f"attention.{name}.{kind}": part for name, part in zip(("query", "key", "value"), parts)}
    ours.load_state_dict(state)
    x, bias = torch.randn(3, T, D), torch.randn(T, T)
    theirs_, mask = {
        "": (None, None),
        "bias": (bias, bias[None, None].expand(1, 2, T, T)),
        "bool": (torch.ones(T, T).triu(1).bool(), torch.ones(T, T).tril().bool()),
    }[masked]
    with torch.no_grad():
        torch.testing.assert_close(ours(x, mask=mask, causal=False), theirs(x, src_mask=theirs_), rtol=0, atol=1e-5)


HUGGING_FACES = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
SIZES = {
    "hidden_size": 24,
    "intermediate_size": 11,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "attn_implementation": "eager",
}
SAME = {"heads": 4, "kv_heads": 2, "width": 24, "mlp_width": 11, "norm_epsilon": 0.03}


def same_block(theirs, ours, names):
    names = HUGGING_FACES | names
    tensors = theirs.state_dict()
    ours.load_state_dict({name: tensors[names[name.rpartition(".")[0]] + ".weight"] for name in ours.state_dict()})
    x = torch.randn(3, 7, 24)
    rope = rotary(torch.arange(7), 6, 1e4)
    mask = torch.full((7, 7), -torch.inf).triu(1).expand(3, 1, 7, 7)
    with torch.no_grad():
        expected = theirs(x, attention_mask=mask, position_embeddings=tuple(part[None] for part in rope))
        torch.testing.assert_close(ours.eval()(x, rope), expected, rtol=0, atol=1e-5)


def test_a_block_with_norms_after_and_joint_query_norms_equals_olmo_2s():
    theirs = redrawn(Olmo2DecoderLayer(Olmo2Config(**SIZES, rms_norm_eps=0.03), 0))
    settings = DecoderSettings(**SAME, norm_place="after", qk_norm=True)
    ours = Block(settings, Attention(settings, joint=True))
    names = {"attention_norm": "post_attention_layernorm", "mlp_norm": "post_feedforward_layernorm"}
    same_block(theirs, ours, names)


def test_a_block_with_norms_around_offset_weights_soft_caps_and_gated_gelu_equals_gemma_2s():
    config = Gemma2Config(**SIZES, head_dim=6, rms_norm_eps=0.03, query_pre_attn_scalar=5, attn_logit_softcapping=2.5)
    theirs = redrawn(Gemma2DecoderLayer(config, 0))
    settings = DecoderSettings(**SAME, head_width=6, norm="rms-offset", norm_place="both", mlp="geglu")
    ours = Block(settings, Attention(settings, scale=5**-0.5, softcap=2.5))
    names = {
        "attention_norm": "input_layernorm",
        "attention_norm_after": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_norm_after": "post_feedforward_layernorm",
    }
    same_block(theirs, ours, names)
