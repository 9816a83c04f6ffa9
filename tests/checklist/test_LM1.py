"""LM1: a language model gives P(sequence) by the chain rule, and writes; one interface for every family."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import UserError
from idiolect.evaluate.score import evaluate, score_text
from idiolect.models.build import build
from idiolect.models.contract import LanguageModel
from idiolect.models.ngram import NGram
from idiolect.models.settings import DecoderSettings, NGramSettings, RecurrentSettings
from idiolect.testing import ByteTokenizer, TinyModel, WordTokenizer

E, A, B, C = range(4)
TEXTS = [[A, B], [B], [A, B, C], [A, A], [C, A, B]]


def ngram(smoothing: str, vocabulary: int = 4, texts: list[list[int]] = TEXTS, pad_id: int | None = None) -> NGram:
    model = NGram(NGramSettings(order=3, smoothing=smoothing), vocabulary, begin_id=E, end_id=E, pad_id=pad_id)
    return model.fit(SimpleNamespace(ids=np.concatenate(texts), offsets=np.cumsum([0, *map(len, texts)])))


FAMILIES = {
    "mle": lambda: ngram("mle"),
    "add-k": lambda: ngram("add-k"),
    "kneser-ney": lambda: ngram("kneser-ney"),
    "infinite": lambda: ngram("infinite"),
    "rnn": lambda: build(RecurrentSettings(kind="rnn", width=7, context=11), 4).eval(),
    "lstm": lambda: build(RecurrentSettings(kind="lstm", width=7, layers=2, context=11), 4).eval(),
    "gru": lambda: build(RecurrentSettings(kind="gru", width=7, context=11), 4).eval(),
    "decoder": lambda: build(DecoderSettings(layers=2, heads=2, width=12, context=11), 4).eval(),
    "tiny": lambda: TinyModel(4),
}


@pytest.fixture(params=FAMILIES)
def model(request):
    with torch.no_grad():
        yield FAMILIES[request.param]()


def sequences(length: int, symbols: tuple[int, ...]) -> list[list[int]]:
    return [list(text) for text in itertools.product(symbols, repeat=length)]


def probabilities(model, texts: list[list[int]]) -> torch.Tensor:
    """P(text | begin-of-text) of texts of one length, by `score`."""
    return model.score(torch.tensor([[E, *text] for text in texts])).double().sum(1).exp()


def test_LM1_every_family_is_a_language_model(model):
    assert isinstance(model, LanguageModel) and model.normalised


def test_LM1_the_next_tokens_distribution_sums_to_one(model):
    for length in range(4):
        for text in sequences(length, (A, B, C)):
            ids = torch.tensor([[E, *text]])
            logits, _ = model.step(ids, model.init_state(1, 9), last=True)
            p = torch.stack([model.score(torch.tensor([[E, *text, w]]))[0, -1].exp() for w in range(4)]).double()
            if p.sum() == 0:  # relative frequencies say nothing after a context that never occurred
                assert model.settings.smoothing == "mle"
                assert torch.isneginf(logits).all()
                continue
            assert p.sum().item() == pytest.approx(1, abs=1e-6)
            torch.testing.assert_close(torch.softmax(logits[0, 0].double(), -1), p, atol=1e-6, rtol=0)


def test_LM1_all_texts_together_have_probability_one(model):
    finished = sum(
        probabilities(model, [[*text, E] for text in sequences(length, (A, B, C))]).sum().item() for length in range(4)
    )
    unfinished = probabilities(model, sequences(4, (A, B, C))).sum().item()
    assert finished + unfinished == pytest.approx(1, abs=1e-6)
    assert finished > 0.01


def test_LM1_the_chain_rule(model):
    """Log-probabilities token by token, from one step a token, add up to those of the whole sequences."""
    texts = [[A, B, E], [A, A, E], [B, E, A]]
    ids = torch.tensor([[E, *text] for text in texts])
    state, total = model.init_state(3, 9), torch.zeros(3, dtype=torch.float64)
    for at in range(3):
        logits, state = model.step(ids[:, at : at + 1], state)
        total += torch.log_softmax(logits[:, 0].double(), -1).gather(1, ids[:, at + 1, None])[:, 0]
    torch.testing.assert_close(total, model.score(ids).double().sum(1), atol=1e-5, rtol=0)


def test_LM1_every_family_writes_and_knows_how_probable_its_text_is(model):
    tokenizer = SimpleNamespace(
        size=4, begin_id=E, end_id=E, pad_id=None, stream=lambda: SimpleNamespace(push=lambda id_: "", flush=lambda: "")
    )
    for found in complete(model, tokenizer, [[E]] * 7, DecodeSettings(seed=1, max_tokens=5)):
        assert found.finish_reason in ("stop", "length")
        again = model.score(torch.tensor([[E, *found.ids]]))[0, 1:].tolist()
        assert list(found.logprobs) == pytest.approx(again, abs=1e-5)


# --- relative frequencies and unnormalised scores, with a tokenizer of words -----------------------------------------

WORDS = WordTokenizer(["the", "cows", "eat", "corn"])
LINES = [WORDS.encode(line) for line in ("the cows eat corn", "cows eat", "eat the corn")]


def of_words(smoothing: str) -> NGram:
    return ngram(smoothing, WORDS.size, LINES, WORDS.pad_id)


def test_LM1_relative_frequencies_after_an_unseen_context():
    unseen = WORDS.encode("corn corn")
    with pytest.raises(UserError, match="never occurred"):
        of_words("mle").fractions(unseen)
    (found,) = complete(of_words("mle"), WORDS, ["corn corn"], DecodeSettings(max_tokens=3))
    assert (found.finish_reason, found.ids) == ("unseen_context", ())
    for smoothing in ("add-k", "stupid-backoff", "kneser-ney", "infinite"):  # backs off when asked
        (found,) = complete(of_words(smoothing), WORDS, ["corn corn"], DecodeSettings(max_tokens=3))
        assert found.ids and math.isfinite(sum(found.logprobs))


def test_LM1_stupid_backoff_is_no_probability_and_refuses_by_name():
    model = of_words("stupid-backoff")
    assert not model.normalised
    logits, _ = model.step(torch.tensor([WORDS.encode("eat cows")]), model.init_state(1, 2), last=True)
    assert logits.exp().sum().item() != pytest.approx(1, abs=0.05)
    with pytest.raises(UserError, match=r"stupid-backoff.*perplexity and bits_per_byte"):
        evaluate(model, WORDS, [], bytes_=1)
    tokenizer = ByteTokenizer()
    texts = [tokenizer.encode(text) for text in ("the cows", "eat corn")]
    score = score_text(ngram("stupid-backoff", tokenizer.size, texts, tokenizer.pad_id), tokenizer, "the corn")
    assert score.perplexity is None and score.bits_per_byte is None
    assert "stupid-backoff" in score.reason and "perplexity and bits per byte" in score.reason
