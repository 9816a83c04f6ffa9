"""The forgetting ledger: what is measured of each family, and when it counts as forgotten."""

import json

import pytest
import torch

from idiolect.data.shards import encode
from idiolect.errors import UserError
from idiolect.evaluate.forgetting import Corpus, Figure, Texts, given, ledger, measure, own
from idiolect.evaluate.verbs import evaluate_shards
from idiolect.models.build import build
from idiolect.models.settings import CbowSettings, DecoderSettings, EncoderDecoderSettings, EncoderSettings
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings


@pytest.fixture(scope="module")
def tokenizer():
    texts = [text for probe in own().values() for text in probe.texts]
    return train(texts, TokenizerSettings(kind="bpe", size=307))


def test_the_probes_that_ship_are_the_same_each_time_and_of_some_size():
    found = own()
    assert list(found) == ["prose", "reference", "code"] and found == own()
    assert all(3000 < sum(map(len, probe.texts)) < 12_000 for probe in found.values())
    assert len({probe.fingerprint for probe in found.values()}) == 3


def test_text_is_measured_in_bits_per_byte_and_without_a_lossless_tokenizer_in_nats(tokenizer):
    model = build(DecoderSettings(layers=1, heads=2, width=16, context=31), tokenizer.size, seed=3)
    probe = own()["prose"]
    found = measure(model, tokenizer, probe, 10_000)
    assert found == Figure("bits per byte", evaluate_shards(model, tokenizer, encode(probe, tokenizer)).bits_per_byte)
    assert measure(model, tokenizer, probe, 100) != found
    words = train(["a b c"], TokenizerSettings(kind="word", size=6))
    assert measure(build(model.settings, words.size), words, probe, 100).measure == "nats a token"


def test_an_encoder_is_measured_by_what_it_fills_in(tokenizer):
    masked = tokenizer.with_mask()
    model = build(EncoderSettings(layers=1, heads=2, width=16, context=31), masked.size, seed=3)
    found = measure(model, masked, own()["code"], 500)
    assert found.measure == "accuracy" and 0 <= found.value < 0.5 and found.rises
    assert measure(model, masked, own()["code"], 500) == found
    with pytest.raises(UserError, match="no mask"):
        measure(build(model.settings, tokenizer.size), tokenizer, own()["code"], 500)


def test_an_encoder_decoder_is_measured_by_what_it_goes_on_with(tokenizer):
    model = build(EncoderDecoderSettings(layers=1, heads=2, width=16, context=23), tokenizer.size, seed=3).eval()
    probe = own()["prose"]
    ids = torch.as_tensor(encode(probe, tokenizer).ids[0:119].astype("int64"))
    logs = model.score(torch.cat([torch.tensor([tokenizer.begin_id]), ids[96:]])[None], None, ids[None, :96])
    size = len(tokenizer.decode(ids[96:].tolist()).encode())
    found = measure(model, tokenizer, probe, 119)  # one window: 96 tokens read, 23 written
    assert found.value == pytest.approx(float(-logs.sum()) / size / 0.6931471805599453, rel=1e-5)


def test_a_model_that_does_neither_has_no_figure(tokenizer):
    model = build(CbowSettings(width=8), tokenizer.size)
    with pytest.raises(UserError, match="no probability"):
        measure(model, tokenizer, own()["prose"], 100)


def test_examples_are_told_from_text_by_their_fields(tmp_path, tokenizer):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": t, "label": t}) + "\n" for t in "abab"))
    (tmp_path / "text.jsonl").write_text('{"text": "some text"}\n')
    (tmp_path / "text.txt").write_text("some text")
    rows = given(tmp_path / "rows.jsonl")
    assert rows == (("a", "a"), ("b", "b"), ("a", "a"), ("b", "b"))
    assert isinstance(given(tmp_path / "text.jsonl"), Corpus) and isinstance(given(tmp_path / "text.txt"), Corpus)
    model = build(DecoderSettings(layers=1, heads=2, width=16, context=31), tokenizer.size, seed=3)
    assert measure(model, tokenizer, rows, 100).value in (0.0, 0.5, 1.0)
    assert Texts(("a",)).fingerprint != Texts(("b",)).fingerprint


def test_bits_that_grow_and_accuracies_that_fall_are_worse_and_the_worst_comes_first():
    before = {"x": Figure("bits per byte", 2.0), "y": Figure("accuracy", 0.8), "z": Figure("nats a token", 4.0)}
    after = {"x": Figure("bits per byte", 2.08), "y": Figure("accuracy", 0.55), "z": Figure("nats a token", 3.0)}
    entries = ledger(before, after, 0.05)
    assert [entry.probe for entry in entries] == ["y", "x", "z"]
    assert [entry.worse for entry in entries] == pytest.approx([0.25, 0.04, -0.25])
    assert [entry.forgotten for entry in entries] == [True, False, False]
    assert [entry.forgotten for entry in ledger(before, after, 0.039)] == [True, True, False]
