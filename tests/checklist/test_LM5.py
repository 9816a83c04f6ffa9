"""LM5: more context is better, but the statistics of long n-grams run out."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from idiolect.errors import UserError
from idiolect.models.ngram_orders import Order, compare_orders
from idiolect.models.settings import NGramSettings

E, PAD, FIRST = 0, 1, 2
LETTERS = 31


def markov(texts: int, seed: int) -> list[list[int]]:
    """Texts in which each letter depends on the one before it, and sometimes on the two before."""
    generator = np.random.default_rng(seed)
    out = []
    for _ in range(texts):
        text = generator.integers(0, LETTERS, 2).tolist()
        while generator.random() > 0.05:
            noise, far = int(generator.integers(0, 2)), generator.random() < 0.4
            text.append((3 * text[-1] + (7 * text[-2] if far else 0) + noise) % LETTERS)
        out.append([FIRST + letter for letter in text])
    return out


def documents(texts: list[list[int]]) -> SimpleNamespace:
    offsets = np.cumsum([0] + [len(text) for text in texts])
    return SimpleNamespace(ids=np.array([id_ for text in texts for id_ in text]), offsets=offsets)


def report(train, test, smoothing: str = "kneser-ney", order: int = 5) -> list[Order]:
    settings = NGramSettings(order=order, smoothing=smoothing)
    bytes_ = sum(map(len, test))
    return compare_orders(
        documents(train),
        documents(test),
        settings,
        FIRST + LETTERS,
        begin_id=E,
        end_id=E,
        pad_id=PAD,
        test_bytes=bytes_,
    )


def test_LM5_unseen_share_rises_with_n_while_backing_off_keeps_the_perplexity_low():
    train, test = markov(400, 1), markov(60, 2)
    rows = report(train, test)
    assert [row.order for row in rows] == [1, 2, 3, 4, 5]
    unseen = [row.unseen for row in rows]
    assert unseen == sorted(unseen) and unseen[0] == 0 and unseen[-1] > 0.3
    assert rows[2].perplexity_smoothed < rows[1].perplexity_smoothed < rows[0].perplexity_smoothed  # context is better
    assert rows[-1].perplexity_smoothed < rows[1].perplexity_smoothed
    assert all(math.isinf(row.perplexity) and math.isinf(row.bits_per_byte) for row in rows if row.unseen)
    tokens = sum(len(text) + 1 for text in test)
    for row in rows:  # one byte a letter here: bits per byte is the same cross-entropy over other units
        nats = math.log(row.perplexity_smoothed) * tokens
        assert row.bits_per_byte_smoothed == pytest.approx(nats / math.log(2) / (tokens - len(test)))


def test_LM5_unseen_share_is_that_of_a_search_in_plain_python():
    train, test = markov(37, 3), markov(11, 4)
    for row in report(train, test):
        known = set()
        for text in train:
            whole = [E, *text, E]
            known |= {tuple(whole[max(0, at - row.order + 1) : at + 1]) for at in range(1, len(whole))}
            known |= {tuple(whole[at - n : at + 1]) for n in range(row.order) for at in range(n + 1, len(whole))}
        total = missing = 0
        for text in test:
            whole = [E, *text, E]
            for at in range(1, len(whole)):
                total += 1
                missing += tuple(whole[max(0, at - row.order + 1) : at + 1]) not in known
        assert row.unseen == pytest.approx(missing / total)


def test_LM5_by_hand():
    """Trained on "a b", tested on "a b" and "b": the second text's b does not follow a beginning."""
    a, b = FIRST, FIRST + 1
    one, two = report([[a, b]], [[a, b], [b]], "add-k", order=2)
    assert one.unseen == 0 and one.perplexity == pytest.approx(3)  # a, b and the end are a third each
    assert two.unseen == pytest.approx(1 / 5)
    assert two.perplexity == math.inf and two.perplexity_of_seen == pytest.approx(1)
    V = LETTERS + 1  # all but padding
    p = [2 / (1 + V), 2 / (1 + V), 2 / (1 + V), 1 / (1 + V), 2 / (1 + V)]  # (c + 1) / (c(context) + V)
    assert two.perplexity_smoothed == pytest.approx(math.exp(-sum(map(math.log, p)) / 5))


def test_LM5_unnormalised_scores_have_no_perplexity():
    with pytest.raises(UserError, match="perplexity and bits_per_byte .* stupid-backoff"):
        report([[FIRST]], [[FIRST]], "stupid-backoff")
    with pytest.raises(UserError, match="no text"):
        report([[FIRST]], [[]])
