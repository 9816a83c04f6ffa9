"""Scores of texts, against pencil and paper and torch's own cross-entropy."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from idiolect import files
from idiolect.data.batches import held_out
from idiolect.errors import UserError
from idiolect.evaluate.score import OVERLAP, WHOLE, evaluate, finite, perplexity, score_text, window_of
from idiolect.testing import TinyModel

IDS = {"begin_id": 0, "end_id": 0, "pad_id": 1}
A, B, END = 97 + 2, 98 + 2, 0


def coin(before, after):
    """a: 1/2, b: 1/8, end: 1/4; whatever came before."""
    return {A: 0.5, B: 0.125, END: 0.25}.get(after, 0.0)


def test_a_text_by_hand(written, tokenizer):
    score = score_text(written(coin), tokenizer, "aba")  # P = 1/2 · 1/8 · 1/2 = 1/32, the end not counted
    assert score.logprob == pytest.approx(-5 * math.log(2), rel=1e-15)
    assert score.bits_per_byte == pytest.approx(5 / 3, rel=1e-15)
    assert score.perplexity == pytest.approx(32 ** (1 / 3), rel=1e-15)
    assert (score.ids, score.tokens, score.bytes, score.first_scored) == ((A, B, A), 3, 3, True)
    assert score.logprobs == pytest.approx([math.log(0.5), math.log(0.125), math.log(0.5)])
    assert sum(score.logprobs) == pytest.approx(score.logprob, rel=1e-15)
    assert score.reason is None


def test_bytes_are_those_of_the_text(written, tokenizer):
    score = score_text(written(lambda before, after: 0.5), tokenizer, "é漢")
    assert (score.tokens, score.bytes, score.bits_per_byte) == (5, 5, 1.0)


def test_without_anything_to_begin_with_the_first_token_and_its_bytes_are_left_out(written, tokenizer):
    tokenizer.begin_id = 258  # an id that the model does not have
    tokenizer.token_bytes = lambda: np.full(258, 3)
    score = score_text(written(coin), tokenizer, "abab")
    assert (score.first_scored, score.tokens, score.bytes, len(score.ids)) == (False, 3, 4 - 3, 4)
    assert score.logprob == pytest.approx(math.log(0.5 * 0.125 * 0.125))
    with pytest.raises(UserError, match="no token to score"):
        score_text(written(coin), tokenizer, "a")


def test_no_text_is_refused(written, tokenizer):
    with pytest.raises(UserError, match="no token to score"):
        score_text(written(coin), tokenizer, "")


def pairs(before, after):
    """0.9 for a after (a, a); otherwise 0.5: it shows which of the ids before a window reached the model."""
    return 0.9 if before == [A, A] and after == A else 0.5


@pytest.mark.parametrize(
    ("stride", "windows", "helped"),
    [
        # E a a a a a a. The third to the sixth a follow two others. Windows of 3 read E a a and a a a; the first
        # prediction of the second window, the fourth a, sees only one id.
        (None, 2, 3),
        (2, 3, 4),  # E a a, a a a, a a: the fourth a is now predicted from two
        (1, 4, 4),
    ],
)
def test_long_texts_are_read_in_windows(written, tokenizer, stride, windows, helped):
    model = written(pairs, context=3)
    score = score_text(model, tokenizer, "a" * 6, stride=stride)
    assert model.widest == 3
    assert (score.context, score.stride, score.windows, score.tokens) == (3, stride or 3, windows, 6)
    assert score.logprob == pytest.approx(helped * math.log(0.9) + (6 - helped) * math.log(0.5))


def test_windows_of_a_model(written):
    assert window_of(written(coin, context=7)) == (7, 7)
    assert window_of(written(coin, context=7), 2) == (7, 2)
    recurrent = written(coin)
    recurrent.settings.context = 5
    assert window_of(recurrent) == (5, 5)
    assert window_of(written(coin)) == (WHOLE, WHOLE - OVERLAP)
    for stride in (0, 8, -1):
        with pytest.raises(UserError, match=f"stride of {stride}"):
            window_of(written(coin, context=7), stride)


def test_a_model_without_a_limit_does_not_notice_the_cuts(written, tokenizer, monkeypatch):
    monkeypatch.setattr("idiolect.evaluate.score.WHOLE", 7)
    monkeypatch.setattr("idiolect.evaluate.score.OVERLAP", 2)
    cut = score_text(written(pairs), tokenizer, "a" * 40)
    assert cut.windows > 5
    assert cut.logprob == pytest.approx(38 * math.log(0.9) + 2 * math.log(0.5))


def test_scores_that_are_no_probabilities(written, tokenizer, encode):
    model = written(coin, smoothing="stupid-backoff")
    model.normalised = False
    score = score_text(model, tokenizer, "ab")
    assert score.logprob == pytest.approx(math.log(0.5 * 0.125))
    assert score.perplexity is None and score.bits_per_byte is None and "stupid-backoff" in score.reason
    held = held_out(encode("ab"), context=9, rows=2, **IDS)
    with pytest.raises(UserError, match=r"stupid-backoff.*perplexity and bits_per_byte"):
        evaluate(model, tokenizer, held, bytes_=2)


def test_lossy_tokenizers_have_no_bits_per_byte_on_what_they_lose(written, tokenizer, encode):
    tokenizer.lossless, tokenizer.loses, tokenizer.kind = False, ("case",), "word"
    tokenizer.normalise = str.lower
    lost = score_text(written(coin), tokenizer, "AB")
    assert lost.bits_per_byte is None and "word tokenizer loses case" in lost.reason
    kept = score_text(written(coin), tokenizer, "ab")
    assert kept.bits_per_byte == 2.0 and kept.reason is None
    found = evaluate(written(coin), tokenizer, held_out(encode("ab"), context=9, rows=2, **IDS), bytes_=2)
    assert found.bits_per_byte is None and "loses case" in found.reason
    assert found.perplexity == pytest.approx((2 * 8 * 4) ** (1 / 3))


def test_held_out_documents_by_hand(written, tokenizer, encode):
    shards = encode("ab", "a", "ba")  # 5 letters, 3 ends: bits 1+3+2, 1+2, 3+1+2 = 15
    held = held_out(shards, context=2, rows=2, **IDS)
    found = evaluate(written(coin), tokenizer, held, bytes_=shards.bytes)
    assert found.nats == pytest.approx(15 * math.log(2), rel=1e-15)
    assert (found.tokens, found.bytes, found.impossible) == (8, 5, 0)
    assert found.loss == pytest.approx(15 * math.log(2) / 8)
    assert found.perplexity == pytest.approx(2 ** (15 / 8))
    assert found.bits_per_byte == pytest.approx(3.0)
    unknown = evaluate(written(coin), tokenizer, held, bytes_=None)
    assert unknown.bits_per_byte is None and "not known" in unknown.reason


def test_probability_zero_is_infinite_and_json_can_hold_it(written, tokenizer, encode):
    score = score_text(written(coin), tokenizer, "abc")
    assert (score.logprob, score.perplexity, score.bits_per_byte) == (-math.inf, math.inf, math.inf)
    shown = json.loads(files.to_json(score.json()))
    assert shown["logprob"] == shown["logprobs"][2] == "-Infinity" and shown["bits_per_byte"] == "Infinity"
    assert float(shown["perplexity"]) == math.inf
    found = evaluate(written(coin), tokenizer, held_out(encode("abc", "cc"), context=9, rows=9, **IDS), bytes_=5)
    assert found.impossible == 3
    assert found.nats == found.loss == found.perplexity == found.bits_per_byte == math.inf
    assert json.loads(files.to_json(found.json()))["loss"] == "Infinity"
    assert finite(1.5) == 1.5 and finite(None) is None


def test_broken_weights_are_said(tokenizer):
    model = TinyModel()
    with torch.no_grad():
        model.head.bias[7] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        score_text(model, tokenizer, "a")


@pytest.mark.parametrize("context", [3, 50])
def test_a_network_against_torch(tokenizer, encode, context):
    documents = ["the cat", "sat", "on the mat."]
    model = TinyModel(seed=3, dropout=0.5).train()
    model.dropout.eval()
    shards = encode(*documents)
    found = evaluate(model, tokenizer, held_out(shards, context=context, rows=2, **IDS), bytes_=shards.bytes)
    assert model.training and not model.dropout.training  # as they were
    model.eval()
    nats = 0.0
    for document in documents:
        ids = torch.tensor([0, *tokenizer.encode(document), 0])
        logits = model.head(model.body(ids[None, :-1]))[0]
        nats += nn.functional.cross_entropy(logits, ids[1:], reduction="sum").item()
    assert found.nats == pytest.approx(nats, rel=1e-6)
    assert found.tokens == sum(map(len, documents)) + 3
    assert all(p.grad is None for p in model.parameters())


def test_perplexity_beyond_floats_is_infinite():
    assert perplexity(8e5, 1000) == math.inf
    assert perplexity(0.0, 3) == 1.0
