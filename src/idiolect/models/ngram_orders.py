"""What a longer context is worth: unseen n-grams and perplexity for every order up to n.

More context predicts better, but the statistics of long sequences run out: the share of the test's n-grams that were
never seen only rises with n, and without backing off a single one makes the perplexity infinite.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from idiolect.data.batch import bits_per_byte
from idiolect.errors import UserError
from idiolect.models.ngram_counting import Documents, Stream, count
from idiolect.models.ngram_counts import Symbols, Trie, read_so_far, shift
from idiolect.models.ngram_smoothing import SMOOTHING, BackoffTable, maximum_likelihood
from idiolect.models.settings import NGramSettings


@dataclass(frozen=True)
class Order:
    """The figures of one n; perplexities are per token, end-of-text included."""

    order: int
    """n."""
    unseen: float
    """Share of the test's n-grams that the training text lacks; near a text's beginning they are shorter."""
    perplexity: float
    """By relative frequencies, without backing off; infinite as soon as one n-gram is unseen."""
    perplexity_of_seen: float
    """The same over the seen n-grams alone; NaN when none is."""
    perplexity_smoothed: float
    """With the smoothing of the settings."""
    bits_per_byte: float | None
    """Without backing off; None when the bytes of the test text are not given."""
    bits_per_byte_smoothed: float | None
    """With the smoothing of the settings."""


def compare_orders(
    train: Documents,
    test: Documents,
    settings: NGramSettings,
    vocabulary: int,
    *,
    begin_id: int,
    end_id: int,
    pad_id: int | None,
    test_bytes: int | None = None,
) -> list[Order]:
    """The figures for n = 1 … settings.order, from one pass of counting.

    Args:
        train: what is counted.
        test: what is scored, every token and end-of-text of it.
        settings: the smoothing to compare with none; its order is the highest n.
        vocabulary: V.
        begin_id: what a text is read after.
        end_id: what ends a text.
        pad_id: never predicted.
        test_bytes: UTF-8 bytes of the test's text.

    Raises UserError for stupid backoff, whose scores have no perplexity, and for a text without tokens.
    """
    if settings.smoothing not in ("add-k", "kneser-ney"):
        what = f"perplexity and bits_per_byte with smoothing {settings.smoothing} cannot be compared by order"
        raise UserError(what, "use kneser-ney or add-k")
    if not len(train.ids) or not len(test.ids):
        raise UserError("there is no text to count or to score", "give at least one document with text for each")
    symbols = Symbols(vocabulary, begin_id, end_id, pad_id)
    trie, counts = count(Stream(train, symbols), settings.order)
    tokens = Stream(test, symbols).whole()[None]
    out = []
    for n, seen in enumerate(_seen(trie, counts[0], tokens), start=1):
        part = Trie(symbols, trie.keys[: n - 1])
        at_n = settings.model_copy(update={"order": n})
        plain, smoothed = (
            BackoffTable(part, weigh(part, counts[:n], at_n)).score(tokens)[0, 1:]
            for weigh in (maximum_likelihood, SMOOTHING[settings.smoothing])
        )
        row = Order(n, float(1 - seen.mean()), _ppl(plain), _ppl(plain[seen]), _ppl(smoothed), None, None)
        if test_bytes is not None:
            bits = [bits_per_byte(-float(logs.sum()), test_bytes) for logs in (plain, smoothed)]
            row = replace(row, bits_per_byte=bits[0], bits_per_byte_smoothed=bits[1])
        out.append(row)
    return out


def _seen(trie: Trie, unigrams: np.ndarray, tokens: np.ndarray) -> list[np.ndarray]:
    """For n = 1 … N: whether each n-gram of a stream int64 [1, M] was counted, bool [M - 1]."""
    before = np.maximum(shift(read_so_far(tokens, trie.symbols)), 0)
    seen = unigrams[tokens] > 0
    out = []
    for order, (_, nodes) in enumerate(trie.walk(tokens), start=1):
        if order > 1:
            seen = np.where(before >= order - 1, nodes >= 0, seen)
        out.append(seen[0, 1:])
    return out


def _ppl(logs: np.ndarray) -> float:
    """exp of the mean negative log-probability."""
    with np.errstate(over="ignore"):
        return float(np.exp(-logs.mean())) if len(logs) else float("nan")
