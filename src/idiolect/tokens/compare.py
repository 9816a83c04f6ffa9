"""Tokenizers side by side: how large a vocabulary buys how short a text, and what is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from idiolect.errors import UserError
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Comparison:
    """One tokenizer, measured on a text it has not seen; words are what whitespace sets apart."""

    kind: str
    vocabulary: int
    """Ids, special ones included."""
    tokens: int
    """Tokens of the text."""
    tokens_per_word: float
    bytes_per_token: float
    """UTF-8 bytes of the text over its tokens."""
    length_ratio: float
    """Its tokens over those of the tokenizer that needs the fewest."""
    oov_percent: float
    """Words that the vocabulary lacks, in percent; words as the tokenizer cuts them."""
    parameters: int
    """Parameters of a model with this vocabulary."""
    loses: tuple[str, ...]
    """What of a text does not come back; empty: nothing."""


def compare(
    train_texts: Iterable[str],
    test_text: str,
    settings: Sequence[TokenizerSettings],
    parameters_of: Callable[[int], int],
) -> list[Comparison]:
    """Learns a tokenizer by each of `settings` from the same texts and measures it on `test_text`.

    train_texts: read once for each tokenizer, so not an iterator.
    parameters_of: a model's parameters by its vocabulary.
    Raises UserError when there is no text to measure on, and what `learn.train` raises.
    """
    words, size = len(test_text.split()), len(test_text.encode())
    if not words:
        raise UserError("there is no text to measure the tokenizers on", "give a test text with words in it")
    learnt = [train(train_texts, setting) for setting in settings]
    tokens = [max(1, len(tokenizer.encode_batch([test_text])[0])) for tokenizer in learnt]
    return [
        Comparison(
            kind=tokenizer.kind,
            vocabulary=tokenizer.size,
            tokens=count,
            tokens_per_word=count / words,
            bytes_per_token=size / count,
            length_ratio=count / min(tokens),
            oov_percent=100 * tokenizer.oov_rate(test_text),
            parameters=parameters_of(tokenizer.size),
            loses=tokenizer.loses,
        )
        for tokenizer, count in zip(learnt, tokens, strict=True)
    ]


def shared_pieces(tokenizer: Tokenizer, one: str, other: str) -> list[str]:
    """The pieces that two texts have in common, in the order of the first; unknown ones are not counted."""
    ids = set(tokenizer.encode(other)) - {tokenizer.unknown_id}
    return tokenizer.pieces([i for i in dict.fromkeys(tokenizer.encode(one)) if i in ids])
