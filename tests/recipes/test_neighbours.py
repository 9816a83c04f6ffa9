"""The stage of word vectors: a run like any other, whose held-out loss is what it says."""

import math

import pytest
import torch
from safetensors.torch import load_file

from idiolect import api, config, files
from idiolect.errors import UserError
from idiolect.recipes import load, pretrain
from idiolect.runs import Run

FEW = [
    "tokenizer.size=400",
    "model.width=16",
    "train.steps=12",
    "train.batch_tokens=256",
    "train.threads=1",
    "checkpoint.every=5",
    "validation.every=4",
    "sample.every=6",
]


@pytest.fixture(scope="module")
def few(text):
    return [f"data.train={text}", *FEW]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def test_a_run_stopped_and_resumed_is_the_uninterrupted_run(few, tmp_path):
    recipe, _ = load.load("cbow", [*few, "train.micro_batches=3"])
    for name in ("whole", "stopped"):
        files.write_text(Run.create(tmp_path / name).recipe, config.dump(recipe))
    result = pretrain.resume_with(Run.open(tmp_path / "whole"), [])
    pretrain.resume_with(Run.open(tmp_path / "stopped"), [lambda step: "stop" if step.step == 7 else None])
    again = api.resume(tmp_path / "stopped")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert one.keys() == other.keys() == {"embedding.weight", "head.weight"}
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert again["validation"] == result["validation"] and result["steps"] == 12
    samples = [line["sample"] for line in Run.open(tmp_path / "whole").read_metrics() if "sample" in line]
    assert len(samples) == 2 and samples[0].count("\n") >= 4


def test_what_knows_nothing_costs_what_pencil_says(few, tmp_path):
    """Output vectors of zero give every pair ½: (1 + K) ln 2 a label, and with the softmax ln V."""
    little = [*few, "train.steps=1", "train.learning_rate=1e-12"]
    negative = api.train("cbow", [*little, "model.negatives=2"], tmp_path / "negative")["validation"]
    # a drawn word that is the label does not count
    assert 0.95 * 3 * math.log(2) < negative["loss"] <= 3 * math.log(2) + 1e-4
    assert negative["perplexity"] is None and "negative sampling" in negative["reason"]
    softmax = api.train("cbow", [*little, "model.loss=softmax"], tmp_path / "softmax")["validation"]
    assert softmax["perplexity"] == pytest.approx(400, rel=1e-3)
    outward = api.train("cbow", [*little, "model.mode=skipgram"], tmp_path / "outward")["validation"]
    assert outward["tokens"] > 5 * negative["tokens"]


def test_left_only_is_a_run_of_next_tokens(few, tmp_path):
    result = api.train("cbow", [*few, "model.left_only=true", "model.loss=softmax"], tmp_path / "run")
    assert result["validation"]["perplexity"] < 400 and {"uniform", "unigram", "gzip"} <= result["baselines"].keys()


def test_a_text_without_words_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text("word " * 100)
    with pytest.raises(UserError, match="no two words"):
        api.train("cbow", [f"data.train={tmp_path / 'text.txt'}"], tmp_path / "run")


def test_the_plan_holds_what_the_model_holds(few, tmp_path):
    plan = api.plan("cbow", [*few, "tokenizer.size=1000"])
    assert plan["parameters"] == 2 * 1000 * 16 and plan["saved_as"] == "idiolect-cbow"
    # six operations for each number of the label's vector and of five drawn ones
    assert plan["flops"] == 12 * 256 * 6 * 6 * 16
    with pytest.raises(UserError, match="muon"):
        api.train("cbow", [*few, "train.optimizer=muon"], tmp_path / "run")
