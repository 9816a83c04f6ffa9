"""EV2: perplexity depends on the tokenizer, so bits per byte stand beside it and are what is compared."""

import math

import pytest

from idiolect.data.batches import held_out
from idiolect.data.shards import encode
from idiolect.errors import UserError
from idiolect.evaluate.baselines import gzip, uniform, unigram
from idiolect.evaluate.score import evaluate, score_text
from idiolect.evaluate.table import Row, compare, shortfalls
from idiolect.models.build import build
from idiolect.models.settings import NGramSettings
from idiolect.text.corpus import Corpus
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

SENTENCES = ["the cat sat on the mat", "a dog sat on the log", "the hat is on the cat", "a cat and a dog sat"]


@pytest.fixture
def corpora(tmp_path):
    """Training text and held-out text, a sentence a document."""
    (tmp_path / "train.txt").write_text("\n".join(SENTENCES * 6))
    (tmp_path / "held.txt").write_text("the dog sat on the mat\na hat is on the log\n")
    return [Corpus([tmp_path / f"{name}.txt"], "line") for name in ("train", "held")]


@pytest.fixture
def measured(corpora, tmp_path):
    """kind of tokenizer → (tokenizer, training shards, held-out shards, evaluation of a bigram model)."""

    def measure(kind, size=280, smoothing="add-k"):
        settings = TokenizerSettings(kind=kind, size=size)
        tokenizer = train((document.text for document in corpora[0]), settings)
        learnt, held = (encode(corpus, tokenizer, cache=tmp_path / "cache") for corpus in corpora)
        ids = {"begin_id": tokenizer.begin_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
        model = build(NGramSettings(order=2, smoothing=smoothing, k=0.1), tokenizer.size, **ids).fit(learnt)
        batches = held_out(held, context=99, rows=3, **ids)
        return tokenizer, learnt, held, model, batches

    return measure


def evaluated(parts):
    tokenizer, _, held, model, batches = parts
    return evaluate(model, tokenizer, batches, bytes_=held.bytes)


def test_EV2_bits_per_byte_stand_beside_perplexity(measured, corpora):
    parts = measured("char")
    found = evaluated(parts)
    text = "".join(document.text for document in corpora[1])
    assert found.bytes == len(text.encode()) and found.tokens == len(text) + 2
    assert found.bits_per_byte == pytest.approx(math.log2(found.perplexity) * found.tokens / found.bytes, rel=1e-12)
    one = score_text(parts[3], parts[0], "the dog")
    assert one.bits_per_byte == pytest.approx(math.log2(one.perplexity) * one.tokens / one.bytes, rel=1e-12)


def test_EV2_perplexities_of_two_tokenizers_are_not_compared_and_bits_per_byte_are(measured, corpora):
    parts = {kind: measured(kind) for kind in ("char", "bpe")}
    text = corpora[1].fingerprint
    rows = [Row.of(kind, "ngram", text, p[0].fingerprint, evaluated(p)) for kind, p in parts.items()]
    assert len({row.tokens for row in rows}) == 2  # their perplexities are means over unlike numbers of tokens
    with pytest.raises(UserError, match="perplexities of different tokenizers"):
        compare(rows, by="perplexity")
    table = compare(rows)
    assert [row["perplexity"] for row in table["rows"]] == [None, None]
    assert any("cannot be compared" in note for note in table["notes"])
    bits = [row["bits_per_byte"] for row in table["rows"]]
    assert bits == sorted(row.bits_per_byte for row in rows) and bits[0] < bits[1]
    alone = compare(rows[:1])
    assert alone["rows"][0]["perplexity"] == rows[0].perplexity


def test_EV2_only_true_probabilities_have_either(measured):
    with pytest.raises(UserError, match="perplexity and bits_per_byte"):
        evaluated(measured("char", smoothing="stupid-backoff"))


def test_EV2_a_lossy_tokenizer_has_a_dash_and_a_reason(measured, corpora):
    parts = measured("word")
    found = evaluated(parts)
    assert found.perplexity > 1 and found.bits_per_byte is None
    text = corpora[1].fingerprint
    gzipped = Row("gzip", "gzip", text, bits_per_byte=9.0, baseline=True)
    table = compare([Row.of("words", "ngram", text, parts[0].fingerprint, found), gzipped])
    assert table["rows"][-1]["bits_per_byte"] is None
    (note,) = table["notes"]
    assert "words" in note and "loses" in note


def test_EV2_baselines_are_shown_over_the_same_bytes(measured, corpora):
    parts = measured("char")
    tokenizer, learnt, held, _, _ = parts
    text = corpora[1].fingerprint
    flat, frequent = uniform(held, tokenizer), unigram(held, tokenizer, learnt)
    rows = [
        Row.of("bigram", "ngram", text, tokenizer.fingerprint, evaluated(parts)),
        Row.of("uniform", "uniform", text, tokenizer.fingerprint, flat, baseline=True),
        Row.of("unigram", "unigram", text, tokenizer.fingerprint, frequent, baseline=True),
        Row("gzip", "gzip", text, bits_per_byte=gzip(d.text for d in corpora[1]), baseline=True),
    ]
    assert flat.bytes == frequent.bytes == held.bytes
    order = [row["model"] for row in compare(rows)["rows"]]
    assert order[0] == "bigram" and order.index("unigram") < order.index("uniform") and len(order) == 4
    assert flat.bits_per_byte == pytest.approx(math.log2(tokenizer.size) * held.labels / held.bytes)
    assert shortfalls(rows) == []
