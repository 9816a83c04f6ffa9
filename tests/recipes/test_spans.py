"""Spans to restore: the run, its figures, what it leaves behind, resuming, and what can be made of its model."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from idiolect import api, files
from idiolect.data.spans import restore
from idiolect.errors import UserError
from idiolect.interop.folder import load
from idiolect.recipes import load as recipes
from idiolect.recipes import pretrain, tasks
from idiolect.runs import Run

MORE = ["model.heads=2", "model.source_context=48", "tokenizer.size=400", "task.sentinels=20", "sample.tokens=30"]


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A run folder of the recipe, and its result."""
    folder = tmp_path_factory.mktemp("runs") / "t5"
    return folder, api.train("t5", [*small, *MORE], folder)


def test_the_result_has_the_loss_of_spans_and_no_bits_per_byte(run):
    folder, result = run
    validation = result["validation"]
    assert 0 < validation["loss"] < 8 and validation["perplexity"] > 1 and validation["tokens"] > 100
    assert validation["bits_per_byte"] is None and "no probability" in validation["reason"]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics if "validation.perplexity" in m] == [4, 8, 12]
    assert all("[" in m["sample"] for m in metrics if "sample" in m)
    assert "held-out loss" in (folder / "report.html").read_text()


def test_a_batch_restores_windows_of_the_text(small, tmp_path):
    stage = tasks.prepare(recipes.load("t5", [*small, *MORE])[0], tmp_path)
    assert stage.how.sizes(stage.length)[0] <= 48 < stage.how.sizes(stage.length + 1)[0]
    tokenizer = stage.tokenizer
    text = stage.text.train.at(1 + np.arange(stage.text.train.labels), tokenizer.end_id)
    (batch,) = stage.batches()(3)
    for source, labels, ids in zip(batch.source.numpy(), batch.labels.numpy(), batch.ids.tolist(), strict=True):
        assert ids == [tokenizer.begin_id, *labels[:-1]] and source[-1] == labels[-1] == tokenizer.end_id
        whole = restore(source[:-1], labels[:-1], tokenizer.sentinels)
        assert any(np.array_equal(whole, text[i : i + len(whole)]) for i in range(0, len(text), stage.length))


def test_transformers_opens_the_run(run):
    loaded = load(run[0] / "model")
    assert loaded.tokenizer.size == loaded.model.vocabulary == 400 and len(loaded.tokenizer.sentinels) == 20
    theirs = AutoModelForSeq2SeqLM.from_pretrained(run[0] / "model").eval()
    words = AutoTokenizer.from_pretrained(run[0] / "model")
    ids = words("The teacher <extra_id_0> the student", return_tensors="pt")["input_ids"]
    assert loaded.tokenizer.sentinels[0] in ids
    start = torch.tensor([[theirs.config.decoder_start_token_id, int(loaded.tokenizer.sentinels[0])]])
    with torch.no_grad():
        expected = theirs(input_ids=ids, decoder_input_ids=start).logits
        torch.testing.assert_close(loaded.model.head(loaded.model.body(start, ids)), expected, rtol=0, atol=1e-4)
    assert isinstance(api.translate(run[0], "The teacher the student")["text"], str)


def test_the_model_learns_pairs_afterwards(run, small, tmp_path):
    facts = [{"question": f"q{i}", "answer": f"a{i % 3}"} for i in range(60)]
    (tmp_path / "facts.jsonl").write_text("\n".join(map(json.dumps, facts)))
    said = [text for text in small if not text.startswith(("model.", "tokenizer.", "data."))]
    about = ["task.kind=pairs", "task.source=question", "task.target=answer", f"data.train={tmp_path / 'facts.jsonl'}"]
    stage = tasks.prepare(recipes.load("t5", [*said, *about, f"model.from={run[0]}"])[0], tmp_path / "stage")
    ours, theirs = stage.model().state_dict(), load(run[0] / "model").model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    result = api.train("t5", [*said, *about, f"model.from={run[0]}"], tmp_path / "pairs")
    assert result["steps"] == 12 and 0 <= result["validation"]["exact_match"] <= 1


def test_a_resumed_run_is_the_uninterrupted_one(small, tmp_path):
    overrides = [*small, *MORE, "train.micro_batches=2"]
    api.train("t5", overrides, tmp_path / "whole")
    recipe, _ = recipes.load("t5", overrides)
    files.write_text(Run.create(tmp_path / "part").recipe, pretrain.config.dump(recipe))
    part = Run.open(tmp_path / "part")
    stopped = pretrain.resume_with(part, [lambda step: "stopped" if step.step == 7 else None])
    assert stopped["stopped"] == "stopped"
    api.resume(tmp_path / "part")
    whole, resumed = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "part"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("task.sentinels=1", "spans, more than the 1 sentinels"),
        ("tokenizer.size=277", "with 20 tokens for the task needs 278, not 277"),
        ("task.mean_length=0.5", "task.mean_length: must be greater than or equal to 1"),
        ("task.share=1", "task.share: must be less than 1"),
    ],
)
def test_what_cannot_be_is_refused(small, wrong, problem, tmp_path):
    with pytest.raises(UserError, match=problem):
        tasks.prepare(recipes.load("t5", [*small, *MORE, wrong])[0], tmp_path)
