"""The verbs on model folders, as the command line calls them."""

import json
import math

import pytest

from idiolect import files
from idiolect.cli import show
from idiolect.data.batches import held_out
from idiolect.data.shards import encode
from idiolect.errors import UserError
from idiolect.evaluate import verbs
from idiolect.evaluate.score import evaluate, score_text
from idiolect.interop import folder
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, NGramSettings
from idiolect.text.corpus import Corpus
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

TEXT = "one two three four\nfive six seven\n" * 9


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IDIOLECT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


@pytest.fixture
def saved(tmp_path, text):
    """Writes a model folder: (name, settings, kind of tokenizer) → path."""

    def save(name, settings, kind="char"):
        tokenizer = train([TEXT], TokenizerSettings(kind=kind, size=280))
        model = build(settings, tokenizer.size, seed=2)
        if isinstance(settings, NGramSettings):
            model.fit(encode(Corpus([text]), tokenizer))
        folder.save(tmp_path / name, model, tokenizer, {})
        return tmp_path / name

    return save


DECODER = DecoderSettings(layers=1, heads=2, width=12, context=17)


def test_score_is_score_text(saved):
    path = saved("decoder", DECODER)
    loaded = folder.load(path)
    found = verbs.score(path, TEXT, stride=5)
    expected = score_text(loaded.model, loaded.tokenizer, TEXT, stride=5)
    assert json.loads(files.to_json(found))["ids"] == list(loaded.tokenizer.encode(TEXT))
    assert found["logprob"] == expected.logprob and found["tokens"] == len(found["ids"]) == len(TEXT)
    assert found["stride"] == 5 and found["first_scored"] is True
    assert found["bits_per_byte"] == pytest.approx(-expected.logprob / math.log(2) / len(TEXT))


def test_one_model_has_flat_keys_and_baselines(saved, text, capsys):
    path = saved("decoder", DECODER)
    result = verbs.evaluate([path], text)
    assert result["tokens"] == len(TEXT) + 1 and result["bytes"] == len(TEXT)
    assert result["bits_per_byte"] == pytest.approx(math.log2(result["perplexity"]) * (len(TEXT) + 1) / len(TEXT))
    assert [row["family"] for row in result["rows"]].count("decoder") == 1
    assert {"loss", "uniform", "unigram", "gzip -9"} == result["metrics"].keys()
    assert result["metrics"]["loss"] == pytest.approx(math.log(result["perplexity"]))
    show.evaluated(result, True)
    assert json.loads(capsys.readouterr().out)["perplexity"] == pytest.approx(result["perplexity"])


def test_several_models_stand_in_one_table(saved, text, capsys):
    paths = [
        saved("decoder", DECODER),
        saved("ngram", NGramSettings(order=3, smoothing="add-k", k=0.1)),
        saved("bytes", NGramSettings(order=3, smoothing="add-k", k=0.1), "byte"),
        saved("stupid", NGramSettings(order=3, smoothing="stupid-backoff")),
        saved("words", NGramSettings(order=2, smoothing="add-k"), "word"),
    ]
    result = verbs.evaluate(paths, text)
    rows = {row["model"].split("/")[-1]: row for row in result["rows"]}
    assert {"uniform of char", "unigram of byte", "gzip -9"} <= rows.keys() and len(rows) == 5 + 3 * 2 + 1
    assert rows["ngram"]["bits_per_byte"] < rows["decoder"]["bits_per_byte"]  # which was never trained
    assert all(row["perplexity"] is None for row in rows.values())
    assert rows["stupid"]["bits_per_byte"] is None and rows["words"]["bits_per_byte"] is None
    notes = "\n".join(result["notes"])
    assert "stupid-backoff are not probabilities" in notes and "word tokenizer loses" in notes
    show.evaluated(result, False)
    assert "–" in capsys.readouterr().out


def test_a_model_without_probabilities_alone_is_refused(saved, text):
    with pytest.raises(UserError, match="perplexity and bits_per_byte"):
        verbs.evaluate([saved("stupid", NGramSettings(order=3, smoothing="stupid-backoff"))], text)
    with pytest.raises(UserError, match="no model to evaluate"):
        verbs.evaluate([], text)


def test_windows_of_the_model_are_used(saved, text):
    path = saved("decoder", DECODER)
    loaded = folder.load(path)
    shards = encode(Corpus([text]), loaded.tokenizer)
    found = verbs.evaluate_shards(loaded.model, loaded.tokenizer, shards)
    batches = held_out(shards, context=17, rows=1, begin_id=0, end_id=0, pad_id=1)
    assert found.nats == pytest.approx(evaluate(loaded.model, loaded.tokenizer, batches, bytes_=1).nats, rel=1e-6)
