"""TK5: BPE, WordPiece and Unigram are learnt from one's own text, saved and loaded; BPE by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer

WORDS = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
TEXT = "\n".join(word for word, count in WORDS.items() for _ in range(count))


def merges(size: int, folder: Path) -> list[tuple[str, str]]:
    train([TEXT], TokenizerSettings(kind="bpe", size=size)).save(folder)
    return [tuple(pair) for pair in json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]]


def test_TK5_bpe_merges_by_hand(tmp_path: Path) -> None:
    """Pairs: ug 10+5+5 = 20, un 12+4 = 16, hu 15, pu 17, bu 4, gs 5; the largest first.

    After ug: un 16, h+ug 15, pu (pun only) 12, …; after un: h+ug 15, p+un 12, p+ug 5, ug+s → hug+s 5, b+un 4.
    The tie of p+ug and hug+s at 5 goes to the pair with the lower ids: p is a byte, hug a merge.
    """
    expected = [("u", "g"), ("u", "n"), ("h", "ug"), ("p", "un"), ("p", "ug"), ("hug", "s"), ("b", "un")]
    assert merges(258 + 7, tmp_path) == expected
    assert merges(258 + 3, tmp_path) == expected[:3]
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.pieces(tokenizer.encode("hugs bug mug")) == ["hug", "s", " ", "b", "ug", " ", "m", "ug"]


def test_TK5_wordpiece_by_hand() -> None:
    """The same merges, with letters within words apart from first letters: ##ug 20, ##un 16, hug 15, pun 12."""
    tokenizer = train([TEXT], TokenizerSettings(kind="wordpiece", size=3 + 2 * 7 + 4))
    assert tokenizer.vocabulary[3 + 2 * 7 :] == ["##ug", "##un", "hug", "pun"]
    assert tokenizer.pieces(tokenizer.encode("hugs bug mug")) == ["hug", "##s", "b", "##ug", "<|unknown|>"]


def test_TK5_unigram_prefers_whole_words() -> None:
    tokenizer = train([TEXT], TokenizerSettings(kind="unigram", size=258 + 4))
    assert tokenizer.pieces(tokenizer.encode("hugs pun")) == ["hug", "s", " ", "pun"]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_TK5_saved_and_loaded_with_byte_fallback(kind: str, tmp_path: Path) -> None:
    size = 21 if kind == "wordpiece" else 262
    tokenizer = train([TEXT], TokenizerSettings(kind=kind, size=size))  # type: ignore[arg-type]
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    text = "hugs 漢字 \0 😀 z"
    assert again.encode(text) == tokenizer.encode(text)
    if kind != "wordpiece":
        assert again.decode(again.encode(text)) == text
