"""TK3: characters: a tiny vocabulary, long sequences, nothing lost."""

from __future__ import annotations

import pytest

from idiolect.tokens.compare import compare
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

SENTENCE = "Henry is givin' a lectrue on transformers"


def test_TK3_a_token_a_character_and_every_character_comes_back() -> None:
    tokenizer = train([SENTENCE, "漢"], TokenizerSettings(kind="char"))
    assert tokenizer.pieces(tokenizer.encode(SENTENCE)) == list(SENTENCE)  # spaces and the apostrophe too
    assert tokenizer.pieces(tokenizer.encode("漢字")) == [
        "漢",
        "\\xe5",
        "\\xad",
        "\\x97",
    ]  # 字 was never seen: its bytes
    for text in (SENTENCE, "漢字", "もじ 漢字\n😀"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.size == 2 + 256 + len(set(SENTENCE)) + 1


def test_TK3_sequences_are_longer_by_a_ratio_that_is_reported() -> None:
    texts = ["the cat sat on the mat\n"] * 9
    settings = [TokenizerSettings(kind=kind, size=276) for kind in ("char", "word")]  # type: ignore[arg-type]
    settings.append(TokenizerSettings(kind="bpe", size=259))  # one merge: at
    char, word, bpe = compare(texts, "the cat sat", settings, lambda size: size)
    assert (char.tokens, word.tokens) == (11, 3)
    assert char.length_ratio == pytest.approx(11 / 3) and word.length_ratio == 1
    assert (bpe.tokens, bpe.length_ratio) == (9, 3.0)
    assert char.tokens_per_word == pytest.approx(11 / 3)
