"""Beam search on trees small enough to see whole."""

import math

import pytest

from idiolect.decode.beam import beam_search
from idiolect.decode.generate import complete, stream
from idiolect.decode.settings import DecodeSettings
from idiolect.testing import TableModel, WordTokenizer

A, B, C = 2, 3, 4
TOKENIZER = WordTokenizer(["a", "b", "c"])
TREE = TableModel(
    5,
    {
        (0,): {A: 0.5, B: 0.4, 0: 0.1},
        (0, A): {A: 0.4, B: 0.3, 0: 0.3},
        (0, B): {C: 0.9, 0: 0.1},
        (0, A, A): {0: 1.0},
        (0, A, B): {0: 1.0},
        (0, B, C): {0: 1.0},
    },
)


def found(settings, model=TREE, prompt="", **more):
    return beam_search(model, TOKENIZER, prompt, settings, **more)


def test_hypotheses_come_best_first_with_their_scores():
    hypotheses = found(DecodeSettings(beams=3, length_penalty=0))
    # whole texts: b c 0.36, a a 0.2, a b 0.15, a 0.15, "" 0.1, b 0.04; a b is no longer among the first three when
    # its prefix (0.15) stands beside b c (0.36), a a (0.2) and a (0.15): the lower id, end of text, goes first
    assert [h.text for h in hypotheses] == ["b c", "a a", "a"]
    assert [h.score for h in hypotheses] == pytest.approx([math.log(p) for p in (0.36, 0.2, 0.15)])
    assert hypotheses[0].ids == (B, C, 0)
    assert hypotheses[0].logprobs == pytest.approx([math.log(p) for p in (0.4, 0.9, 1.0)])
    assert hypotheses[0].finish_reason == "stop"


def test_scores_are_normalised_by_length():
    model = TableModel(
        5, {(0,): {A: 0.5, 0: 0.3, B: 0.2}, (A,): {B: 0.7, 0: 0.3}, (B,): {C: 0.8, 0: 0.2}, (C,): {0: 1.0}}
    )
    # "" has 0.3 over 1 token; a b c has 0.5 · 0.7 · 0.8 = 0.28 over 4 tokens
    plain = found(DecodeSettings(beams=4, length_penalty=0), model)
    assert plain[0].text == ""
    best = found(DecodeSettings(beams=4), model)[0]
    assert best.text == "a b c"
    assert best.score == pytest.approx(math.log(0.28) / 4)
    half = found(DecodeSettings(beams=4, length_penalty=0.5), model)
    assert next(h for h in half if h.text == "a b c").score == pytest.approx(math.log(0.28) / 2)


def test_search_ends_with_length_at_the_limit_and_in_a_full_context():
    loop = {(A,): {A: 0.6, B: 0.4}, (): {A: 0.7, B: 0.3}}
    two = found(DecodeSettings(beams=2, max_tokens=3), TableModel(5, loop))  # 0.7 · 0.4 · 0.7 = 0.196 is the second
    assert [(h.ids, h.finish_reason) for h in two] == [((A, A, A), "length"), ((A, B, A), "length")]
    full = found(DecodeSettings(beams=2), TableModel(5, loop, context=2), "a")
    assert [h.ids for h in full] == [(A,), (B,)]


def test_a_hypothesis_that_cannot_go_on_is_kept_as_unseen_context():
    model = TableModel(5, {(0,): {A: 0.9, B: 0.1}, (B,): {0: 1.0}})
    assert [(h.text, h.finish_reason) for h in found(DecodeSettings(beams=2, length_penalty=0), model)] == [
        ("a", "unseen_context"),
        ("b", "stop"),
    ]
    assert [h.finish_reason for h in found(DecodeSettings(beams=2), model, "c")] == ["unseen_context"]


def test_stop_strings_stop_tokens_and_criteria_end_hypotheses():
    assert found(DecodeSettings(beams=2, stop=(" c",)))[0].text == "b"
    by_token = found(DecodeSettings(beams=2, stop_tokens=(C,)))[0]
    assert (by_token.text, by_token.ids) == ("b", (B, C))
    by_rule = found(DecodeSettings(beams=2), until=[lambda ids, text: "enough" if len(ids) == 1 else None])
    assert [(h.text, h.finish_reason) for h in by_rule] == [("a", "enough"), ("b", "enough")]


def test_padding_is_no_hypothesis_and_equals_keep_the_order_of_ids():
    model = TableModel(5, {(0,): {1: 0.4, A: 0.2, B: 0.2, C: 0.2}, (): {0: 1.0}})
    assert [h.text for h in found(DecodeSettings(beams=3), model)] == ["a", "b", "c"]


def test_generation_with_beams_gives_the_best_hypothesis():
    settings = DecodeSettings(beams=3, length_penalty=0)
    (whole,) = complete(TREE, TOKENIZER, [""], settings)
    (piece,) = stream(TREE, TOKENIZER, "", settings)
    assert whole.text == piece.text == "b c"
    assert (whole.ids, whole.logprobs, whole.finish_reason) == (piece.ids, piece.logprobs, piece.finish_reason)


def test_the_state_follows_its_hypothesis():
    # the winner's parent changes place at every length: b overtakes a, then c's child overtakes b's
    model = TableModel(
        5, {(0,): {A: 0.6, B: 0.4}, (0, A): {A: 0.5, B: 0.5}, (0, B): {C: 1.0}, (0, B, C): {0: 1.0}, (): {A: 1.0}}
    )
    best = found(DecodeSettings(beams=2, max_tokens=4, length_penalty=0), model)[0]
    assert (best.ids, best.finish_reason) == ((B, C, 0), "stop")
