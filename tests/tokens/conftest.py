"""Text and tokenizers that several tests share."""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Callable

import pytest

from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer

KINDS = ("word", "char", "byte", "bpe", "wordpiece", "unigram")


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """English that every Python carries, 100 kB, with a few other characters."""
    topics = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    return [*"\n".join(topics)[:100_000].split("\n\n"), "naïve café 漢字 😀 — it's"]


@pytest.fixture(scope="session")
def learnt(corpus: list[str]) -> Callable[..., Tokenizer]:
    """A tokenizer of the given settings, learnt from the corpus once a session."""
    made: dict[TokenizerSettings, Tokenizer] = {}

    def make(kind: str, size: int = 600, **options: object) -> Tokenizer:
        settings = TokenizerSettings(kind=kind, size=size, **options)  # type: ignore[arg-type]
        if settings not in made:
            made[settings] = train(corpus, settings)
        return made[settings]

    return make
