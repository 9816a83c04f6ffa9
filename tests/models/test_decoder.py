"""The decoder: initial loss, dropout, checkpointing, compiling, and what does not fit."""

import math

import pytest
import torch
import torch.nn.functional as F

from idiolect import seeds
from idiolect.errors import UserError
from idiolect.models.build import build
from idiolect.models.decoder import attention_maps
from idiolect.models.layers import STD
from idiolect.models.settings import DecoderSettings

V, B, T = 101, 3, 17

LLAMA = DecoderSettings(layers=2, heads=2, kv_heads=1, width=22, head_width=6, context=23)
GPT2 = DecoderSettings(
    layers=2,
    heads=2,
    width=22,
    context=23,
    norm="layer",
    position="learned",
    mlp="gelu",
    attention_bias="all",
    mlp_bias=True,
)


def batch():
    ids = torch.randint(0, V, (B, T + 1), generator=torch.Generator().manual_seed(1))
    return ids[:, :-1], ids[:, 1:]


def loss_of(model):
    ids, labels = batch()
    return F.cross_entropy(model.head(model.body(ids)).flatten(0, 1), labels.flatten())


@pytest.mark.parametrize("settings", [LLAMA, GPT2, LLAMA.model_copy(update={"tied": False})])
def test_initial_loss_is_that_of_a_uniform_guess(settings):
    assert float(loss_of(build(settings, V)).detach()) == pytest.approx(math.log(V), abs=0.05)


def test_initial_weights():
    model = build(GPT2.model_copy(update={"layers": 8, "width": 94}), 499)
    named = dict(model.named_parameters())
    assert float(named["embedding.weight"].detach().std()) == pytest.approx(STD, rel=0.05)
    assert float(named["blocks.3.mlp.up.weight"].detach().std()) == pytest.approx(STD, rel=0.05)
    for name in ("blocks.3.mlp.down.weight", "blocks.7.attention.out.weight"):
        assert float(named[name].detach().std()) == pytest.approx(STD / 4, rel=0.05)  # √(2 · 8)
    assert all((p == 0).all() for name, p in named.items() if name.endswith("bias"))
    assert all((p == 1).all() for name, p in named.items() if "norm" in name and name.endswith("weight"))
    assert not any(
        torch.equal(named["blocks.0.mlp.up.weight"], named[f"blocks.{i}.mlp.up.weight"]) for i in range(1, 8)
    )


def test_dropout_only_while_training_and_pinned_by_the_scope():
    model = build(LLAMA.model_copy(update={"dropout": 0.3}), V)
    ids, _ = batch()
    with seeds.scope(0, "a"):
        first = model.body(ids)
    with seeds.scope(0, "a"):
        again = model.body(ids)
    with seeds.scope(0, "b"):
        other = model.body(ids)
    assert torch.equal(first, again) and not torch.equal(first, other)
    model.eval()
    assert torch.equal(model.body(ids), build(LLAMA, V).body(ids))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activation_checkpointing_changes_no_gradient(dropout):
    gradients = []
    for switch in (False, True):
        model = build(LLAMA.model_copy(update={"dropout": dropout}), V)
        assert model.activation_checkpointing is False
        model.activation_checkpointing = switch
        with seeds.scope(0, "dropout"):
            loss_of(model).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_every_parameter_gets_a_gradient():
    for settings in (LLAMA, GPT2, LLAMA.model_copy(update={"qk_norm": True, "attention_bias": "qkv", "tied": False})):
        model = build(settings, V)
        loss_of(model).backward()
        for name, parameter in model.named_parameters():
            # a bias of all keys shifts every score of a query alike, which the softmax cancels
            assert parameter.grad.abs().sum() > 0 or name.endswith("key.bias"), name


def test_step_compiles_whole_and_twice_at_most():
    """No branch on data: one graph, and one more when the cache grows by a block; 'eager' needs no compiler."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = build(LLAMA.model_copy(update={"context": 200}), V).eval()
    step = torch.compile(model.step, backend="eager", fullgraph=True)
    ids = torch.randint(0, V, (2, 120), generator=torch.Generator().manual_seed(1))
    _, state = model.step(ids[:, :50], model.init_state(2, 150))
    _, plain = model.step(ids[:, :50], model.init_state(2, 150))
    for t in range(50, 120):
        compiled, state = step(ids[:, t : t + 1], state)
        logits, plain = model.step(ids[:, t : t + 1], plain)
        torch.testing.assert_close(compiled, logits, rtol=0, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


def test_longer_than_the_context_is_refused():
    model = build(LLAMA, V)
    with pytest.raises(UserError, match="24 tokens are more than the context of 23"):
        model.body(torch.zeros(1, 24, dtype=torch.int64))
    with pytest.raises(UserError, match="24 tokens are more than the context of 23"):
        model.init_state(1, 24)
    assert model.score(torch.zeros(1, 24, dtype=torch.int64)).shape == (1, 24)  # the last id is only predicted


def test_a_full_state_takes_padding_but_no_token():
    model = build(GPT2, V).eval()
    ids, _ = batch()
    _, state = model.step(ids, model.init_state(B, T), torch.tensor([17, 16, 3]))
    keys = state.keys[0][:1, :, :T].clone()
    _, state = model.step(ids[:, :4], state, torch.tensor([0, 1, 4]))
    assert torch.equal(state.keys[0][:1, :, :T], keys)  # the full row's tokens were not written over
    with pytest.raises(ValueError, match="18 tokens do not fit into a state of 17"):
        model.step(ids[:, :1], state)
    small = model.init_state(1, 5)
    with pytest.raises(ValueError, match="17 tokens do not fit into a state of 5"):
        small.put(torch.tensor([0]), state.select(torch.tensor([0])))


def test_float64_and_bfloat16_run():
    ids, _ = batch()
    for kind in (torch.float64, torch.bfloat16):
        model = build(LLAMA, V).to(kind).eval()
        logits, _ = model.step(ids, model.init_state(B, T))
        assert logits.dtype == model.score(ids).dtype == torch.promote_types(kind, torch.float32)


LONGROPE = {"kind": "longrope", "short": [1.0], "long": [2.0], "original_context": 7}
CONTRADICTIONS = [
    ({"global_layers": [0]}, "global_layers need a window"),
    ({"window": 3, "global_layers": [0, 1]}, "not all of them"),
    ({"window": 3, "global_layers": [2]}, "from 0 to 1"),
    ({"window": 3, "global_layers": [-1]}, "from 0 to 1"),
    ({"window": 3, "layers": 4, "global_layers": [2, 1]}, "ascending"),
    ({"unrotated_layers": [1, 1]}, "ascending"),
    ({"position": "none", "unrotated_layers": [1]}, "unrotated_layers needs rotary positions"),
    ({"position": "learned", "rope_share": 0.5}, "rope_share needs rotary positions"),
    ({"position": "learned", "rope_scaling": {"kind": "linear", "factor": 2.0}}, "rope_scaling needs rotary positions"),
    ({"rope_share": 0.3}, "even head_width, not 1"),
    ({"rope_share": 0.1}, "even head_width, not 0"),
    ({"window": 3, "rope_local_theta": 10.0}, "layers without the window"),
    ({"qk_norm_joint": True}, "needs qk_norm"),
    ({"rope_theta": 1.0, "rope_scaling": {"kind": "yarn", "factor": 2.0, "original_context": 7}}, "above 1"),
    ({"rope_scaling": LONGROPE}, "needs 3 short and long factors, not 1 and 1"),
    ({"rope_scaling": {"kind": "llama3", "original_context": 7, "low_frequency_factor": 4.0}}, "must be above"),
    ({"experts": {"count": 2, "per_token": 3}}, "per_token"),
    ({"experts": {"dense_layers": [0, 1]}}, "experts.dense_layers must be"),
    ({"experts": {"width": 3}, "mlp_width": 5}, "mlp_width has no effect"),
]


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS)
def test_settings_that_contradict_others_or_do_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DecoderSettings(**{"layers": 2, "heads": 2, "width": 12, **changes})


def test_a_layer_list_of_a_model_of_very_many_layers_costs_nothing():
    with pytest.raises(ValueError, match="ascending"):
        DecoderSettings(layers=10**15, heads=1, width=2, window=3, global_layers=[5, 4])


def test_attention_maps_show_what_each_layer_reads():
    """Sums of 1, nothing ahead, nothing before a window, and rotations only where there are any."""
    settings = DecoderSettings(
        layers=3,
        heads=2,
        width=12,
        context=23,
        window=4,
        global_layers=[1],
        unrotated_layers=[2],
        attention_softcap=3.0,
        norm_place="both",
    )
    model, (ids, _) = build(settings, V, seed=1).eval(), batch()
    maps = attention_maps(model, ids[0])
    assert maps.shape == (3, 2, T, T)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, T))
    index = torch.arange(T)
    distance = index[:, None] - index
    for layer, window in ((0, 4), (1, T), (2, 4)):
        seen = maps[layer].abs().sum(0) > 0
        assert torch.equal(seen, (distance >= 0) & (distance < window))
