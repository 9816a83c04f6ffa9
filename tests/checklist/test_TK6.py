"""TK6: what a vocabulary costs and what it buys, side by side."""

from __future__ import annotations

import pytest

from idiolect.tokens.compare import compare, shared_pieces
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

TEXT = ["The transformer transforms; the transformers transform, are transformed, transforming lectures.\n"] * 9
KINDS = ("word", "char", "byte", "bpe", "wordpiece", "unigram")


def sized(kind: str) -> TokenizerSettings:
    return TokenizerSettings(kind=kind, size=60 if kind == "wordpiece" else 266)  # type: ignore[arg-type]


def test_TK6_the_table_holds_the_trade_off() -> None:
    test = "the transformers, Ünknown"  # 3 words by whitespace, 25 characters, 26 bytes
    rows = {row.kind: row for row in compare(TEXT, test, [sized(k) for k in KINDS], lambda size: 7 * size + 11)}
    assert list(rows) == list(KINDS)
    byte, char, word = rows["byte"], rows["char"], rows["word"]
    assert (byte.vocabulary, byte.tokens, byte.bytes_per_token, byte.oov_percent) == (258, 26, 1.0, 0.0)
    assert byte.tokens_per_word == pytest.approx(26 / 3)
    assert (char.tokens, char.bytes_per_token) == (26, 1.0)  # Ü was never seen: two tokens
    assert (word.tokens, word.bytes_per_token, word.oov_percent) == (4, 26 / 4, 25.0)  # the transformers , <unknown>
    assert word.tokens_per_word == pytest.approx(4 / 3)
    assert all(row.parameters == 7 * row.vocabulary + 11 for row in rows.values())
    for kind in ("bpe", "unigram"):
        assert rows[kind].oov_percent == 0 and word.tokens < rows[kind].tokens < byte.tokens
    assert rows["wordpiece"].oov_percent == 25.0


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_TK6_subwords_share_pieces_of_kindred_words(kind: str) -> None:
    tokenizer = train(TEXT, sized(kind))
    shared = shared_pieces(tokenizer, " transformers", " transformer")
    assert shared and max(map(len, shared)) >= 4


def test_TK6_words_share_nothing() -> None:
    tokenizer = train(TEXT, sized("word"))
    assert tokenizer.oov_rate("transformers transformer") == 0
    assert shared_pieces(tokenizer, " transformers", " transformer") == []
