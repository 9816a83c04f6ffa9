"""FLOPs by formula against torch's own counter, and MFU by hand."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from idiolect.data.batch import Batch
from idiolect.models.build import build
from idiolect.models.settings import (
    CbowSettings,
    DecoderSettings,
    EncoderDecoderSettings,
    EncoderSettings,
    NGramSettings,
    RecurrentSettings,
    Seq2SeqSettings,
)
from idiolect.plan.flops import Flops, flops_per_token, mfu
from idiolect.train.objectives import neighbours

B, T, V = 3, 17, 29


def counted(settings, *source, predicted=T):
    """What torch counts for a forward and backward pass over B rows of T, the first of which are predicted."""
    model = build(settings, V)
    between = getattr(model, "transform", torch.nn.Identity())
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        hidden = model.body(torch.zeros(B, T, dtype=torch.int64), *source)
        model.head(between(hidden[:, :predicted])).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": 3, "width": 30},
        {"heads": 3, "width": 30, "mlp": "gelu", "tied": False, "position": "learned", "norm": "layer"},
        {"heads": 6, "kv_heads": 2, "width": 36, "head_width": 10, "mlp_width": 53},
        {"heads": 3, "width": 30, "experts": {"count": 5, "per_token": 2, "width": 7, "shared_width": 11}},
        {"heads": 3, "width": 30, "mlp_width": 13, "experts": {"count": 5, "dense_layers": [0]}},
        {"heads": 3, "width": 30, "attention_softcap": 2.0, "logit_softcap": 3.0, "norm_place": "both"},
    ],
)
def test_a_decoder_does_the_products_of_the_formula(changes):
    settings = DecoderSettings(layers=2, context=T, **changes)
    assert flops_per_token(settings, V).total * B * T == counted(settings)


@pytest.mark.parametrize("head", ["plain", "transform"])
@pytest.mark.parametrize("predicted", [T, 5])
def test_an_encoder_does_the_products_of_the_formula(head, predicted):
    settings = EncoderSettings(layers=2, heads=3, width=30, context=T, head=head)
    found = flops_per_token(settings, V, predicted=predicted / T).total * B * T
    assert found == pytest.approx(counted(settings, predicted=predicted), rel=1e-3)  # the share of a product is rounded


def test_the_elman_network_and_gru_do_the_products_of_the_formula():
    for kind in ("rnn", "gru"):
        settings = RecurrentSettings(kind=kind, layers=2, width=13, context=T)
        expected = flops_per_token(settings, V).total * B * T
        assert counted(settings) == pytest.approx(expected, rel=0.02)  # torch leaves out the gradient of h_0


@pytest.mark.parametrize("attention", ["none", "bahdanau"])
def test_a_recurrent_encoder_and_decoder_does_the_products_of_the_formula(attention):
    settings = Seq2SeqSettings(layers=2, width=64, context=T, attention=attention)
    expected = flops_per_token(settings, V).total * B * 2 * T
    assert counted(settings, torch.zeros(B, T, dtype=torch.int64)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "changes", [{}, {"encoder_layers": 3, "head_width": 10, "kv_heads": 1}, {"encoder": EncoderSettings(width=32)}]
)
def test_an_encoder_decoder_does_the_products_of_the_formula(changes):
    settings = EncoderDecoderSettings(layers=2, heads=4, width=32, context=T, **changes)
    expected = flops_per_token(settings, V).total * B * 2 * T
    assert counted(settings, torch.zeros(B, T, dtype=torch.int64)) == expected


def test_the_house_shapes_of_the_benchmarks():
    """6 (12 L d² + V d) + 12 L d T for 6 layers of 384 over 256 characters of 65 kinds: 70.9 million."""
    style = {"norm": "layer", "position": "learned", "mlp": "gelu"}
    small = DecoderSettings(layers=6, heads=6, width=384, context=256, **style)
    assert flops_per_token(small, 65) == Flops(6 * (12 * 6 * 384**2 + 65 * 384), 12 * 6 * 384 * 256)
    assert round(flops_per_token(small, 65).total / 1e6, 1) == 70.9


def test_shorter_sequences_and_windows_attend_to_less():
    settings = DecoderSettings(layers=2, heads=2, width=8, context=64)
    assert flops_per_token(settings, V).attention == 12 * 2 * 8 * 64
    assert flops_per_token(settings, V, length=16).attention == 12 * 2 * 8 * 16
    windowed = settings.model_copy(update={"window": 5})
    assert flops_per_token(windowed, V).attention == 12 * 2 * 8 * 5
    mixed = windowed.model_copy(update={"global_layers": (1,)})
    assert flops_per_token(mixed, V).attention == 12 * 8 * (5 + 64)
    assert flops_per_token(NGramSettings(), V).total == 0


def test_mfu_by_hand():
    assert mfu(70.9e6, 3198, 343e9) == pytest.approx(0.661, abs=5e-4)
    with pytest.raises(ValueError, match="rate"):
        mfu(1, 1, 0)


@pytest.mark.parametrize("loss", ["softmax", "negative"])
@pytest.mark.parametrize("mode", ["cbow", "skipgram"])
def test_word_vectors_do_the_products_of_their_labels(mode, loss):
    """An inner place: one label, or with skip-gram 2 W; with windows drawn from 1 to W that is W + 1 on average."""
    settings = CbowSettings(width=8, window=3, mode=mode, loss=loss, negatives=4, dynamic_window=False)
    model = build(settings, V)
    labels = 6 if mode == "skipgram" else 1
    ids = torch.zeros(B * labels, 6 if labels == 1 else 1, dtype=torch.int64)
    negatives = None if loss == "softmax" else torch.zeros(B * labels, 4, dtype=torch.int64)
    batch = Batch(ids, ids[:, 0], lengths=torch.full((B * labels,), ids.shape[1]), negatives=negatives)
    counter = FlopCounterMode(display=False)
    with counter:
        neighbours(model, batch).total.backward()
    assert flops_per_token(settings, V).total * B == counter.get_total_flops()
    drawn = settings.model_copy(update={"dynamic_window": True})
    assert flops_per_token(drawn, V).total * labels == flops_per_token(settings, V).total * (4 if labels == 6 else 1)
