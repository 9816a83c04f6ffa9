"""LM18: an encoder reads float frames in the place of tokens: tones become digit words, drawn shapes a caption.

Real speech and real pictures are out of scope, and the docs say so.
"""

import importlib
import json
from pathlib import Path

import pytest

from idiolect.cli import run

ROOT = Path(__file__).parents[2]
SHARED = ["task.kind=frames", "tokenizer.kind=word", "tokenizer.size=50", "train.precision=fp32", "train.threads=1"]
SHARED += ["train.compile=no", "sample.every=0", "validation.every=0", "task.answers=0", "train.batch_tokens=1024"]
HELD_OUT = 200


@pytest.fixture
def senses(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "lessons")
    return importlib.import_module("senses")


def exact(folder, make, write, overrides, capsys):
    """The share of examples, drawn apart from those trained on, that the model answers word for word."""
    write(folder / "train.jsonl", make, 3000, seed=0)
    write(folder / "held-out.jsonl", make, HELD_OUT, seed=1)
    data = [f"data.train={folder / 'train.jsonl'}", f"data.validation={folder / 'held-out.jsonl'}"]
    assert run(["train", "seq2seq", *data, *SHARED, *overrides, "-o", str(folder / "run")]) == 0
    capsys.readouterr()
    assert run(["translate", str(folder / "run"), str(folder / "held-out.jsonl"), "--file", "--json"]) == 0
    answers = [found["text"] for found in json.loads(capsys.readouterr().out)["translations"]]
    texts = [json.loads(line)["text"] for line in (folder / "held-out.jsonl").read_text().splitlines()]
    assert len(answers) == len(texts) == HELD_OUT and len(set(texts)) > 20
    return sum(answer == text for answer, text in zip(answers, texts)) / HELD_OUT


@pytest.mark.slow
def test_LM18_tones_become_digit_words(senses, tmp_path, capsys):
    network = ["model.width=48", "model.source_features=24", "train.steps=600", "train.learning_rate=5e-3"]
    assert exact(tmp_path, senses.tones, senses.write, [*network, "model.dropout=0.1"], capsys) >= 0.95


@pytest.mark.slow
def test_LM18_drawn_shapes_become_captions(senses, tmp_path, capsys):
    """One picture, many words."""
    network = ["model.kind=encoder-decoder", "model.layers=2", "model.heads=2", "model.width=48", "model.dropout=0"]
    network += ["model.source_features=16", "model.position=sinusoidal", "train.steps=400", "train.learning_rate=3e-3"]
    assert exact(tmp_path, senses.shapes, senses.write, network, capsys) >= 0.95


def test_LM18_the_docs_say_that_real_speech_and_pictures_are_out_of_scope():
    pages = " ".join((ROOT / "docs/recipes.md").read_text(encoding="utf-8").split())
    assert "Real speech and real pictures are out of scope" in pages
