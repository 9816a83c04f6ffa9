"""The stage of models that read frames."""

import importlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from idiolect import api, config, files
from idiolect.data.batch import Batch
from idiolect.errors import UserError
from idiolect.models.build import build
from idiolect.models.settings import FAMILIES
from idiolect.recipes import load, pretrain
from idiolect.runs import Run
from idiolect.train import objectives

LESSONS = Path(__file__).parents[2] / "examples" / "lessons"
FEW = ["tokenizer.kind=word", "tokenizer.size=50", "train.steps=12", "train.batch_tokens=256", "train.threads=1"]
FEW += ["model.width=16", "checkpoint.every=5", "validation.every=4", "sample.every=6", "train.compile=no"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(LESSONS)
        senses = importlib.import_module("senses")
    senses.write(folder / "shapes.jsonl", senses.shapes, 120, seed=3)
    senses.write(folder / "tones.jsonl", senses.tones, 20, seed=3)
    return folder


def begun(folder, overrides):
    recipe, _ = load.load("seq2seq", overrides)
    files.write_text(Run.create(folder).recipe, config.dump(recipe))
    return Run.open(folder)


@pytest.mark.parametrize("kind", ["seq2seq", "encoder-decoder"])
def test_a_run_stopped_and_resumed_is_the_uninterrupted_run(shapes, tmp_path, kind):
    few = [f"data.train={shapes / 'shapes.jsonl'}", "task.kind=frames", "model.source_features=16", *FEW]
    few += [f"model.kind={kind}", *([] if kind == "seq2seq" else ["model.heads=2"])]
    result = pretrain.resume_with(begun(tmp_path / "whole", few), [])
    stopped = begun(tmp_path / "stopped", few)
    pretrain.resume_with(stopped, [lambda step: "stop" if step.step == 7 else None])
    again = api.resume(tmp_path / "stopped")
    one, other = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "stopped"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert again["validation"] == result["validation"]
    assert {"exact_match", "answers"} <= result["validation"].keys()
    samples = [line["sample"] for line in Run.open(tmp_path / "whole").read_metrics() if "sample" in line]
    assert len(samples) == 2 and samples[0].startswith("16 frames\n→ ")
    found = api.translate(tmp_path / "whole", str(shapes / "shapes.jsonl"), file=True, attention=True)
    assert len(found["translations"]) == 120
    weights = torch.tensor(found["translations"][0]["attention"]["weights"])
    assert weights.shape[1] == 16 == len(found["translations"][0]["attention"]["source"])


@pytest.mark.parametrize("kind", ["seq2seq", "encoder-decoder"])
def test_frames_are_read_in_bf16_too(kind):
    settings = FAMILIES[kind](width=16, source_features=5, **({} if kind == "seq2seq" else {"heads": 2}))
    model = build(settings, 11)
    ids = torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(1))
    source = torch.randn(3, 13, 5, generator=torch.Generator().manual_seed(2))
    batch = Batch(ids, ids, source=source, source_lengths=torch.tensor([13, 1, 5]))
    exact = float(objectives.translate(model, batch).total.detach())
    with torch.autocast("cpu", torch.bfloat16):
        loss = objectives.translate(model, batch).total
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.02)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_model_that_reads_frames_has_their_task_and_no_other(shapes):
    given = ["data.train=x.jsonl", "model.source_features=16"]
    with pytest.raises(UserError, match="task.kind=pairs reads text"):
        load.load("seq2seq", given)
    recipe, _ = load.load("seq2seq", [*given, "task.kind=frames"])
    assert recipe.doing.kind == "frames" and recipe.model_copy(update={"task": None}).doing.kind == "frames"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.source_features=17"], "frames have 16 numbers, and the model reads 17"),
        ([], "the model reads text"),
        (["model.source_features=16", "task.target=caption"], "no text in field 'caption'"),
        (["model.source_features=16", "data.validation=0.0"], "none held out"),
    ],
)
def test_what_does_not_fit_is_said(shapes, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        api.train(
            "seq2seq", [f"data.train={shapes / 'shapes.jsonl'}", "task.kind=frames", *FEW, *changes], tmp_path / "run"
        )


def test_a_text_and_other_frames_are_refused_by_the_model(shapes, tmp_path):
    few = [f"data.train={shapes / 'shapes.jsonl'}", "task.kind=frames", "model.source_features=16", *FEW]
    api.train("seq2seq", [*few, "train.steps=1", "model.source_context=16"], tmp_path / "run")
    with pytest.raises(UserError, match="reads frames, not text"):
        api.translate(tmp_path / "run", "a small circle")
    with pytest.raises(UserError, match="frames of 24 numbers"):
        api.translate(tmp_path / "run", str(shapes / "tones.jsonl"), file=True)
    (tmp_path / "long.jsonl").write_text('{"frames": [' + ", ".join([str([0] * 16)] * 17) + "]}\n")
    with pytest.raises(UserError, match="17 frames in a row"):
        api.translate(tmp_path / "run", str(tmp_path / "long.jsonl"), file=True)
