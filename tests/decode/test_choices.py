"""How likely each of some answers is: by hand, and beside transformers."""

import math

import pytest
import torch
import transformers

from idiolect.decode.choices import choices, shares
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, EncoderDecoderSettings, NGramSettings
from idiolect.testing import ByteTokenizer, TableModel
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

BYTES = ByteTokenizer()
A, B, C, SPACE, DOT = (BYTES.encode(letter)[0] for letter in "abc .")
TABLE = {
    (): {A: 0.5, B: 0.25, C: 0.25},
    (SPACE,): {A: 0.5, B: 0.25, C: 0.25},
    (A,): {DOT: 0.75, B: 0.25},
    (B,): {DOT: 0.5, C: 0.5},
    (C,): {DOT: 1.0},
}


def test_an_answers_probability_is_the_product_over_its_tokens_and_what_follows():
    model = TableModel(BYTES.size, TABLE)
    ((a, ab, bc),) = choices(model, BYTES, [("a. ", ".")], ["a", "ab", "bc"])
    assert a.logprob == pytest.approx(math.log(0.5 * 0.75))
    assert ab.logprob == pytest.approx(math.log(0.5 * 0.25 * 0.5))  # a, then b, then the dot
    assert bc.logprob == pytest.approx(math.log(0.25 * 0.5 * 1.0))
    assert [(one.tokens, one.bytes) for one in (a, ab, bc)] == [(2, 2), (3, 3), (3, 3)]
    assert bc.weight("token") == pytest.approx(math.log(0.125) / 3) == bc.weight("byte")
    assert bc.weight("sum") == bc.logprob


def test_shares_are_of_one_and_survive_the_impossible():
    assert shares([math.log(0.3), math.log(0.1)]) == pytest.approx([0.75, 0.25])
    assert shares([-math.inf, math.log(0.1)]) == pytest.approx([0.0, 1.0])
    assert shares([-math.inf, -math.inf]) == pytest.approx([0.5, 0.5])


def test_a_token_across_the_border_counts_to_the_answer():
    """The sum over two answers differs by what the whole texts differ by, wherever the tokenizer cuts."""
    tokenizer = train(["he said yes", "he said no"] * 20, TokenizerSettings(kind="bpe", size=266))
    model = build(DecoderSettings(layers=1, heads=2, width=16, context=31), tokenizer.size, seed=3).eval()
    ((yes, no),) = choices(model, tokenizer, [("he said ", "")], ["yes", "no"])

    def whole(text):
        ids = torch.tensor([[tokenizer.begin_id, *tokenizer.encode(text)]])
        return float(model.score(ids).sum())

    assert yes.logprob - no.logprob == pytest.approx(whole("he said yes") - whole("he said no"), abs=1e-5)
    many = choices(model, tokenizer, [("he said ", ""), ("she ", "!")], ["yes", "no"])
    assert [one.logprob for one in many[0]] == pytest.approx([yes.logprob, no.logprob], abs=1e-5)


def test_an_encoder_decoder_answers_a_source_as_transformers_says(tmp_path):
    tokenizer = train(["good film", "bad film", "fine"] * 9, TokenizerSettings(kind="bpe", size=268))
    settings = EncoderDecoderSettings(layers=2, heads=2, width=16, context=13, source_context=29)
    model = build(settings, tokenizer.size, seed=5).eval()
    folder.save(tmp_path / "t5", model, tokenizer, {})
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "t5").eval()
    (found,) = choices(model, tokenizer, [("a good film: ", "")], ["good", "bad"])
    source = torch.tensor([[*tokenizer.encode("a good film:"), tokenizer.end_id]])
    for label, one in zip(("good", "bad"), found, strict=True):
        labels = torch.tensor([[*tokenizer.encode(label), tokenizer.end_id]])
        with torch.no_grad():
            loss = theirs(input_ids=source, labels=labels).loss  # the mean over the labels
        assert one.tokens == labels.shape[1]
        assert -one.logprob / one.tokens == pytest.approx(float(loss), abs=1e-5)


def test_what_cannot_be_compared_is_refused():
    model = TableModel(BYTES.size, TABLE, context=5)
    with pytest.raises(UserError, match="the model reads at most 5"):
        choices(model, BYTES, [("a. a. ", "")], ["a", "b"])
    words = train(["good bad"] * 3, TokenizerSettings(kind="word", size=10))
    decoder = build(DecoderSettings(layers=1, heads=1, width=8, context=9), words.size)
    with pytest.raises(UserError, match="'fine' and 'great' are the same"):
        choices(decoder, words, [("good ", "")], ["fine", "great"])
    backoff = build(NGramSettings(smoothing="stupid-backoff"), words.size, begin_id=0, end_id=0, pad_id=1)
    with pytest.raises(UserError, match="no probabilities"):
        choices(backoff, words, [("good ", "")], ["good", "bad"])
