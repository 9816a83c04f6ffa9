"""TK2: misspelt words are out of vocabulary, and their rate is reported. <OOV> of the lecture is our <|unknown|>."""

from __future__ import annotations

from pathlib import Path

import pytest

from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.verbs import encode

OOV = "<|unknown|>"


def test_TK2_typos_are_out_of_vocabulary(tmp_path: Path) -> None:
    settings = TokenizerSettings(kind="word", lowercase=True, pattern=r"[\w']+")  # an apostrophe belongs to its word
    tokenizer = train(["Henry is giving a lecture on transformers"], settings)
    typos = "Henry is givin' a lectrue on transformers"
    assert tokenizer.pieces(tokenizer.encode(typos)) == ["henry", "is", OOV, "a", OOV, "on", "transformers"]
    tokenizer.save(tmp_path)
    assert encode(tmp_path, typos)["oov_rate"] == pytest.approx(2 / 7)


@pytest.mark.parametrize(
    ("text", "rate"), [("is a on", 0.0), ("nothing known here", 1.0), ("a b c d", 0.75), ("", 0.0), ("--", 0.0)]
)
def test_TK2_the_rate_is_reported_on_any_text(text: str, rate: float) -> None:
    settings = TokenizerSettings(kind="word", lowercase=True, pattern=r"[\w']+")
    assert train(["Henry is giving a lecture on transformers"], settings).oov_rate(text) == rate
