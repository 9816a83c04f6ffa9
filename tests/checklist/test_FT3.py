"""FT3: continued pretraining: all parameters, the same loss, new data; optimiser and tokenizer are taken over."""

import json

import pytest
import torch

from idiolect import api, config
from idiolect.interop import folder
from idiolect.recipes import library, load, tasks
from idiolect.recipes.settings import Recipe
from idiolect.train import optimisers, schedules
from idiolect.train.loop import fit

SHAPE = ["tokenizer.size=300", "model.width=16", "model.layers=2", "model.context=32"]
FAST = ["train.precision=fp32", "train.compile=no", "train.threads=1", "train.batch_tokens=256", "sample.every=0"]
FAMILIES = {"gpt": ["model.dropout=0.1"], "lstm": [], "bert": []}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Texts A and B of different kinds."""
    base = tmp_path_factory.mktemp("FT3")
    documents = [text[:1500] for text, _ in zip(library.documents(), range(30), strict=False)]
    (base / "a.txt").write_text("\n\n".join(documents))
    (base / "b.txt").write_text("".join(f"{n} times {m} is {n * m}.\n" for n in range(40) for m in range(19)))
    return base


def recipe_of(run):
    return config.validate(Recipe, config.read_toml(run / "recipe.toml"), str(run))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_FT3_on_b_after_a_is_one_run_on_a_and_then_b_bit_for_bit(family, optimizer, texts, tmp_path, capsys):
    said = [*FAST, *FAMILIES[family], f"train.optimizer={optimizer}", "train.learning_rate=3e-3", "validation.every=0"]
    api.train(family, [f"data.train={texts / 'a.txt'}", *SHAPE, *said, "train.steps=7"], tmp_path / "a")
    more = [f"data.train={texts / 'b.txt'}", f"model.from={tmp_path / 'a'}", *said, "train.steps=5"]
    api.train("continue", more, tmp_path / "b")
    assert f"goes on from what it remembered at step 7 of {tmp_path / 'a'}" in capsys.readouterr().err

    first, second = recipe_of(tmp_path / "a"), recipe_of(tmp_path / "b")  # now in one process, nothing saved between
    stage = tasks.prepare(first.model_copy(update={"resolved": None}), tmp_path / "a")
    model = stage.model()
    mover = optimisers.build(model, first.train)
    for recipe, where in ((first, "a"), (second, "b")):
        stage = tasks.prepare(recipe, tmp_path / where)
        schedule = schedules.build(recipe.train)
        settings = {"settings": recipe.train, "resolved": recipe.resolved}
        fit(model, stage.batches(), stage.objective(), mover, schedule, **settings)
    ours = folder.load(tmp_path / "b" / "model").model.state_dict()
    assert {name for name, x in model.state_dict().items() if not torch.equal(x, ours[name])} == set()

    api.train("continue", [*more, "train.optimizer_from=fresh"], tmp_path / "fresh")
    fresh = folder.load(tmp_path / "fresh" / "model").model.state_dict()
    assert any(not torch.equal(x, ours[name]) for name, x in fresh.items())


def test_FT3_the_domain_falls_and_the_general_text_is_reported_before_during_and_after(texts, tmp_path, capsys):
    said = [*FAST, "train.learning_rate=1e-2", "validation.every=20", f"data.train={texts / 'a.txt'}"]
    api.train("gpt", [*said, *SHAPE, "train.steps=40"], tmp_path / "a")
    said[-1] = f"data.train={texts / 'b.txt'}"
    general = f"probes.general={texts / 'a.txt'}"
    found = api.train("continue", [*said, f"model.from={tmp_path / 'a'}", general, "train.steps=60"], tmp_path / "b")
    before = {name: x.clone() for name, x in folder.load(tmp_path / "a" / "model").model.state_dict().items()}
    after = folder.load(tmp_path / "b" / "model").model.state_dict()
    assert {name for name, x in before.items() if torch.equal(x, after[name])} == set()  # all parameters
    ledger = found["forgetting"]
    domain = ledger["domain"]
    assert domain["after"]["bits_per_byte"] < 0.8 * domain["before"]["bits_per_byte"]
    general = next(entry for entry in ledger["probes"] if entry["probe"] == "general")
    assert general["measure"] == "bits per byte" and general["worse"] == general["after"] / general["before"] - 1
    assert general["forgotten"] and "general" in ledger["forgotten"] and ledger["offer"]
    metrics = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    curve = [line["step"] for line in metrics if "probe.general" in line]
    assert curve == [0, 20, 40, 60]
    assert metrics[0]["validation.bits_per_byte"] == domain["before"]["bits_per_byte"]
    page = (tmp_path / "b" / "report.html").read_text()
    assert "What the model knew before" in page and "probes (bits per byte)" in page


def test_FT3_without_a_model_to_go_on_from_it_is_refused(texts, tmp_path, capsys):
    from idiolect.cli import run

    assert run(["train", "continue", f"data.train={texts / 'a.txt'}", "-o", str(tmp_path / "run")]) == 2
    assert "add model.from=FOLDER" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert load.load("continue", [f"data.train={texts / 'a.txt'}"])[0].train.optimizer_from == "auto"
