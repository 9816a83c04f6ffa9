"""Baselines and the one table."""

import gzip as gnu
import json
import math

import pytest

from idiolect import files
from idiolect.data import shards as on_disk
from idiolect.errors import UserError
from idiolect.evaluate.baselines import gzip, uniform, unigram
from idiolect.evaluate.table import Row, compare, shortfalls


def test_uniform_by_hand(encode, tokenizer):
    found = uniform(encode("ab", "c"), tokenizer)  # 3 letters and 2 ends over 258 ids
    assert found.perplexity == 258.0
    assert found.nats == pytest.approx(5 * math.log(258), rel=1e-15)
    assert found.bits_per_byte == pytest.approx(5 * math.log2(258) / 3, rel=1e-15)


def test_unigram_by_hand(encode, tokenizer):
    train, held = encode("aab", "a"), encode("ac")
    # six labels a a b E a E over 258 ids: p(a) = 4/264, p(c) = 1/264, p(E) = 3/264
    found = unigram(held, tokenizer, train)
    assert found.nats == pytest.approx(-math.log(4 / 264 * 1 / 264 * 3 / 264), rel=1e-12)
    assert found.bits_per_byte == pytest.approx(found.nats / math.log(2) / 2)


def test_unigram_learnt_on_the_way_by_hand(encode, tokenizer):
    # a a E: 1/258 · 2/259 · 1/260, in any order
    found = unigram(encode("aa"), tokenizer)
    assert found.nats == pytest.approx(-math.log(1 / 258 * 2 / 259 * 1 / 260), rel=1e-12)


def test_gzip_is_gzip():
    texts = ["the cat sat on the mat. " * 40, "é漢" * 100, ""]
    whole = "".join(texts).encode()
    assert gzip(texts) == pytest.approx(8 * len(gnu.compress(whole, 9)) / len(whole), rel=1e-12)


def test_counts_are_taken_in_bounded_pieces(encode, tokenizer, monkeypatch):
    shards = encode("abcab" * 11)
    whole = shards.counts().tolist()
    monkeypatch.setattr(on_disk, "PART_SIZE", 7)
    assert shards.counts().tolist() == whole and whole[97 + 2] == 22


ROWS = [
    Row("five", "ngram", "t", "bpe", bits_per_byte=2.1, perplexity=90.0, tokens=11),
    Row("two", "lstm", "t", "bpe", bits_per_byte=1.9, perplexity=70.0, tokens=11),
    Row("unigram", "unigram", "t", "bpe", bits_per_byte=3.2, perplexity=400.0, tokens=11, baseline=True),
    Row("gzip", "gzip", "t", bits_per_byte=2.5, baseline=True),
]


def test_one_table_the_best_first():
    table = compare(ROWS)
    assert [row["model"] for row in table["rows"]] == ["two", "five", "gzip", "unigram"]
    assert [row["perplexity"] for row in table["rows"]] == [70.0, 90.0, None, 400.0]
    assert table["notes"] == []
    assert [row["model"] for row in compare(ROWS, by="perplexity")["rows"]] == ["two", "five", "unigram", "gzip"]


def test_infinite_is_last_and_said():
    table = compare([Row("mle", "ngram", "t", "bpe", bits_per_byte=math.inf, perplexity=math.inf), *ROWS])
    assert json.loads(files.to_json(table))["rows"][-1]["bits_per_byte"] == "Infinity"


def test_a_reason_stands_where_a_number_does_not():
    lossy = Row("words", "ngram", "t", "bpe", perplexity=120.0, reason="the word tokenizer loses case")
    table = compare([*ROWS, lossy])
    assert table["rows"][-1]["model"] == "words" and table["rows"][-1]["bits_per_byte"] is None
    assert table["notes"] == ["words: the word tokenizer loses case"]


def test_different_texts_are_not_compared():
    with pytest.raises(UserError, match="five and other were scored on different texts"):
        compare([*ROWS, Row("other", "ngram", "another text", "bpe", bits_per_byte=1.0)])
    with pytest.raises(UserError, match="nothing to compare"):
        compare([])


def test_what_does_not_beat_a_baseline_is_named():
    assert shortfalls(ROWS) == []
    worse = [
        Row("bad", "rnn", "t", "bpe", bits_per_byte=3.2),
        Row("slow", "decoder", "t", "bpe", bits_per_byte=2.5),
        Row("fine", "ngram", "t", "bpe", bits_per_byte=3.0),
        Row("lossy", "gru", "t", "word"),
    ]
    found = shortfalls([*ROWS, *worse])
    assert len(found) == 2
    assert "bad needs 3.200" in found[0] and "unigram (3.200)" in found[0]
    assert "slow needs 2.500" in found[1] and "gzip" in found[1]
