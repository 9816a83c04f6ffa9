"""Generation on models whose answers stand in a table, and on one with weights."""

import math

import pytest
import torch

from idiolect import seeds
from idiolect.decode.generate import Piece, complete, stream
from idiolect.decode.generator import Local
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import Exit, UserError
from idiolect.testing import ByteTokenizer, TableModel, TinyModel, WordTokenizer

A, B, C = 2, 3, 4
TOKENIZER = WordTokenizer(["a", "b", "c"])
GREEDY = DecodeSettings(temperature=0)
WORDS = TableModel(
    5,
    {
        (0,): {A: 0.6, B: 0.4},
        (A,): {B: 0.75, 0: 0.25},
        (B,): {C: 0.5, A: 0.3, 0: 0.2},
        (C,): {0: 0.9, A: 0.1},
    },
)


def test_greedy_takes_the_most_probable_and_logprobs_are_the_models():
    (found,) = complete(WORDS, TOKENIZER, [""], GREEDY)
    assert (found.text, found.ids, found.finish_reason) == ("a b c", (A, B, C, 0), "stop")
    assert found.logprobs == pytest.approx([math.log(p) for p in (0.6, 0.75, 0.5, 0.9)])


def test_logprobs_are_those_before_filters():
    settings = DecodeSettings(temperature=0.3, top_k=1, min_p=0.5, repetition_penalty=2.0, max_tokens=1)
    assert complete(WORDS, TOKENIZER, [""], settings)[0].logprobs == pytest.approx([math.log(0.6)])


def test_a_draw_is_keyed_by_seed_request_and_position():
    settings = DecodeSettings(seed=5, max_tokens=1)
    for request in range(20):
        (found,) = complete(WORDS, TOKENIZER, ["a"], settings, [request])
        u = seeds.uniform(5, "draw", request, 2)  # begin-of-text and a stand before it
        assert found.ids == ((0,) if u < 0.25 else (B,))


def test_going_on_from_a_half_written_text_gives_the_text_written_in_one_go():
    model, tokenizer = TinyModel(seed=3), ByteTokenizer()
    whole = complete(model, tokenizer, ["ab"], DecodeSettings(max_tokens=12, seed=1), [7])[0]
    first = complete(model, tokenizer, ["ab"], DecodeSettings(max_tokens=5, seed=1), [7])[0]
    prompt = [0, *tokenizer.encode("ab"), *first.ids]
    second = complete(model, tokenizer, [prompt], DecodeSettings(max_tokens=7, seed=1), [7])[0]
    assert first.ids + second.ids == whole.ids


def test_batched_is_single_and_streamed_is_whole_with_unequal_prompts():
    model, tokenizer = TinyModel(seed=1), ByteTokenizer()
    prompts = ["", "héllo", "abc", "abc", "z" * 11]
    settings = DecodeSettings(max_tokens=9, seed=2, top_p=0.9, presence_penalty=0.5, repetition_penalty=1.2)
    together = complete(model, tokenizer, prompts, settings)
    for request, (prompt, found) in enumerate(zip(prompts, together, strict=True)):
        (alone,) = complete(model, tokenizer, [prompt], settings, [request])
        assert (alone.ids, alone.text) == (found.ids, found.text)
        assert alone.logprobs == pytest.approx(found.logprobs, abs=1e-5)
        pieces = list(stream(model, tokenizer, prompt, settings, request))
        assert "".join(p.text for p in pieces) == found.text
        assert tuple(i for p in pieces for i in p.ids) == found.ids
        assert [p.finish_reason for p in pieces] == [None] * (len(pieces) - 1) + [found.finish_reason]
    assert together[2].ids != together[3].ids  # equal prompts, two requests


def test_rows_that_have_ended_are_not_stepped_and_equal_prompts_are_read_once():
    model = TableModel(5, {(0,): {A: 1.0}, (A,): {B: 1.0}, (B,): {C: 1.0}, (C,): {0: 1.0}})
    complete(model, TOKENIZER, ["a b c", "a", "b", "a"], GREEDY)
    assert model.calls == [(3, 4), (3, 1), (2, 1)]  # "a b c" ends at once, "b" needs one more token, both "a" two


def test_one_call_a_token():
    model = TableModel(5, {(0,): {A: 1.0}, (A,): {B: 1.0}, (B,): {0: 1.0}})
    complete(model, TOKENIZER, [""], GREEDY)
    assert model.calls == [(1, 1)] * 3


def test_max_tokens_and_a_full_context_end_with_length():
    loop = {(): {A: 1.0}}
    assert complete(TableModel(5, loop), TOKENIZER, ["a"], DecodeSettings(max_tokens=3))[0].ids == (A, A, A)
    short = TableModel(5, loop, context=4)
    found = complete(short, TOKENIZER, ["a", "a a a"], DecodeSettings(max_tokens=50))
    assert [(len(f.ids), f.finish_reason) for f in found] == [(3, "length"), (1, "length")]
    assert short.calls == [(2, 4), (1, 1), (1, 1)]  # four are read, and what they give need not be


def test_an_unseen_context_ends_the_text_after_what_was_written():
    model = TableModel(5, {(0,): {A: 1.0}, (0, A): {B: 1.0}})
    found = complete(model, TOKENIZER, ["", "c"], DecodeSettings())
    assert [(f.text, f.ids, f.finish_reason) for f in found] == [
        ("a b", (A, B), "unseen_context"),
        ("", (), "unseen_context"),
    ]
    assert list(stream(model, TOKENIZER, "c", GREEDY)) == [Piece("", (), (), "unseen_context")]


def test_padding_and_ids_beyond_the_tokenizer_are_never_generated():
    model = TableModel(7, {(): {1: 0.5, 6: 0.3, A: 0.1, 0: 0.1}})
    assert complete(model, TOKENIZER, [""], DecodeSettings(temperature=0, max_tokens=2))[0].ids == (0,)
    found = complete(model, TOKENIZER, [""] * 50, DecodeSettings(max_tokens=4))
    assert {i for f in found for i in f.ids} == {0, A}
    assert found[0].logprobs[0] == pytest.approx(math.log(0.1))  # under the model as it is
    only_padding = TableModel(5, {(): {1: 1.0}})
    assert complete(only_padding, TOKENIZER, [""], GREEDY)[0].finish_reason == "unseen_context"


def test_begin_and_end_of_text_are_not_penalised():
    model = TableModel(5, {(): {A: 0.45, 0: 0.55}})
    settings = DecodeSettings(temperature=0, repetition_penalty=3.0, presence_penalty=1.0)
    assert complete(model, TOKENIZER, ["a"], settings)[0].ids == (0,)


def test_penalties_count_what_was_generated():
    model = TableModel(5, {(): {A: 0.5, B: 0.3, C: 0.2}})
    once = DecodeSettings(temperature=0, presence_penalty=math.log(3), max_tokens=4)
    # a 1/2; then b 3/10 > 1/6; then c 2/10 > 1/6 > 1/10; then all are penalised alike: a
    assert complete(model, TOKENIZER, ["c"], once)[0].ids == (A, B, C, A)
    each = DecodeSettings(temperature=0, frequency_penalty=math.log(2), max_tokens=4)
    # a 1/2; b .3 > .25; a .25 > .2 > .15; then c .2 > .15 > .125
    assert complete(model, TOKENIZER, ["c"], each)[0].ids == (A, B, A, C)
    repeat = DecodeSettings(temperature=0, repetition_penalty=2.0, max_tokens=1)
    # log-probabilities are doubled: a² = .25 in the prompt, so b .3 wins
    assert complete(model, TOKENIZER, ["a"], repeat)[0].ids == (B,)


def test_a_prompt_of_ids_is_read_as_it_stands():
    assert complete(WORDS, TOKENIZER, [[A]], GREEDY)[0].ids == (B, C, 0)
    assert complete(WORDS, TOKENIZER, [torch.tensor([0, A])], GREEDY)[0].ids == (B, C, 0)
    assert complete(WORDS, TOKENIZER, [], GREEDY) == []


def test_requests_are_one_a_prompt():
    with pytest.raises(ValueError, match="2 prompts and 1 requests"):
        complete(WORDS, TOKENIZER, ["a", "b"], GREEDY, [0])


@pytest.mark.parametrize(
    ("prompt", "settings", "said"),
    [
        ([], GREEDY, "empty"),
        ([0, 5], GREEDY, "no token 5"),
        ([0, -1], GREEDY, "no token -1"),
        ("a", DecodeSettings(stop_tokens=(9,)), "stop_tokens: there is no token 9"),
        ("a a a a", GREEDY, "5 tokens, the model reads at most 4"),
    ],
)
def test_bad_prompts_are_refused_before_anything_is_read(prompt, settings, said):
    model = TableModel(5, {(): {A: 1.0}}, context=4)
    with pytest.raises(UserError) as caught:
        stream(model, TOKENIZER, prompt, settings)
    assert said in caught.value.what
    with pytest.raises(UserError):
        complete(model, TOKENIZER, ["a", prompt], settings)
    assert model.calls == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_not_numbers_are_an_error(bad, temperature):
    model = TinyModel()
    with torch.no_grad():
        model.head.bias[5] = bad
    with pytest.raises(UserError) as caught:
        complete(model, ByteTokenizer(), ["a"], DecodeSettings(temperature=temperature))
    assert caught.value.code == Exit.DIVERGED


def test_a_model_in_training_is_asked_without_dropout_and_left_in_training():
    model, tokenizer = TinyModel(dropout=0.5), ByteTokenizer()
    model.train()
    draws = torch.random.get_rng_state()
    first = complete(model, tokenizer, ["a"], DecodeSettings(max_tokens=6))[0]
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), draws)
    assert complete(model.eval(), tokenizer, ["a"], DecodeSettings(max_tokens=6))[0] == first
    assert not model.training


def test_a_local_generator_is_the_two_functions():
    generator = Local(WORDS, TOKENIZER)
    assert generator.complete(["a"], GREEDY) == complete(WORDS, TOKENIZER, ["a"], GREEDY)
    assert [p.text for p in generator.stream("a", GREEDY)] == [" b", " c", ""]
