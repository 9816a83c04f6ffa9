"""TK1: the word tokenizer."""

from __future__ import annotations

from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

SENTENCE = "Henry is giving a lecture on transformers"


def test_TK1_a_sentence_becomes_its_lower_cased_words() -> None:
    tokenizer = train([SENTENCE], TokenizerSettings(kind="word", lowercase=True))
    words = ["henry", "is", "giving", "a", "lecture", "on", "transformers"]
    assert tokenizer.pieces(tokenizer.encode(SENTENCE)) == words
    assert sorted(tokenizer.vocabulary[3:]) == sorted(words)
    assert tokenizer.decode(tokenizer.encode(SENTENCE)) == SENTENCE.lower()
