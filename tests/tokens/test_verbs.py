"""`tokenizer train`, `encode`, `decode` and the comparison, as functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from idiolect import files
from idiolect.errors import UserError
from idiolect.tokens.compare import compare
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer
from idiolect.tokens.verbs import decode, encode, train_tokenizer


def test_train_encode_decode(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("cows eat corn\n" * 20)
    out = tmp_path / "tok"
    result = train_tokenizer([text], out, TokenizerSettings(kind="word"))
    assert result == {
        "tokenizer": str(out),
        "kind": "word",
        "size": 6,
        "loses": ["whitespace", "what the pattern does not match", "unknown words"],
        "documents": 1,
        "bytes": 14 * 20,
        "fingerprint": Tokenizer.load(out).fingerprint,
    }
    assert files.verify(out)["kind"] == "tokenizer"
    assert encode(out, "cows eat hay") == {
        "ids": [4, 5, 2],
        "tokens": ["cows", "eat", "<|unknown|>"],
        "oov_rate": 1 / 3,
    }
    assert decode(out, [3, 0, 4]) == "corn cows"


def test_what_was_left_out_is_told(tmp_path: Path) -> None:
    texts = [tmp_path / f"{number}.txt" for number in range(8)]
    for text in texts:
        text.write_text("cows eat corn\n" * 20)
    result = train_tokenizer(texts, tmp_path / "tok", TokenizerSettings(kind="word", sample=1000))
    assert (result["bytes"], result["sample_bytes"]) == (8 * 280, 2 * 280)


def test_an_existing_folder_is_left_alone_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("cows eat corn\n")
    with pytest.raises(UserError, match="exists already"):
        train_tokenizer([text], tmp_path, TokenizerSettings())
    with pytest.raises(UserError, match="the text supports"):
        train_tokenizer([text], tmp_path / "out", TokenizerSettings(size=4096))
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_comparison_needs_a_text_with_words() -> None:
    with pytest.raises(UserError, match="no text to measure"):
        compare(["a b"], " \n", [TokenizerSettings(kind="byte")], lambda size: size)


def test_oov_rate_is_zero_without_unknown_words(learnt: Callable[..., Tokenizer]) -> None:
    assert learnt("bpe").oov_rate("zzz 漢字") == 0.0
    assert learnt("word").oov_rate("") == 0.0
