"""The formula of parameters equals what a built model holds, over every setting that changes it."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from idiolect.adapt.heads import KINDS
from idiolect.adapt.settings import LabelledSettings
from idiolect.models.build import build
from idiolect.models.settings import (
    FAMILIES,
    CbowSettings,
    DecoderSettings,
    EncoderDecoderSettings,
    EncoderSettings,
    EncoderSideSettings,
    NGramSettings,
    RecurrentSettings,
    Seq2SeqSettings,
)
from idiolect.plan.flops import flops_per_token
from idiolect.plan.memory import training_memory
from idiolect.plan.parameters import count, idle, matrices, mlp_matrices
from idiolect.train.settings import TrainSettings

DECODERS = [
    {"norm": norm, "position": position, "mlp": mlp, "attention_bias": attention_bias, "mlp_bias": bias, "qk_norm": qk}
    for (norm, position), mlp, attention_bias, (bias, qk) in itertools.product(
        (("rms", "rope"), ("layer", "learned"), ("rms", "none")),
        ("swiglu", "gelu", "relu"),
        ("none", "qkv", "all"),
        ((False, False), (True, True)),
    )
]
DECODERS += [
    {"norm_place": place, "norm": norm, "mlp": mlp, "mlp_bias": True}
    for place, norm, mlp in itertools.product(
        ("after", "both", "residual"), ("layer", "rms-offset"), ("geglu", "gelu-exact")
    )
]
MIXTURE = {"count": 5, "per_token": 2, "width": 7}
MIXTURES = [
    {"experts": MIXTURE},
    {"experts": {"count": 3, "shared_width": 11, "dense_layers": [1]}, "mlp_width": 13, "mlp_bias": True},
    {"experts": MIXTURE | {"shared_width": 5}, "mlp": "gelu", "mlp_bias": True, "norm_place": "after"},
    {"qk_norm": True, "qk_norm_joint": True, "logit_softcap": 3.0, "scaled_embedding": True},
]
SHAPES = [
    {"heads": 3, "width": 30},
    {"heads": 6, "kv_heads": 2, "width": 36, "mlp_width": 53, "tied": False},
    {"heads": 5, "kv_heads": 1, "width": 29, "head_width": 14},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_decoder_holds_what_the_formula_says(shape):
    for style in DECODERS:
        settings = DecoderSettings(layers=3, context=19, **shape, **style)
        model = build(settings, 101, device="meta")
        parts = count(settings, 101).parts
        assert sum(parts.values()) == sum(p.numel() for p in model.parameters()), style
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        for part, words in (("attention", ("query", "key", "value", "out")), ("mlp", ("gate", "up", "down"))):
            matrices = [n for name, n in sizes.items() if name.split(".")[-2] in words and name.endswith("weight")]
            assert parts[part] == sum(matrices)


@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("head", ["plain", "transform", "none"])
def test_an_encoder_holds_what_the_formula_says(shape, head):
    bert = {"norm": "layer", "norm_place": "residual", "position": "learned", "position_offset": 2, "token_types": 2}
    shape = {**shape, "tied": shape.get("tied", True) or head == "none"}
    for style in ({}, {"embedding_norm": True, "pooler": True}, bert | {"pooler": True, "embedding_norm": True}):
        settings = EncoderSettings(layers=3, context=19, head=head, **shape, **style)
        model = build(settings, 101, device="meta")
        assert count(settings, 101).total == sum(p.numel() for p in model.parameters()), style


@pytest.mark.parametrize("style", MIXTURES)
def test_a_decoder_with_experts_holds_what_the_formula_says(style):
    settings = DecoderSettings(**{"layers": 3, "heads": 6, "kv_heads": 2, "width": 36, "context": 19, **style})
    model = build(settings, 101, device="meta")
    assert count(settings, 101).total == sum(p.numel() for p in model.parameters())


def test_the_experts_of_a_token_by_hand():
    """A layer of 5 experts of width 7, 2 a token, and a shared one of 3, on a width of 10: 3 · 10 · 7 weights each."""
    experts = {"count": 5, "per_token": 2, "width": 7, "shared_width": 3, "dense_layers": [0]}
    settings = DecoderSettings(layers=2, heads=1, width=10, mlp_width=4, experts=experts)
    assert mlp_matrices(settings) == 3 * 10 * 4 + 3 * 10 * (5 * 7 + 3) + 10 * (5 + 1)
    assert mlp_matrices(settings, active=True) == 3 * 10 * 4 + 3 * 10 * (2 * 7 + 3) + 10 * (5 + 1)
    assert idle(settings) == 3 * (3 * 10 * 7)  # three experts that a token does not go through
    assert idle(settings.model_copy(update={"mlp_bias": True})) == 3 * (3 * 10 * 7 + 2 * 7 + 10)
    assert idle(DecoderSettings()) == 0


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_recurrent_network_holds_what_the_formula_says(kind, tied, layers):
    settings = RecurrentSettings(kind=kind, layers=layers, width=13, tied=tied)
    model = build(settings, 101, device="meta")
    assert count(settings, 101).total == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("attention", ["none", "bahdanau"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("layers", "width", "features"), [(1, None, None), (3, 7, 5)])
def test_a_recurrent_encoder_and_decoder_holds_what_the_formula_says(
    cell, attention, bidirectional, layers, width, features
):
    settings = Seq2SeqSettings(
        cell=cell,
        layers=layers,
        width=13,
        embedding_width=width,
        attention=attention,
        bidirectional=bidirectional,
        source_features=features,
        tied=layers == 1,
    )
    model = build(settings, 101, device="meta")
    parts = count(settings, 101).parts
    assert sum(parts.values()) == sum(p.numel() for p in model.parameters())
    for part in ("encoder", "attention", "readout"):
        module = getattr(model, part) or torch.nn.Identity()
        assert parts.get(part, 0) == sum(p.numel() for p in module.parameters())


def test_word_vectors_are_two_for_each_word():
    model = build(CbowSettings(width=13), 101, device="meta")
    assert count(CbowSettings(width=13), 101).parts == {"embedding": 1313, "head": 1313}
    assert sum(p.numel() for p in model.parameters()) == 2626


SIDES = [
    {},
    {"position": "learned", "shared_embedding": False, "norm": "layer", "attention_bias": "all", "mlp_bias": True},
    {"position": "learned", "source_context": 31, "norm_place": "both", "qk_norm": True},
    {"position": "rope", "norm_place": "residual", "mlp": "relu", "tied": False, "relative_buckets": 8},
    {"position": "sinusoidal", "source_features": 5, "attention_bias": "qkv"},
    {"relative_buckets": 8, "encoder_layers": 2},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_encoder_decoder_holds_what_the_formula_says(shape):
    for style in SIDES:
        settings = EncoderDecoderSettings(layers=3, context=19, **{**shape, **style})
        model = build(settings, 101, device="meta")
        assert count(settings, 101).total == sum(p.numel() for p in model.parameters()), style
        sides = [p for name, p in model.named_parameters() if ".blocks." in name and p.dim() == 2]
        assert matrices(settings) == sum(p.numel() for p in sides), style
    some = {"width": settings.width, "heads": 1, "head_width": 4}
    for encoder in (
        EncoderSettings(**some, head="transform", pooler=True, token_types=2),
        EncoderSideSettings(**some),
        EncoderSideSettings(**some, position="learned", source_features=3),
    ):
        settings = EncoderDecoderSettings(layers=3, context=19, **shape, encoder=encoder)
        model = build(settings, 101, device="meta")
        assert count(settings, 101).total == sum(p.numel() for p in model.parameters())
        assert count(settings, 101).parts["encoder"] == sum(p.numel() for p in model.encoder.parameters())


def test_an_lstm_by_hand():
    """Four gates of (7 + 7 inputs + 1 bias) · 7 units; embedding 11 · 7; head 11 · 7 + 11."""
    parameters = count(RecurrentSettings(kind="lstm", width=7), 11)
    assert parameters.parts == {"embedding": 77, "recurrent": 4 * 15 * 7, "head": 88}
    assert parameters.inner == 420 and not parameters.bound


def test_an_n_gram_is_bounded_by_vocabulary_and_text():
    settings = NGramSettings(order=3)
    assert count(settings, 5).parts == {"1-grams": 5, "2-grams": 25, "3-grams": 125}
    bounded = count(settings, 5, tokens=31)
    assert bounded.parts == {"1-grams": 5, "2-grams": 25, "3-grams": 31} and bounded.bound
    infinite = count(NGramSettings(smoothing="infinite", order=2), 5, tokens=31).parts
    assert infinite == {"1-grams": 5, "2-grams": 25, "text": 31, "suffixes": 31}


def test_the_bound_holds_for_what_is_really_counted():
    ids = np.random.default_rng(0).integers(2, 13, 997)
    settings = NGramSettings(order=4)
    model = build(settings, 13).fit(SimpleNamespace(ids=ids, offsets=np.array([0, 101, 997])))
    held = {f"{k}-grams": len(model.tensors()[f"keys.{k}"]) for k in range(2, 5)}
    bound = count(settings, 13, tokens=997 + 2).parts  # each document ends with one token more
    assert all(bound[name] * 0.5 < n <= bound[name] for name, n in held.items())


@pytest.mark.parametrize("kind", ["lstm", "decoder", "encoder"])
def test_a_head_for_labels_takes_the_place_of_the_one_for_tokens(kind):
    more = {"head": "transform", "norm": "layer"} if kind == "encoder" else {"tied": False}
    base = FAMILIES[kind](kind=kind, layers=2, width=14, **more, **({} if kind == "lstm" else {"heads": 7}))
    for hidden in ("none", "tanh"):
        settings = LabelledSettings(base=base, labels=("a", "b", "c"), hidden=hidden)
        model = build(settings, 31, device="meta", kinds=KINDS)
        assert count(settings, 31).total == sum(parameter.numel() for parameter in model.parameters())
        assert flops_per_token(settings, 31).total == flops_per_token(settings, 62).total > 0
    assert training_memory(settings, TrainSettings(), 31).total < training_memory(base, TrainSettings(), 31).total
