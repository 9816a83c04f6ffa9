"""An encoder from text to fill-in: the run, its figures, its place among other families, resuming, and the verbs."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from idiolect import api, files
from idiolect.errors import UserError
from idiolect.interop.folder import load
from idiolect.recipes import load as recipes
from idiolect.recipes import pretrain, tasks
from idiolect.runs import Run


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A run folder of the recipe, and its result."""
    folder = tmp_path_factory.mktemp("runs") / "bert"
    return folder, api.train("bert", [*small, "model.heads=2", "sample.tokens=60"], folder)


def test_the_result_has_the_figures_of_filling_in(run):
    folder, result = run
    validation, unigram = result["validation"], result["baselines"]["unigram"]
    assert 0 < validation["loss"] < 7 and 0 <= validation["accuracy"] <= 1
    assert validation["tokens"] > validation["masks"] > 0.7 * validation["tokens"]
    assert validation["perplexity"] is validation["bits_per_byte"] is None
    assert "no probability" in validation["reason"]
    assert unigram["masks"] == validation["masks"] and 0 < unigram["accuracy"] < 0.3
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics if "validation.accuracy" in m] == [4, 8, 12]
    assert all("[" in m["sample"] for m in metrics if "sample" in m)
    report = (folder / "report.html").read_text()
    assert "held-out accuracy" in report and "Beside the baselines" in report


def test_the_tokenizer_has_a_mask_within_its_size(run):
    loaded = load(run[0] / "model")
    assert loaded.tokenizer.size == loaded.model.vocabulary == 300
    assert loaded.tokenizer.mask_id == 299


def test_transformers_opens_the_run_and_fills_in_the_same(run):
    theirs = AutoModelForMaskedLM.from_pretrained(run[0] / "model").eval()
    words = AutoTokenizer.from_pretrained(run[0] / "model")
    ids = torch.tensor([[words.bos_token_id, *words("raise an", add_special_tokens=False)["input_ids"]]])
    ids = torch.cat([ids, torch.tensor([[words.mask_token_id]])], 1)
    with torch.no_grad():
        expected = theirs(ids).logits[0, -1].double().softmax(-1)
    found = api.fill(run[0], "raise an <mask>", top=7)["candidates"]
    assert [one["probability"] for one in found] == pytest.approx([float(expected[one["id"]]) for one in found])


def test_what_it_looked_at_is_drawn(run, tmp_path):
    """A map for each of two heads of two layers, and their mean; the first token is end-of-text."""
    found = api.explore(run[0], "raise an error", attention=tmp_path / "maps.html")
    assert len(found["maps"]) == 5 and (tmp_path / "maps.html").exists()
    assert all(len(row) == len(one["rows"]) for one in found["maps"] for row in one["weights"])
    assert all(row[-1] > 0 for one in found["maps"] for row in one["weights"])


def test_it_stands_in_tables_with_a_dash_and_the_reason(run, small, tmp_path):
    gpt = tmp_path / "gpt"
    api.train("gpt", small, gpt)
    table = api.compare_runs([run[0], gpt])
    rows = {row["model"]: row for row in table["rows"]}
    assert rows["bert"]["bits_per_byte"] is None and rows["bert"]["parameters"] == run[1]["parameters"]
    assert rows["unigram"]["bits_per_byte"] > 0  # the decoder's, not the encoder's
    assert any(note.startswith("bert: it fills in") for note in table["notes"])
    assert api.show_run(run[0])["baselines"] == {"unigram": run[1]["baselines"]["unigram"]["accuracy"]}
    assert api.list_runs(run[0])["rows"][0]["bits_per_byte"] is None
    text = tmp_path / "text.txt"
    text.write_text("The argument is a list of strings, and the value is returned as a string.\n" * 9)
    together = api.evaluate([run[0], gpt], text)
    assert {row["model"]: row["bits_per_byte"] for row in together["rows"]}[str(run[0])] is None
    alone = api.evaluate([run[0]], text)
    assert alone["bits_per_byte"] is None and 0 <= alone["metrics"]["accuracy"] <= 1 and alone["metrics"]["gzip -9"] > 0
    with pytest.raises(UserError, match="cannot continue a text"):
        api.score(run[0], "a text")
    with pytest.raises(UserError, match="cannot continue a text"):
        api.generate(run[0], "a text")


@pytest.mark.parametrize("extra", [[], ["data.packing=stream", "task.kind=masked", "task.whole_words=true"]])
def test_a_resumed_run_is_the_uninterrupted_one(small, extra, tmp_path):
    overrides = [*small, "model.heads=2", *extra]
    api.train("bert", overrides, tmp_path / "whole")
    recipe, _ = recipes.load("bert", overrides)
    files.write_text(Run.create(tmp_path / "part").recipe, pretrain.config.dump(recipe))
    part = Run.open(tmp_path / "part")
    stopped = pretrain.resume_with(part, [lambda step: "stopped" if step.step == 7 else None])
    assert stopped["stopped"] == "stopped"
    api.resume(tmp_path / "part")
    whole, resumed = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "part"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_one_key_makes_an_encoder_of_a_decoder(small, tmp_path):
    """In the newer arrangement; a tokenizer that is given, and has no mask, gets one."""
    api.train("gpt", small, tmp_path / "gpt")
    given = f"tokenizer.from={tmp_path / 'gpt'}/tokenizer"
    result = api.train("gpt", [*small, "model.kind=encoder", given], tmp_path / "run")
    assert result["validation"]["accuracy"] >= 0
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    assert config["model_type"] == "idiolect-encoder" and config["vocab_size"] == 301
    assert len(api.fill(tmp_path / "run", "raise <mask>")["candidates"]) == 5


def test_what_cannot_be_trained_is_said(small, tmp_path):
    with pytest.raises(UserError, match="task.kind=masked is not for model.kind=decoder"):
        api.train("gpt", [*small, "task.kind=masked"], tmp_path / "a")
    with pytest.raises(UserError, match="nothing to fill in with"):
        api.train("bert", [*small, "model.heads=2", "model.head=none"], tmp_path / "b")
    with pytest.raises(UserError, match="share"):
        api.train("bert", [*small, "task.kind=masked", "task.share=1.5"], tmp_path / "c")


def test_a_plan_counts_what_the_head_reads(small, tmp_path):
    recipe = [*small, "model.heads=2"]
    plan = api.plan("bert", recipe)
    assert plan["saved_as"] == "bert"
    stage = tasks.prepare(recipes.load("bert", recipe)[0], tmp_path)
    assert plan["parameters"] == sum(p.numel() for p in stage.model().parameters())
    more = api.plan("bert", [*recipe, "task.kind=masked", "task.share=0.5"])
    assert more["flops"] > plan["flops"]
