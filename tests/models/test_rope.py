"""Rotary frequencies, bit for bit those of transformers, and what makes a text outgrow them."""

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from idiolect.models import rope
from idiolect.models.build import build
from idiolect.models.decoder_settings import LinearRope, Llama3Rope, LongRope, YarnRope
from idiolect.models.settings import DecoderSettings

D, CONTEXT, THETA, FIRST = 46, 1031, 1234.5, 107
ORIGINAL = {"original_max_position_embeddings": FIRST}
SCALINGS = {
    "linear": (LinearRope(kind="linear", factor=2.5), {"factor": 2.5}),
    "llama3": (
        Llama3Rope(
            kind="llama3", factor=7.0, low_frequency_factor=1.5, high_frequency_factor=3.5, original_context=FIRST
        ),
        {"factor": 7.0, "low_freq_factor": 1.5, "high_freq_factor": 3.5, **ORIGINAL},
    ),
    "yarn": (
        YarnRope(kind="yarn", factor=5.0, original_context=FIRST, fast=13.0, slow=1.7),
        {"factor": 5.0, "beta_fast": 13.0, "beta_slow": 1.7, **ORIGINAL},
    ),
    "yarn, a step": (
        YarnRope(kind="yarn", factor=5.0, original_context=3, fast=17.0, slow=11.0, truncate=False),
        {"factor": 5.0, "beta_fast": 17.0, "beta_slow": 11.0, "truncate": False, "original_max_position_embeddings": 3},
    ),
    "longrope": (
        LongRope(
            kind="longrope",
            short=[1 + i / 7 for i in range(23)],
            long=[2 + i / 3 for i in range(23)],
            original_context=FIRST,
        ),
        {"short_factor": [1 + i / 7 for i in range(23)], "long_factor": [2 + i / 3 for i in range(23)], **ORIGINAL},
    ),
}


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("long", [False, True])
def test_frequencies_and_magnitude_are_those_of_transformers(name, long):
    ours, theirs = SCALINGS[name]
    kind = name.partition(",")[0]
    config = LlamaConfig(
        head_dim=D,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": kind, "rope_theta": THETA, **theirs},
    )
    expected, magnitude = ROPE_INIT_FUNCTIONS[kind](config, seq_len=FIRST + 1 if long else None)
    assert torch.equal(rope.frequencies(D, THETA, ours, long=long), expected)
    assert rope.magnitude(ours, CONTEXT) == pytest.approx(magnitude, rel=1e-12)


def test_a_given_magnitude_counts():
    for scaling, _ in (SCALINGS["yarn"], SCALINGS["longrope"]):
        assert rope.magnitude(scaling.model_copy(update={"attention_factor": 1.7}), CONTEXT) == 1.7
    assert rope.magnitude(SCALINGS["yarn"][0].model_copy(update={"factor": 0.5}), CONTEXT) == 1.0
    assert rope.magnitude(SCALINGS["longrope"][0], FIRST - 1) == 1.0
    assert rope.magnitude(None, CONTEXT) == rope.magnitude(SCALINGS["linear"][0], CONTEXT) == 1.0


def test_phi_3s_magnitude_is_that_of_its_contexts():
    config = Phi3Config(
        hidden_size=2 * D,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        original_max_position_embeddings=FIRST,
        rope_parameters={"rope_type": "longrope", **SCALINGS["longrope"][1]},
        pad_token_id=0,
    )
    _, magnitude = ROPE_INIT_FUNCTIONS["longrope"](config)
    assert rope.magnitude(SCALINGS["longrope"][0], CONTEXT) == pytest.approx(magnitude, rel=1e-12)


# Texts that outgrow longrope's first context

V, BOUND = 31, 7
SETTINGS = DecoderSettings(
    layers=3,
    heads=2,
    kv_heads=1,
    width=14,
    head_width=6,
    context=29,
    rope_theta=50.0,
    rope_scaling={"kind": "longrope", "short": [1.0, 1.5, 2.0], "long": [2.0, 5.0, 9.0], "original_context": BOUND},
)


@pytest.fixture
def model():
    model = build(SETTINGS, V, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model.eval()


def drawn(*shape):
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(7))


def near(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_the_next_id_is_that_of_the_text_before_it(model):
    """However the text came: at once, id by id, past the bound within a call, or back below it and past it again."""
    ids = drawn(2, 23)
    expected = torch.stack([model.head(model.body(ids[:, : t + 1]))[:, t] for t in range(23)], 1)
    for sizes in ([23], [1] * 23, [5, 4, 14], [BOUND, 16], [BOUND + 1, 15]):
        state, got = model.init_state(2, 23), []
        for part in ids.split(sizes, dim=1):
            logits, state = model.step(part, state)
            got.append(logits)
        near(torch.cat(got, 1), expected)
    state = model.init_state(2, 23)
    _, state = model.step(ids[:, :5], state)
    _, state = model.step(ids[:, 5:11], state, last=True)
    state.truncate(torch.tensor([6, 9]))
    logits, state = model.step(ids[:, [6, 7, 8, 9, 10]], state, torch.tensor([5, 0]), last=True)
    near(logits[0, 0], expected[0, 10])
    logits, _ = model.step(ids[:, [9]], state, torch.tensor([0, 1]), last=True)
    near(logits[1, 0], expected[1, 9])


def test_the_bound_matters(model):
    ids = drawn(1, BOUND + 1)
    short, long = model.body(ids[:, :BOUND]), model.body(ids)[:, :BOUND]
    assert (short - long).abs().max() > 0.01
    near(model.prefixes(ids)[:, :BOUND], short)
    near(model.prefixes(ids)[:, BOUND:], model.body(ids)[:, BOUND:])


def test_rows_outgrow_it_each_at_its_own_time(model):
    ids, lengths = drawn(4, 11), torch.tensor([11, 3, 7, 8])
    _, state = model.step(ids, model.init_state(4, 23), lengths)
    assert state.long.tolist() == [True, False, False, True]
    more = torch.tensor([1, 2, 1, 0])
    logits, state = model.step(ids[:, :2], state, more, last=True)
    assert state.long.tolist() == [True, False, True, True]
    for b in range(3):
        text = torch.cat((ids[b, : lengths[b]], ids[b, : more[b]]))[None]
        near(logits[b, 0], model.head(model.body(text))[0, -1])


def test_a_document_in_a_packed_row_has_its_own_length(model):
    segments = torch.tensor([[0] * 3 + [1] * 9 + [2] * 7])
    ids = drawn(1, 19)
    hidden = model.body(ids, segments)
    for start, end in ((0, 3), (3, 12), (12, 19)):
        torch.testing.assert_close(hidden[:, start:end], model.body(ids[:, start:end]), rtol=1e-5, atol=1e-5)
