"""What a model has to beat: guesses that know nothing of order, and a general compressor.

All are measured on the bytes that the models are measured on. `uniform` and `unigram` predict the same labels as a
model does (every token and every document's end-of-text), so they have a perplexity too. None is ever infinite.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from idiolect.data.batch import bits_per_byte
from idiolect.data.shards import Shards
from idiolect.evaluate.score import Evaluation, lossy, perplexity
from idiolect.tokens.tokenizer import Tokenizer


def uniform(held: Shards, tokenizer: Tokenizer) -> Evaluation:
    """Every one of the V ids is as likely at every place: log V nats a label, perplexity V."""
    V = tokenizer.size
    return replace(_evaluation(held.labels * math.log(V), held, tokenizer), perplexity=float(V))


def unigram(held: Shards, tokenizer: Tokenizer, *train: Shards) -> Evaluation:
    """Ids as often as they were seen, whatever came before.

    With training text: p(w) = (c(w) + 1) / (N + V), c(w) the count of w among its N labels. The one that is added to
    each count keeps unseen ids possible; over a text much longer than V it changes little.

    Without (a model alone does not carry its training text): the same estimate, learnt from the held-out text itself
    as it is read: label t is predicted from the t - 1 before it. The product over all T labels does not depend on
    their order:  P = (V - 1)! Π_w c(w)! / (T + V - 1)!
    """
    counts = _labels(held, tokenizer.end_id)
    V = tokenizer.size
    if not train:
        nats = math.lgamma(held.labels + V) - math.lgamma(V) - math.fsum(math.lgamma(c + 1) for c in counts if c)
    else:
        seen = sum(_labels(text, tokenizer.end_id) for text in train)
        nats = float(counts @ (math.log(sum(text.labels for text in train) + V) - np.log(seen + 1)))
    return _evaluation(nats, held, tokenizer)


def gzip(texts: Iterable[str]) -> float:
    """Bits per byte of the texts, one after another, compressed by `gzip -9` on their own.

    It starts knowing nothing and learns as it goes, within its window of 32 kB; its header of some twenty bytes
    counts. It measures what repeats in the text itself, not what was learnt from training text.
    """
    compressor = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    before = after = 0
    for text in texts:
        data = text.encode("utf-8")
        before += len(data)
        after += len(compressor.compress(data))
    after += len(compressor.flush())
    return 8 * after / before


def _labels(shards: Shards, end_id: int) -> np.ndarray:
    counts = shards.counts()
    counts[end_id] += shards.documents
    return counts


def _evaluation(nats: float, held: Shards, tokenizer: Tokenizer) -> Evaluation:
    reason = lossy(tokenizer)
    return Evaluation(
        nats=nats,
        tokens=held.labels,
        bytes=held.bytes,
        loss=nats / held.labels,
        perplexity=perplexity(nats, held.labels),
        bits_per_byte=None if reason else bits_per_byte(nats, held.bytes),
        impossible=0,
        reason=reason,
    )
