"""Recipes with a section `adapt`: from the base to the adapter folder, resumed, planned, used and exported."""

import json
import shutil

import pytest
import torch

from idiolect import api, files
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.recipes import load, pretrain, tasks
from idiolect.runs import Run
from idiolect.train import checkpoint

FEW = {"lora": ["adapt.rank=2"], "adapter": ["adapt.width=3"], "soft-prompt": ["adapt.tokens=5"], "selective": []}


@pytest.fixture(scope="module")
def base(small, tmp_path_factory):
    """A short run of a decoder, and what its recipe says of text and steps."""
    run = tmp_path_factory.mktemp("base") / "run"
    api.train("gpt", [*small, "train.steps=4"], run)
    return run, [text for text in small if not text.startswith(("model.", "tokenizer."))]


@pytest.mark.parametrize("kind", FEW)
def test_a_run_leaves_what_it_added_and_every_verb_takes_it(kind, base, tmp_path):
    run, said = base
    found = api.train(kind, [*said, *FEW[kind], f"model.from={run}"], tmp_path / kind)
    loaded = folder.load(tmp_path / kind / "model")
    assert found["adapt"]["kind"] == kind and 0 < found["adapt"]["share"] < 1
    whole = kind == "selective"
    assert (tmp_path / kind / "model" / "config.json").exists() == whole
    assert (loaded.model.edit is None) == whole
    planned = json.loads((tmp_path / kind / "plan.json").read_text())
    assert planned["parameters_trained"] == found["adapt"]["trainable"]
    assert planned["adapt"] == {key: value for key, value in found["adapt"].items() if key != "kind"}
    again = api.score(tmp_path / kind, "some text")
    assert api.score(run, "some text")["logprob"] != again["logprob"]
    if not whole:
        assert api.score(run, "some text", adapter=tmp_path / kind)["logprob"] == again["logprob"]
        assert api.generate(run, "a", adapter=tmp_path / kind)["ids"] == api.generate(tmp_path / kind, "a")["ids"]
    (tmp_path / "other.txt").write_text("a text that nobody trained on")
    assert api.evaluate([tmp_path / kind], tmp_path / "other.txt")["bits_per_byte"] > 0


SETTINGS = {
    "lora": ("lora", "adapt.rank=2", "adapt.dropout=0.2"),
    "embedding": ("lora", 'adapt.targets=["embedding", "mlp.*"]'),
    "nf4": ("lora", "adapt.base=nf4", "adapt.dora=true"),
    "adapter": ("adapter", "adapt.width=3"),
    "soft-prompt": ("soft-prompt", "adapt.tokens=5"),
    "selective": ("selective",),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_that_was_stopped_resumes_to_the_same_bits(name, base, tmp_path):
    run, said = base
    kind, *settings = SETTINGS[name]
    overrides = [*said, *settings, f"model.from={run}", "train.steps=6", "checkpoint.every=6"]
    found = api.train(kind, overrides, tmp_path / "whole")
    files.make_folder(tmp_path / "parts")
    shutil.copy(tmp_path / "whole" / "recipe.toml", tmp_path / "parts")
    stopped = pretrain.resume_with(Run.open(tmp_path / "parts"), [lambda step: "here" if step.step == 4 else None])
    assert stopped["steps"] == 4
    api.resume(tmp_path / "parts")
    one, other = (checkpoint.peek(Run.open(tmp_path / part), 6) for part in ("whole", "parts"))
    for part in ("model", "optimizer"):
        mine, theirs = getattr(one, part), getattr(other, part)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert sum(tensor.numel() for tensor in one.model.values()) == found["adapt"]["trainable"]


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_to_the_same_bits(base, tmp_path):
    run, said = base
    api.train("lora", [*said, "adapt.dropout=0.2", f"model.from={run}", "train.steps=6"], tmp_path / "on")
    assert api.verify_resume(tmp_path / "on", steps=6)["identical"]


def test_the_plan_has_optimiser_memory_for_what_trains_only(base):
    run, said = base
    whole = api.plan("gpt", [*said, f"model.from={run}"])
    few = api.plan("lora", [*said, f"model.from={run}"])
    assert few["memory_bytes"]["optimizer"] == 8 * few["parameters_trained"]
    assert few["memory_bytes"]["gradients"] == 4 * few["parameters_trained"]
    assert whole["memory_bytes"]["optimizer"] == 8 * whole["parameters"]
    assert few["memory_bytes"]["weights"] == 4 * (few["parameters"] + few["parameters_trained"])
    packed = api.plan("lora", [*said, f"model.from={run}", "adapt.base=nf4"])
    assert packed["memory_bytes"]["weights"] == few["memory_bytes"]["weights"] - packed["adapt"]["saved"]
    assert "parameters_trained" not in whole


def test_the_plan_counts_what_the_run_does_before_there_is_a_base():
    for kind in FEW:
        found = api.plan(kind)
        assert 0 < found["parameters_trained"] < found["parameters"]
    shape = ["model.layers=1", "model.width=16", "model.heads=2"]
    assert api.plan("lora", [*shape, "adapt.rank=3", 'adapt.targets=["attention.query"]'])["parameters_trained"] == 96


def test_adding_to_nothing_is_refused_before_anything_runs(small, tmp_path):
    with pytest.raises(UserError, match="adapt.kind=lora adds to a model that was trained before") as error:
        api.train("lora", small, tmp_path / "run")
    assert "model.from" in error.value.mend and not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="adapt.kind=lora is not for model.kind=lstm"):
        load.load("lora", [*small, "model.kind=lstm"])
    with pytest.raises(UserError, match="leaves no room for text"):
        load.load("soft-prompt", [*small, "adapt.tokens=32"])


@pytest.mark.parametrize("more", ["adapt.dora=true", 'adapt.targets=["embedding", "attention.*"]'])
def test_an_adapted_model_is_merged_on_export_and_goes_on_as_a_base(more, base, tmp_path):
    run, said = base
    api.train("lora", [*said, *FEW["lora"], more, f"model.from={run}"], tmp_path / "lora")
    found = api.export_model(tmp_path / "lora", tmp_path / "whole")
    assert found["checked_by"].startswith("transformers") and found["difference"] < 1e-5
    assert found["model_type"] == "llama"
    merged, apart = folder.load(tmp_path / "whole").model, folder.load(tmp_path / "lora" / "model").model
    ids = torch.arange(2, 30)[None]
    torch.testing.assert_close(merged.body(ids), apart.body(ids), atol=1e-5, rtol=0)
    found = api.export_model(tmp_path / "lora", tmp_path / "model.gguf", to="gguf")
    assert found["model_type"] == "llama"
    api.import_model(tmp_path / "lora", tmp_path / "copy")
    assert torch.equal(folder.load(tmp_path / "copy").model.body(ids), apart.body(ids))
    api.train("gpt", [*said, f"model.from={tmp_path / 'lora'}", "train.steps=2"], tmp_path / "more")
    prints = folder.load(tmp_path / "more" / "model").lineage["fingerprints"]
    assert prints["model.from"] == folder.fingerprint(tmp_path / "lora")


def test_what_no_plain_model_can_hold_is_not_exported(base, tmp_path):
    run, said = base
    for kind in ("adapter", "soft-prompt"):
        api.train(kind, [*said, *FEW[kind], f"model.from={run}", "train.steps=2"], tmp_path / kind)
        with pytest.raises(UserError, match="is no plain model"):
            api.export_model(tmp_path / kind, tmp_path / "out")
        with pytest.raises(UserError, match="is no plain model"):
            api.train("gpt", [*said, f"model.from={tmp_path / kind}"], tmp_path / "out")


@pytest.mark.parametrize("kind", ["lora", "soft-prompt", "selective"])
def test_labels_train_with_their_head_whatever_is_adapted(kind, base, tmp_path):
    run, _ = base
    rows = [{"text": f"a {word} film", "label": label} for label, word in enumerate(("bad", "good"))] * 20
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = ["task.kind=labels", f"data.train={tmp_path / 'rows.jsonl'}", f"model.from={run}", "train.precision=fp32"]
    said += ["train.steps=3", "train.batch_tokens=64", "sample.every=0", *FEW[kind]]
    stage = tasks.prepare(load.load(kind, said)[0], tmp_path / "prepared")
    model = stage.model()
    assert {"head.weight", "head.bias"} < {name for name, p in model.named_parameters() if p.requires_grad}
    api.train(kind, said, tmp_path / "labels")
    found = api.classify(tmp_path / "labels", "a good film")
    assert set(found["probabilities"]) == {"0", "1"}
    if kind != "selective":
        with pytest.raises(UserError, match="is a model of labels already"):
            load.load("gpt", [*said[:2], f"model.from={tmp_path / 'labels'}"])


@pytest.mark.parametrize("kind", ["lora", "soft-prompt"])
def test_a_chat_of_new_tokens_trains_their_rows_and_is_saved_with_them(kind, base, tmp_path):
    run, _ = base
    rows = [{"prompt": f"say {word}", "response": word} for word in ("red", "blue", "green", "white") * 10]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = ["task.kind=chat", "task.template=chatml", f"data.train={tmp_path / 'rows.jsonl'}", f"model.from={run}"]
    said += ["train.precision=fp32", "train.steps=3", "train.batch_tokens=64", "sample.every=0", "task.answers=2"]
    found = api.train(kind, [*said, *FEW[kind], "task.answer_tokens=3"], tmp_path / "chat")
    loaded = folder.load(tmp_path / "chat" / "model")
    assert loaded.model.vocabulary == loaded.tokenizer.size > 300
    assert "embedding.weight" in loaded.model.edit.report.touched
    planned = json.loads((tmp_path / "chat" / "plan.json").read_text())
    assert planned["parameters_trained"] == found["adapt"]["trainable"] > 300 * 16
    before = folder.load(run / "model").model.embedding.weight
    assert not torch.equal(loaded.model.embedding.weight[:300], before)
    api.generate(tmp_path / "chat", "say red")
