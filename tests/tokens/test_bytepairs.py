"""Byte-level BPE in C++, and tables: the ids of the library `tokenizers`, which is asked itself, for every text."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect import devices, native
from idiolect.errors import UserError
from idiolect.tokens import bytepairs, describe, tables
from idiolect.tokens.patterns import CL100K, GPT2, QWEN
from idiolect.tokens.tokenizer import Tokenizer

Learnt = Callable[..., Tokenizer]
PATTERNS = (None, GPT2, CL100K, QWEN)
needs_compiler = pytest.mark.skipif(devices.compiler() is None, reason="no C++ compiler")
PARTS = [
    "a",
    "the",
    " the",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\t",
    "\0",
    "\x1c",
    "\x85",
    "\xa0",
    "\u2028",
    "\u3000",
]
PARTS += ["'s", "'S", "'lL", "'ſ", "ſ", "'", "''", "'re", "'VE", "'r", "'ﬆ", "K", "don't", "12", "1234", "½", "٣", "Ⅷ"]
PARTS += ["/", "...", "_", "é", "e\u0301", "漢", "字", "ß", "😀", "👩‍👩‍👧", "\ufeff", "\U0010ffff", "\U000e0001"]
PARTS += ["x" * 23, "x" * 24, "ab" * 40, " " * 30, "#" * 70, "<|endoftext|>", "<|pad|>", "Ġ", "\u0378", "\U0001e900"]
texts = st.lists(st.one_of(st.sampled_from(PARTS), st.text()), max_size=12).map("".join)


def reference(tokenizer: Tokenizer, texts: Sequence[str], folder: Path) -> list[list[int]]:
    """What the library gives when it is called without us."""
    tokenizer.save(folder)
    native = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    native.encode_special_tokens = True
    return [encoding.ids for encoding in native.encode_batch(texts, add_special_tokens=False)]


def quick(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """What the C++ part gives, however short the texts are."""
    encoder = tokenizer._pairs
    assert encoder is not None
    ids, counts = encoder.encode(texts)
    assert ids.dtype == np.uint32 and counts.sum() == len(ids)
    return [part.tolist() for part in np.split(ids, np.cumsum(counts)[:-1])]


@needs_compiler
@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=150)
@given(several=st.lists(texts, min_size=1, max_size=4))
def test_any_text(learnt: Learnt, pattern: str | None, several: list[str]) -> None:
    tokenizer = learnt("bpe", pattern=pattern)
    assert quick(tokenizer, several) == [tokenizer.encode(text) for text in several]


@needs_compiler
@pytest.mark.parametrize("pattern", PATTERNS)
def test_text_made_of_what_the_patterns_tell_apart(learnt: Learnt, pattern: str | None, tmp_path: Path) -> None:
    tokenizer, draw = learnt("bpe", pattern=pattern), random.Random(3)
    several = ["".join(draw.choices(PARTS, k=draw.randint(0, 30))) for _ in range(3000)]
    assert quick(tokenizer, several) == reference(tokenizer, several, tmp_path)


def around(points: Sequence[int]) -> list[str]:
    """Texts in which each of the code points stands before, between and after letters, digits, spaces and signs."""
    characters = [chr(point) for point in points if not 0xD800 <= point < 0xE000]
    return [
        "|".join(f"a{c}b1{c}2 {c}!{c}\n{c} '{c}" for c in characters[i : i + 997])
        for i in range(0, len(characters), 997)
    ]


@needs_compiler
@pytest.mark.parametrize("pattern", [None, CL100K])
def test_characters_of_every_page(learnt: Learnt, pattern: str | None, tmp_path: Path) -> None:
    tokenizer = learnt("bpe", pattern=pattern)
    several = around([*range(0x600), *range(0x600, 0x110000, 199)])
    assert quick(tokenizer, several) == reference(tokenizer, several, tmp_path)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("pattern", [None, CL100K])
def test_every_character_of_two_planes_and_many_others(learnt: Learnt, pattern: str | None, tmp_path: Path) -> None:
    tokenizer = learnt("bpe", pattern=pattern)
    several = around([*range(0x20000), *range(0x20000, 0x110000, 13)])
    assert quick(tokenizer, several) == reference(tokenizer, several, tmp_path)


@needs_compiler
@pytest.mark.parametrize("pattern", PATTERNS)
def test_threads_and_cuts_leave_no_trace(
    learnt: Learnt, pattern: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of many 64 KiB jobs, in which words, spaces and lines run across their borders."""
    tokenizer, draw = learnt("bpe", pattern=pattern), random.Random(5)
    long = "".join(part * draw.choice([1, 1, 1, 1, 30]) for part in draw.choices(PARTS, k=30_000))
    several = [long, "", "a", long[:200_003], *long[:50_000].splitlines(keepends=True)]
    expected = reference(tokenizer, several, tmp_path)
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert quick(tokenizer, several) == expected
        assert [row.tolist() for row in tokenizer.encode_batch(several)] == expected  # as everyone calls it


@needs_compiler
def test_long_words_and_more_words_than_are_remembered(learnt: Learnt, tmp_path: Path) -> None:
    tokenizer, draw = learnt("bpe"), random.Random(7)
    letters = [draw.choices("etaoinshr", k=draw.randint(1, 12)) for _ in range(120_000)]
    several = [
        " ".join(map("".join, letters)),
        *("".join(draw.choices("theand", k=n)) for n in (47, 48, 49, 997, 20_011)),
    ]
    several += ["a" * 30_011, "漢字" * 5003, several[0]]
    assert quick(tokenizer, several) == reference(tokenizer, several, tmp_path)


@needs_compiler
def test_control_tokens_in_a_text_are_text(learnt: Learnt) -> None:
    tokenizer = learnt("bpe")
    text = "say <|endoftext|> or <|pad|> " * 40_000
    assert len(text) > bytepairs.WORTH
    (ids,) = tokenizer.encode_batch([text])
    assert ids.min() > 1 and tokenizer.decode(ids) == text


def test_half_a_surrogate_pair_is_refused_in_long_texts(learnt: Learnt) -> None:
    for kind in ("bpe", "char", "byte"):
        with pytest.raises(UserError, match="surrogate"):
            learnt(kind).encode("word " * bytepairs.WORTH + "\ud800")


def test_without_a_compiler_the_library_does_it(learnt: Learnt, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "it's the name " * 100
    expected = learnt("bpe").encode(text)
    monkeypatch.setattr(bytepairs, "WORTH", 0)
    monkeypatch.setattr(native, "load", lambda source: None)
    monkeypatch.setitem(learnt("bpe").__dict__, "_pairs", None)
    assert bytepairs.encoder(learnt("bpe")._spec) is None
    assert learnt("bpe").encode(text) == expected


def altered(spec: describe.Spec, **changes: object) -> describe.Spec:
    """A spec with some of its parts, or of its model's, replaced."""
    model = spec["model"] | {key: value for key, value in changes.items() if key in spec["model"]}
    return spec | {key: value for key, value in changes.items() if key not in spec["model"]} | {"model": model}


def test_what_is_left_to_the_library(learnt: Learnt) -> None:
    spec = learnt("bpe")._spec
    assert bytepairs.pattern_of(spec) == GPT2
    assert bytepairs.pattern_of(learnt("bpe", pattern=QWEN)._spec) == QWEN
    added = [{**describe.control_token(600, "new"), "special": False}]
    few = {token: i for token, i in spec["model"]["vocab"].items() if token != "!"}
    for other in (
        altered(spec, normalizer={"type": "NFC"}),
        altered(spec, pre_tokenizer=None),
        altered(spec, pre_tokenizer=describe.byte_level(use_regex=False)),
        altered(spec, pre_tokenizer=describe.byte_level(use_regex=True) | {"add_prefix_space": True}),
        altered(spec, added_tokens=added),
        altered(spec, vocab=few),
        altered(spec, ignore_merges=True),
        altered(spec, end_of_word_suffix="</w>"),
        *(learnt(kind)._spec for kind in ("word", "char", "byte", "wordpiece", "unigram")),
        learnt("bpe", lowercase=True)._spec,
        learnt("bpe", pattern=r"\S+")._spec,
    ):
        assert bytepairs.pattern_of(other) is None


@pytest.mark.parametrize("kind", ["char", "byte"])
@settings(max_examples=150)
@given(several=st.lists(texts, max_size=4))
def test_tables_give_the_ids_of_the_library(learnt: Learnt, kind: str, several: list[str]) -> None:
    tokenizer = learnt(kind, size=400)
    encode = tables.encoder(tokenizer._spec)
    assert encode is not None
    ids, counts = encode(several)
    expected, numbers = tokenizer._by_library(several)
    assert (ids.tolist(), counts.tolist()) == (expected.tolist(), numbers.tolist())
    assert ids.dtype == np.uint32


def test_tables_are_for_plain_bytes_and_characters(learnt: Learnt) -> None:
    for kind in ("word", "bpe", "wordpiece", "unigram"):
        assert tables.encoder(learnt(kind)._spec) is None
    for kind in ("char", "byte"):
        assert tables.encoder(learnt(kind, lowercase=True)._spec) is None
        added = [{**describe.control_token(600, "new"), "special": False}]
        assert tables.encoder(altered(learnt(kind)._spec, added_tokens=added)) is None


def test_classes_are_those_of_a_regular_expression() -> None:
    found = bytepairs.classes(0)
    for point in range(128):
        expected = next((n for n, p in enumerate(("[A-Za-z]", "[0-9]", r"\s"), 1) if re.fullmatch(p, chr(point))), 0)
        assert found[point] == (0 if chr(point) in "\x1c\x1d\x1e\x1f" else expected)  # Python calls these spaces
    assert [bytepairs.classes(ord(c) >> 8)[ord(c) & 255] for c in "é漢½٣\u2028ª€"] == [1, 1, 2, 2, 3, 1, 0]
