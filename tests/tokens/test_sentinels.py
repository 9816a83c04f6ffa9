"""Sentinels, which stand for spans left out of a text: ours, and T5's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Native
from tokenizers import models, pre_tokenizers, trainers
from transformers import AutoTokenizer, T5Tokenizer

from idiolect.tokens.tokenizer import Tokenizer

KINDS = ("word", "char", "byte", "bpe", "wordpiece", "unigram")
Learnt = Callable[..., Tokenizer]
TEXTS = ["The list's items, unhashable ones included.", "  naïve <extra_id_0>\n漢字 </s>", ""]


@pytest.mark.parametrize("kind", KINDS)
def test_sentinels_change_no_other_id_and_no_text_spells_one(learnt: Learnt, kind: str, tmp_path: Path) -> None:
    plain = learnt(kind)
    tokenizer = plain.with_sentinels(5)
    assert plain.sentinels.tolist() == []
    assert tokenizer.sentinels.tolist() == list(range(plain.size, plain.size + 5))
    assert tokenizer.with_sentinels(3) is tokenizer
    assert tokenizer.with_sentinels(7).sentinels.tolist() == list(range(plain.size, plain.size + 7))
    for text in TEXTS:
        assert tokenizer.encode(text) == plain.encode(text)
    assert not tokenizer.content[tokenizer.sentinels].any()
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).sentinels.tolist() == tokenizer.sentinels.tolist()
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(5)]) == tokenizer.sentinels.tolist()


@pytest.fixture
def theirs() -> T5Tokenizer:
    """A small one in T5's way: sentencepiece's spaces, </s> after a text, sentinels whose ids fall."""
    native = Native(models.Unigram())
    native.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    native.train_from_iterator(["The quick brown fox jumps over the lazy dog; it's only a fox."] * 9, trainer)
    pieces = [(piece, score) for piece, score in json.loads(native.to_str())["model"]["vocab"]]
    return T5Tokenizer(vocab=[*pieces, *((f"<extra_id_{i}>", 0.0) for i in reversed(range(7)))], extra_ids=7)


def test_t5s_tokenizer_encodes_here_as_there(theirs: T5Tokenizer, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert (ours.size, ours.pad_id, ours.end_id, ours.begin_id, ours.unknown_id) == (len(theirs), 0, 1, 1, 2)
    assert ours.kind == "unigram"
    for text in ("The quick brown fox", "  odd   spaces\n only, Q é 漢", "lazy dog.", ""):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.framed(ours.encode(text)) == theirs.encode(text)
        ids = [i for i in ours.encode(text) if i != ours.unknown_id]
        assert ours.decode(ids) == theirs.decode(ids)
    falling = list(range(len(theirs) - 1, len(theirs) - 8, -1))
    assert ours.sentinels.tolist() == theirs.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(7)]) == falling
    sentinel = ours.sentinels.tolist()[0]
    assert sentinel in theirs.encode("the <extra_id_0> fox")  # which there is a sentinel, and here a user's text
    assert sentinel not in ours.encode("the <extra_id_0> fox")
