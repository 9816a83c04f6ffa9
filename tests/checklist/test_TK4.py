"""TK4: subwords: words fall into pieces, nothing is out of vocabulary, and what is lost is declared."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.tokens.compare import compare
from idiolect.tokens.learn import from_vocabulary, train
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer

PIECES = ["henry", "is", "giv", "##in", "'", "a", "lec", "##true", "on", "transform", "##ers"]
TEXT = ["Henry is giving a lecture on transformers.\n", "The transformer's lectures, they're given.\n"] * 20


def test_TK4_a_vocabulary_with_those_pieces_gives_them() -> None:
    tokenizer = from_vocabulary(PIECES, TokenizerSettings(kind="wordpiece", lowercase=True))
    assert tokenizer.pieces(tokenizer.encode("Henry is givin' a lectrue on transformers")) == PIECES
    assert tokenizer.oov_rate("Henry is givin' a lectrue on transformers") == 0


@functools.cache
def learnt(kind: str) -> Tokenizer:
    return train(TEXT, TokenizerSettings(kind=kind, size=300 if kind != "wordpiece" else 80))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "unigram"])
@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_TK4_any_text_comes_back_and_nothing_is_out_of_vocabulary(kind: str, text: str) -> None:
    tokenizer = learnt(kind)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.unknown_id is None and tokenizer.oov_rate(text) == 0 and tokenizer.lossless


def test_TK4_losses_are_declared_in_the_file_and_by_compare(tmp_path: Path) -> None:
    word = TokenizerSettings(kind="word")
    wordpiece = TokenizerSettings(kind="wordpiece", size=60, lowercase=True)
    expected = {
        "word": ["whitespace", "what the pattern does not match", "unknown words"],
        "wordpiece": ["case", "whitespace", "unknown words"],
    }
    rows = compare(TEXT, TEXT[0], [word, wordpiece, TokenizerSettings(kind="byte")], lambda size: size)
    assert {row.kind: list(row.loses) for row in rows} == {**expected, "byte": []}
    for setting in (word, wordpiece):
        train(TEXT, setting).save(tmp_path)
        declared = json.loads((tmp_path / "tokenizer_config.json").read_text())["idiolect"]
        assert declared == {"kind": setting.kind, "loses": expected[setting.kind]}


def test_TK4_the_round_trip_of_a_lossy_one_is_the_declared_normalisation() -> None:
    wordpiece = train(TEXT, TokenizerSettings(kind="wordpiece", size=60, lowercase=True))
    word = train(TEXT, TokenizerSettings(kind="word"))
    text = "Henry's  TRANSFORMER,\tis given\n漢 Q"
    for tokenizer, expected in ((wordpiece, "henry ' s transformer , is given"), (word, "Henry ' s , is given")):
        assert tokenizer.decode(tokenizer.encode(text)) == expected == tokenizer.normalise(text)
