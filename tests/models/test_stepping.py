"""The step as one call: what torch computes, whatever the settings, the other rows and the threads."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from idiolect.models import stepping
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings

V, C = 101, 41

pytestmark = pytest.mark.skipif(stepping.library() is None, reason="no C++ compiler here")

SETTINGS = {
    "llama": DecoderSettings(layers=2, heads=3, width=37, head_width=14, mlp_width=53, context=C),
    "grouped": DecoderSettings(layers=3, heads=6, kv_heads=2, width=67, head_width=16, context=C, qk_norm=True),
    "one kv head": DecoderSettings(layers=1, heads=5, kv_heads=1, width=29, head_width=82, context=C, mlp_bias=True),
    "window": DecoderSettings(layers=2, heads=2, width=44, context=C, window=5, tied=False, attention_bias="qkv"),
    "gpt2": DecoderSettings(
        layers=2,
        heads=3,
        width=93,
        context=C,
        norm="layer",
        position="learned",
        mlp="gelu",
        attention_bias="all",
        mlp_bias=True,
    ),
    "bare": DecoderSettings(layers=1, heads=1, width=7, context=C, position="none", mlp="relu", norm_epsilon=0.1),
    "llama3": DecoderSettings(
        layers=2, heads=2, width=24, context=C, rope_scaling={"kind": "llama3", "original_context": 11}
    ),
    "yarn": DecoderSettings(
        layers=2, heads=2, width=24, context=C, rope_scaling={"kind": "yarn", "factor": 3.0, "original_context": 11}
    ),
    "wide heads": DecoderSettings(layers=2, heads=2, width=64, head_width=96, context=C, rope_theta=100.0),
}


def made(name, kind=torch.float32):
    model = build(SETTINGS[name], V, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():  # far from the initial symmetry: no term may hide behind a small weight
            parameter.mul_(2).add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    return model.eval().to(kind)


@pytest.fixture(params=SETTINGS)
def model(request):
    return made(request.param)


def drawn(*shape):
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(7))


def by_torch(monkeypatch):
    monkeypatch.setattr(stepping, "library", lambda: None)


def begun(model, B, length=C):
    """A state in which the rows hold 23, 22, … tokens."""
    _, state = model.step(drawn(B, 23), model.init_state(B, length), torch.arange(23, 23 - B, -1))
    return state


def taken(model, ids, state):
    return stepping.stepper(model, model.settings, ids, state) is not None


CALLS = [(1, 1, None), (2, 1, None), (5, 1, [1, 0, 1, 1, 0]), (3, 5, [5, 0, 2]), (11, 1, None), (1, 13, None)]


@pytest.mark.parametrize(("B", "T", "lengths"), CALLS)
def test_it_computes_what_torch_computes(model, B, T, lengths, monkeypatch):
    ids, lengths = drawn(B, T), None if lengths is None else torch.tensor(lengths)
    state = begun(model, B)
    assert taken(model, ids, state)
    other = state.select(torch.arange(B))
    logits, state = model.step(ids, state, lengths)
    again = state.select(torch.arange(B))
    one, state = model.step(ids[:, :1], state, last=True)
    by_torch(monkeypatch)
    expected, other = model.step(ids, other, lengths)
    for b in range(B):
        real = T if lengths is None else int(lengths[b])
        torch.testing.assert_close(logits[b, :real], expected[b, :real], rtol=0, atol=1e-5)
        n = int(again.lengths[b])
        for mine, theirs in zip(again.keys + again.values, other.keys + other.values, strict=True):
            torch.testing.assert_close(mine[b, :, :n], theirs[b, :, :n], rtol=1e-5, atol=1e-5)
    assert again.lengths.tolist() == other.lengths.tolist()
    torch.testing.assert_close(one, model.step(ids[:, :1], other, last=True)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_bf16_weights_are_computed_with_in_fp32(name, monkeypatch):
    """Only keys and values are rounded; torch in bf16 rounds everything and is many times further away."""
    low = made(name, torch.bfloat16)
    exact = copy.deepcopy(low).float()
    state, precise = low.init_state(3, C), exact.init_state(3, C)
    ids = drawn(3, 19)
    for t in range(19):
        assert taken(low, ids[:, t : t + 1], state)
        logits, state = low.step(ids[:, t : t + 1], state)
        expected, precise = exact.step(ids[:, t : t + 1], precise)
    assert logits.dtype == torch.float32 and state.keys[0].dtype == torch.bfloat16
    difference = (logits - expected).norm() / expected.norm()
    by_torch(monkeypatch)
    rounded, _ = low.step(ids, low.init_state(3, C), last=True)
    assert difference <= 2**-7
    assert difference < (rounded - expected).norm() / expected.norm()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SETTINGS)
def test_neither_other_rows_nor_threads_change_a_bit(name, kind, monkeypatch):
    model = made(name, kind)
    state, ids = begun(model, 13), drawn(13, 1)
    alone = [model.step(ids[b : b + 1], state.select(torch.tensor([b])))[0] for b in range(13)]
    monkeypatch.setattr(stepping, "WORK", 1)  # a thread each, however small the model
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            stepping._STEPPERS.clear()
            for rows in (torch.arange(13), torch.tensor([3, 8]), torch.tensor([12, 0, 5]), torch.arange(7)):
                logits, _ = model.step(ids[rows], state.select(rows))
                assert torch.equal(logits, torch.cat([alone[b] for b in rows]))
    finally:
        torch.set_num_threads(before)


def test_slots_beyond_a_rows_text_are_not_read(model):
    state = begun(model, 3)
    expected, _ = model.step(drawn(3, 1), state.select(torch.arange(3)))
    for side in (*state.keys, *state.values):
        for b, n in enumerate(state.lengths.tolist()):
            side[b, :, n:] = torch.nan
    assert torch.equal(model.step(drawn(3, 1), state)[0], expected)


def test_what_is_not_a_number_stays_so(model):
    state = begun(model, 2)
    state.values[0][1, 0, :5] = torch.nan
    state.values[0][1, 0, 19:] = torch.nan
    logits, _ = model.step(drawn(2, 1), state)
    assert logits[0].isfinite().all() and logits[1].isnan().all()


def test_changed_weights_are_seen():
    model, ids = made("llama"), drawn(1, 1)
    state = begun(model, 1)
    old, _ = model.step(ids, state.select(torch.tensor([0])))
    with torch.no_grad():
        model.blocks[1].mlp.down.weight.mul_(1.5)  # in place, as an optimiser does
    assert not torch.equal(model.step(ids, state.select(torch.tensor([0])))[0], old)
    for change in (
        lambda: model.load_state_dict({k: v.clone() for k, v in made("llama").state_dict().items()}, assign=True),
        lambda: model.blocks.__setitem__(1, copy.deepcopy(made("llama").blocks[1])),
        lambda: setattr(model.blocks[0], "mlp", made("llama").blocks[0].mlp),
    ):
        change()
        model.tie()
        assert taken(model, ids, state)
        assert torch.equal(model.step(ids, state.select(torch.tensor([0])))[0], old)


class Edited(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


def test_edited_modules_and_hooks_take_torchs_operations():
    model, ids = made("llama"), drawn(1, 1)
    state = begun(model, 1)
    plain, _ = model.step(ids, state.select(torch.tensor([0])))
    hook = model.blocks[0].mlp.up.register_forward_hook(lambda module, inputs, out: out * 0)
    assert not taken(model, ids, state)
    assert not torch.allclose(model.step(ids, state.select(torch.tensor([0])))[0], plain)
    hook.remove()
    assert taken(model, ids, state)
    linear = model.blocks[0].mlp.up
    model.blocks[0].mlp.up = Edited(linear.in_features, linear.out_features, bias=False)
    model.blocks[0].mlp.up.weight = linear.weight
    assert not taken(model, ids, state)
    assert not torch.allclose(model.step(ids, state.select(torch.tensor([0])))[0], plain)


def test_other_types_modes_and_sizes_take_torchs_operations():
    model = made("llama")
    state = begun(model, 1)
    assert not taken(model, drawn(1, stepping.POSITIONS + 1), state)
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(model, drawn(1, 1), state)
    with FlopCounterMode(display=False):
        assert not taken(model, drawn(1, 1), state)
    assert not taken(model.double(), drawn(1, 1), model.init_state(1, C))
    assert not taken(model.bfloat16(), drawn(1, 1), state)  # the keys are fp32
    assert taken(model, drawn(1, 1), model.init_state(1, C))
    dropping = build(SETTINGS["llama"].model_copy(update={"dropout": 0.1}), V)
    assert not taken(dropping.train(), drawn(1, 1), dropping.init_state(1, C))
    assert taken(dropping.eval(), drawn(1, 1), dropping.init_state(1, C))


@pytest.mark.parametrize("id_", [-1, V])
def test_an_id_that_the_model_does_not_have_is_an_error(id_):
    model = made("llama")
    with pytest.raises(IndexError, match="outside of the vocabulary"):
        model.step(torch.tensor([[id_]]), model.init_state(1, C))


def test_a_kernel_keeps_no_model_alive():
    model = made("llama")
    model.step(drawn(1, 1), model.init_state(1, C))
    held = len(stepping._STEPPERS)
    del model
    assert len(stepping._STEPPERS) == held - 1


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "rms-offset"},
        *({"norm_place": place} for place in ("after", "both", "residual")),
        *({"mlp": mlp} for mlp in ("geglu", "gelu-exact")),
        {"scaled_embedding": True},
        {"attention_scale": 0.3},
        {"attention_softcap": 2.0},
        {"logit_softcap": 2.0},
        {"qk_norm": True, "qk_norm_joint": True},
        {"window": 5, "global_layers": [0]},
        {"window": 5, "global_layers": [0], "rope_local_theta": 20.0},
        {"unrotated_layers": [1]},
        {"rope_share": 0.7},
        {"rope_scaling": {"kind": "longrope", "short": [1] * 3, "long": [2] * 3, "original_context": 7}},
        {"experts": {"count": 3}},
    ],
)
def test_it_leaves_to_torch_what_it_does_not_compute(changes):
    model = build(DecoderSettings(layers=2, heads=2, width=12, context=C, **changes), V, seed=3).eval()
    assert not taken(model, drawn(1, 1), model.init_state(1, C))


@pytest.mark.parametrize("attribute", ["scale", "softcap"])
def test_it_leaves_to_torch_scores_of_another_scale(attribute):
    model = made("llama")
    assert taken(model, drawn(1, 1), model.init_state(1, C))
    other = made("llama")
    setattr(other.blocks[1].attention, attribute, 0.7)
    assert not taken(other, drawn(1, 1), other.init_state(1, C))
