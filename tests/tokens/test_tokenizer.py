"""Round trips, control tokens, batches, streams: what holds for every kind."""

from __future__ import annotations

import copy
import pickle
import random
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.errors import UserError
from idiolect.testing import ByteTokenizer
from idiolect.tokens import tokenizer as module
from idiolect.tokens.patterns import KNOWN
from idiolect.tokens.tokenizer import Tokenizer

KINDS = ("word", "char", "byte", "bpe", "wordpiece", "unigram")
LOSSLESS = ("char", "byte", "bpe", "unigram")
Learnt = Callable[..., Tokenizer]

pieces = st.sampled_from(
    [
        "<|endoftext|>",
        "<|pad|>",
        "<|unknown|>",
        "<0x41>",
        "\0",
        "\x07\x1b",
        "😀",
        "👩‍👩‍👧",
        "漢字",
        "  ",
        "\r\n\n",
        "Ġ",
        "##ing",
        "\ufffd",
        "\ufeff",
    ]
)
any_text = st.lists(st.one_of(pieces, st.text()), max_size=8).map("".join)


@pytest.mark.parametrize("pattern", [None, r"\S+", r"\w+|[^\w\s]"])
@pytest.mark.parametrize("kind", LOSSLESS)
@settings(max_examples=150, deadline=None)
@given(text=any_text)
def test_any_text_comes_back(learnt: Learnt, kind: str, pattern: str | None, text: str) -> None:
    tokenizer = learnt(kind, pattern=pattern if kind in ("bpe", "unigram") else None)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text == tokenizer.normalise(text)
    assert int(tokenizer.token_bytes()[ids].sum()) == len(text.encode())
    stream = tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_stream_of_any_ids_is_their_text(learnt: Learnt, kind: str, data: st.DataObject) -> None:
    tokenizer = learnt(kind)
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=20))
    stream = tokenizer.stream()
    parts = [stream.push(i) for i in ids]
    assert "".join(parts) + stream.flush() == tokenizer.decode(ids)
    assert stream.flush() == ""


def test_a_stream_gives_whole_characters_only(learnt: Learnt) -> None:
    stream = learnt("byte").stream()
    shown = [stream.push(byte + 2) for byte in "a漢".encode()]
    assert shown == ["a", "", "", "漢"]
    assert stream.push(0xE6 + 2) == "" and stream.flush() == "\ufffd"


latin_and_greek = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x3FF, exclude_categories=["Cn"]))


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(max_examples=50, deadline=None)
@given(text=latin_and_greek)
def test_lower_casing_loses_case_and_nothing_else(learnt: Learnt, kind: str, text: str) -> None:
    tokenizer = learnt(kind, lowercase=True)
    lowered = "".join(character.lower() for character in text)  # each for itself: Σ is σ at the end of a word too
    assert tokenizer.decode(tokenizer.encode(text)) == lowered == tokenizer.normalise(text)
    assert tokenizer.loses == ("case",) and not tokenizer.lossless and tokenizer.token_bytes() is None


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from("abeINnt is the Python\n\t.,'_é漢")))
@pytest.mark.parametrize("lowercase", [False, True])
def test_word_keeps_the_known_words_a_space_apart(learnt: Learnt, lowercase: bool, text: str) -> None:
    tokenizer = learnt("word", lowercase=lowercase)
    known = set(tokenizer.vocabulary)
    words = re.findall(r"\w+|[^\w\s]", text.lower() if lowercase else text)
    expected = " ".join(word for word in words if word in known)
    assert tokenizer.decode(tokenizer.encode(text)) == expected == tokenizer.normalise(text)
    if words:
        assert tokenizer.oov_rate(text) == sum(word not in known for word in words) / len(words)


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from("abeINnt is the Python\n\t.,'_é§")))
@pytest.mark.parametrize("lowercase", [False, True])
def test_wordpiece_keeps_words_of_known_characters_a_space_apart(learnt: Learnt, lowercase: bool, text: str) -> None:
    tokenizer = learnt("wordpiece", lowercase=lowercase)
    known = set(tokenizer.vocabulary)
    words = re.findall(r"[^\W_]+|[^\w\s]|_", text.lower() if lowercase else text)
    expected = " ".join(word for word in words if all(character in known for character in word))
    assert tokenizer.decode(tokenizer.encode(text)) == expected == tokenizer.normalise(text)


def test_losses_are_declared(learnt: Learnt) -> None:
    assert learnt("word").loses == ("whitespace", "what the pattern does not match", "unknown words")
    assert learnt("wordpiece", lowercase=True).loses == ("case", "whitespace", "unknown words")
    assert all(learnt(kind).lossless and learnt(kind).loses == () for kind in LOSSLESS)


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [*((kind, None) for kind in KINDS), *((kind, r"\S+") for kind in ("word", "bpe", "wordpiece", "unigram"))],
)
def test_content_never_becomes_a_control_token(learnt: Learnt, kind: str, pattern: str | None) -> None:
    tokenizer = learnt(kind, pattern=pattern)
    draw = random.Random(7)
    parts = ["<|endoftext|>", "<|pad|>", "<|unknown|>", "<|", "|>", "endoftext", "pad", " ", "\n", "a", "##", "<"]
    texts = ["".join(draw.choices(parts, k=draw.randint(1, 9))) for _ in range(10_000)]
    ids = np.concatenate(tokenizer.encode_batch(texts))
    assert not np.isin(ids, [tokenizer.end_id, tokenizer.begin_id, tokenizer.pad_id]).any()
    if tokenizer.lossless:
        assert [tokenizer.decode(row) for row in tokenizer.encode_batch(texts)] == texts


@pytest.mark.parametrize("kind", KINDS)
def test_special_ids_are_distinct_and_decode_to_nothing(learnt: Learnt, kind: str) -> None:
    tokenizer = learnt(kind)
    assert (tokenizer.end_id, tokenizer.begin_id, tokenizer.pad_id) == (0, 0, 1)
    assert tokenizer.unknown_id == (2 if kind in ("word", "wordpiece") else None)
    specials = [i for i in (0, 1, tokenizer.unknown_id) if i is not None]
    assert tokenizer.decode(specials) == ""
    assert tokenizer.pieces(specials) == ["<|endoftext|>", "<|pad|>", "<|unknown|>"][: len(specials)]
    text = tokenizer.normalise("it is the name")
    ids = tokenizer.encode(text)
    assert tokenizer.decode([0, *ids[:2], 1, *ids[2:], 0]) == text


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_texts_and_long_texts_are_cut_without_a_trace(
    learnt: Learnt, kind: str, corpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = learnt(kind)
    whole = "\n\n".join(corpus)
    expected = [tokenizer.encode(text) for text in (whole, "", "a  b\n")]
    monkeypatch.setattr(module, "STRETCH", 500)
    monkeypatch.setattr(module, "AT_ONCE", 7000)
    rows = tokenizer.encode_batch([whole, "", "a  b\n"])
    assert [row.tolist() for row in rows] == expected
    assert all(row.dtype == np.uint32 for row in rows)
    assert len(list(module.stretches(whole, "words"))) > 50  # it was cut


@pytest.mark.parametrize(
    ("kind", "pattern"), [*((kind, None) for kind in KINDS), *(("bpe", pattern) for pattern in sorted(KNOWN))]
)
def test_any_text_is_cut_without_a_trace(
    learnt: Learnt, kind: str, pattern: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = learnt(kind, pattern=pattern)
    draw = random.Random(11)
    parts = [
        "a",
        "the",
        " the",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\r\n",
        "'s",
        "12",
        "/",
        "...",
        "é",
        "e\u0301",
        "漢",
        "_",
        "Bc",
    ]
    parts += ["\t", "\xa0", "\x1c", "\u2028", "don't", "😀"]
    texts = ["".join(draw.choices(parts, k=draw.randint(3, 40))) for _ in range(500)]
    whole = tokenizer.encode_batch(texts)
    monkeypatch.setattr(module, "STRETCH", 2)
    for one, cut in zip(whole, tokenizer.encode_batch(texts), strict=True):
        assert one.tolist() == cut.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_in_another_process_is_as_careful(learnt: Learnt, kind: str) -> None:
    tokenizer = learnt(kind)
    for twin in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert (twin.fingerprint, twin.loses, twin.kind) == (tokenizer.fingerprint, tokenizer.loses, kind)
        assert twin.encode("a <|endoftext|> b") == tokenizer.encode("a <|endoftext|> b")


def test_byte_ids_are_those_of_the_stand_in(learnt: Learnt) -> None:
    real, fake = learnt("byte"), ByteTokenizer()
    text = "a<|pad|>漢\0"
    assert real.encode(text) == fake.encode(text) == [byte + 2 for byte in text.encode()]
    assert real.size == fake.size == 258
    assert real.token_bytes().tolist() == fake.token_bytes().tolist()
    assert {name for name in dir(fake) if not name.startswith("_")} <= set(dir(real))


def test_pieces_show_parts_of_characters_as_bytes(learnt: Learnt) -> None:
    tokenizer = learnt("byte")
    assert tokenizer.pieces(tokenizer.encode("a é")) == ["a", " ", "\\xc3", "\\xa9"]


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_input_is_refused(learnt: Learnt, kind: str) -> None:
    tokenizer = learnt(kind)
    with pytest.raises(UserError, match="surrogate"):
        tokenizer.encode("half \ud800")
    for wrong in ([tokenizer.size], [0, -1], [2**70]):
        with pytest.raises(UserError, match="is no id"):
            tokenizer.decode(wrong)
