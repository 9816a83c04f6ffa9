"""Recipes that start from a model: `model.from`."""

import json

import pytest
import torch

from idiolect import api, config
from idiolect.adapt.heads import Labelled
from idiolect.cli import run as cli
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.recipes import load, tasks

PARENTS = {
    "gpt": ["model.dropout=0.1"],
    "lstm": [],
}


@pytest.fixture(scope="module", params=PARENTS)
def grown(request, small, tmp_path_factory):
    """A short run of a family, and what its recipe says of text and steps."""
    run = tmp_path_factory.mktemp("parent") / request.param
    api.train(request.param, [*small, *PARENTS[request.param], "train.steps=4"], run)
    return run, [text for text in small if not text.startswith(("model.", "tokenizer."))]


def stage_of(overrides, tmp_path, recipe="gpt"):
    return tasks.prepare(load.load(recipe, overrides)[0], tmp_path)


def test_the_first_step_starts_from_the_parents_weights_and_tokenizer(grown, tmp_path):
    run, said = grown
    stage = stage_of([*said, f"model.from={run}"], tmp_path)
    theirs = folder.load(run / "model")
    model = stage.model()
    assert stage.tokenizer.fingerprint == theirs.tokenizer.fingerprint
    assert model.settings == theirs.settings
    ours, expected = model.state_dict(), theirs.model.state_dict()
    assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_recipe_says_all_that_it_inherits_and_reads_back(grown, tmp_path):
    run, said = grown
    recipe, notes = load.load("gpt", [*said, f"model.from={run}", "model.dropout=0.3"])
    assert (notes, recipe.model.dropout, recipe.model.width, recipe.model.layers) == ([], 0.3, 16, 2)
    assert recipe.model.from_ == recipe.tokenizer.from_ == run / "model"
    assert recipe.tokenizer.size == 300
    (tmp_path / "mine.toml").write_text(config.dump(recipe))
    assert load.load(str(tmp_path / "mine.toml"))[0] == recipe
    assert load.load(str(tmp_path / "mine.toml"), ["model.dropout=0"])[0].model.dropout == 0
    assert load.show_recipe(str(tmp_path / "mine.toml")).count(f'"{run / "model"}"') == 2


def test_of_a_table_what_is_said_must_be_so(small, tmp_path):
    experts = ["model.experts.count=3", "model.experts.width=8", "model.unrotated_layers=[1]"]
    api.train("gpt", [*small, *experts, "train.steps=1"], tmp_path / "run")
    said = [text for text in small if not text.startswith(("model.", "tokenizer."))] + [
        f"model.from={tmp_path / 'run'}"
    ]
    again = load.load("gpt", [*said, "model.experts.count=3", "model.unrotated_layers=[1]"])[0].model
    assert (again.experts.count, again.experts.width, again.unrotated_layers) == (3, 8, (1,))
    for wrong in ("model.experts.count=4", "model.experts.shared_width=5", "model.unrotated_layers=[0]"):
        with pytest.raises(UserError, match=r"model\.\w+ = .*, but that of .* is"):
            load.load("gpt", [*said, wrong])


def test_what_it_starts_from_says_as_which_type_it_is_saved(grown, tmp_path):
    """Where several types could express its settings."""
    run, said = grown
    if run.name != "gpt":
        return
    foreign = folder.load(run / "model")
    foreign.model.model_type = "mistral"
    folder.save(tmp_path / "parent", foreign.model, foreign.tokenizer, {})
    again = stage_of([*said, f"model.from={tmp_path / 'parent'}"], tmp_path).model()
    folder.save(tmp_path / "again", again, None, {})
    assert json.loads((tmp_path / "again/config.json").read_text())["model_type"] == "mistral"


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("model.width=17", "model.width = 17, but that of .* is 16"),
        ("tokenizer.size=301", "tokenizer.size = 301, but that of .* is 300"),
        ("tokenizer.kind=char", "tokenizer.kind = 'char', but that of .* is 'bpe'"),
        ("tokenizer.lowercase=true", "tokenizer.lowercase = True, but that of .* is False"),
        ("model.kind=gru", "model.kind = 'gru', but that of .* is"),
    ],
)
def test_what_the_parent_decides_cannot_be_said_otherwise(grown, wrong, problem):
    run, said = grown
    with pytest.raises(UserError, match=problem):
        load.load("gpt", [*said, f"model.from={run}", wrong])
    same = ["model.width=16", "tokenizer.size=300"]
    assert load.load("gpt", [*said, f"model.from={run}", *same])[0].model.width == 16


def test_training_goes_on_from_there_and_resumes_bit_for_bit(grown, tmp_path):
    run, said = grown
    overrides = [*said, f"model.from={run}", "train.steps=6"]
    found = api.train("gpt", overrides, tmp_path / "on")
    loaded = folder.load(tmp_path / "on" / "model")
    assert loaded.lineage["fingerprints"]["model.from"] == folder.fingerprint(run)
    assert "from" not in json.dumps(json.loads((tmp_path / "on/model/config.json").read_text()))
    assert found["steps"] == 6
    assert api.verify_resume(tmp_path / "on", steps=6)["identical"]


def test_a_changed_parent_is_refused(grown, tmp_path):
    run, said = grown
    copy = tmp_path / "parent"
    theirs = folder.load(run / "model")
    folder.save(copy, theirs.model, theirs.tokenizer, {})
    api.train("gpt", [*said, f"model.from={copy}", "train.steps=2", "checkpoint.every=1"], tmp_path / "on")
    with torch.no_grad():
        next(theirs.model.parameters()).add_(1)
    folder.save(copy, theirs.model, theirs.tokenizer, {})
    with pytest.raises(UserError, match="model.from"):
        api.resume(tmp_path / "on")


def test_a_label_model_starts_from_the_parents_body(grown, tmp_path, capsys):
    run, _ = grown
    rows = [{"text": f"a {word} film", "label": label} for label, word in enumerate(("bad", "good"))] * 20
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = ["task.kind=labels", f"data.train={tmp_path / 'rows.jsonl'}", f"model.from={run}", "train.precision=fp32"]
    stage = stage_of(said, tmp_path)
    model, theirs = stage.model(), folder.load(run / "model").model
    assert isinstance(model, Labelled)
    for name, weights in model.base.state_dict().items():
        assert torch.equal(weights, theirs.state_dict()[name]), name
    found = api.train("gpt", [*said, "train.steps=2", "train.batch_tokens=64", "sample.every=0"], tmp_path / "labels")
    assert found["baselines"]["majority"]["accuracy"] == 0.5
    with pytest.raises(UserError, match="is a model of labels already"):
        load.load("gpt", [*said, f"model.from={tmp_path / 'labels'}"])
    assert cli(["train", "gpt", *said[:2], f"model.from={tmp_path}", "-o", str(tmp_path / "x")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_counted_model_is_refused(small, tmp_path):
    api.train("ngram", [*small[:2]], tmp_path / "ngram")
    with pytest.raises(UserError, match="is an n-gram model, which is counted anew"):
        load.load("gpt", [small[0], f"model.from={tmp_path / 'ngram'}"])
