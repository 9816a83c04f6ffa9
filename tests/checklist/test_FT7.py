"""FT7: catastrophic forgetting is planted, measured, and said: a model tuned on sentiment loses entities."""

import json

import pytest
import torch

from idiolect import api, config, files
from idiolect.cli import run as cli
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.recipes import ledger as ledgers
from idiolect.recipes import load, pretrain
from idiolect.runs import Run

FAST = ["train.precision=fp32", "train.compile=no", "train.threads=1", "train.batch_tokens=512", "sample.every=0"]
SHAPE = ["tokenizer.kind=word", "model.layers=1", "model.heads=2", "model.width=32", "model.context=24"]
PEOPLE, PLACES = ("ada", "grace", "alan", "edsger", "barbara"), ("paris", "oslo", "york", "delft")
KINDS = {"good": ("warm", "funny", "moving"), "bad": ("dull", "tired", "clumsy")}
FILMS = ("film", "story", "cast", "score")


def entity(i):
    name = (PEOPLE + PLACES)[i % 9]
    return f"{('yesterday', 'today', 'now')[i // 9 % 3]} we saw {name}", "person" if name in PEOPLE else "place"


def review(i):
    label = ("good", "bad")[i % 2]
    return f"a {KINDS[label][i // 2 % 3]} {FILMS[i // 6 % 4]}", label


def written(rows):
    return "\n".join(f"Text: {text}\nLabel: {label}\n" for text, label in rows)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A decoder that knows both tasks; sentiment alone to tune it on; entities as labelled examples and as text."""
    home = tmp_path_factory.mktemp("FT7")
    both = [one for i in range(120) for one in (entity(i), review(i))]
    (home / "both.txt").write_text(written(both))
    (home / "sentiment.txt").write_text(written(review(i) for i in range(120)))
    (home / "entities.txt").write_text(written(entity(i) for i in range(27)))
    rows = [{"text": text, "label": label} for text, label in map(entity, range(27))]
    (home / "entities.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = [f"data.train={home / 'both.txt'}", "data.document=paragraph", *SHAPE, *FAST, "validation.every=0"]
    api.train("gpt", [*said, "train.steps=120", "train.learning_rate=1e-2"], home / "base")
    return home


def tuned(base, *more):
    said = [f"model.from={base / 'base'}", f"data.train={base / 'sentiment.txt'}", "data.document=paragraph", *FAST]
    said += [f"probes.entities={base / 'entities.jsonl'}", f"probes.entity_text={base / 'entities.txt'}"]
    return [*said, "forgetting.own=false", "train.learning_rate=2e-2", "train.steps=60", "validation.every=30", *more]


def entry(found, name):
    return next(one for one in found["forgetting"]["probes"] if one["probe"] == name)


def test_FT7_a_model_tuned_on_sentiment_loses_entities_and_the_ledger_says_so(base, tmp_path, capsys):
    assert cli(["train", "continue", *tuned(base), "-o", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    before, text = entry(found, "entities"), entry(found, "entity_text")
    assert before["before"] > 0.95 and before["after"] < 0.7 and before["forgotten"]
    assert text["after"] > 1.5 * text["before"] and text["worse"] == pytest.approx(text["after"] / text["before"] - 1)
    assert set(found["forgetting"]["forgotten"]) == {"entities", "entity_text"}
    assert found["forgetting"]["domain"]["after"]["loss"] < found["forgetting"]["domain"]["before"]["loss"]
    assert api.classify(tmp_path / "run", "a warm story", labels=["good", "bad"])["label"] == "good"
    assert "entities" in (tmp_path / "run" / "report.html").read_text()
    assert cli(["train", "continue", *tuned(base, "train.steps=2"), "-o", str(tmp_path / "again")]) == 0
    out = capsys.readouterr().out
    assert "entity_text" in out and "nats a token" in out


def test_FT7_nothing_is_said_to_be_lost_where_nothing_is(base, tmp_path):
    found = api.train("continue", tuned(base, "train.learning_rate=1e-7"), tmp_path / "run")
    assert found["forgetting"]["forgotten"] == [] and found["forgetting"]["offer"] == ""
    assert entry(found, "entities")["worse"] == 0


def test_FT7_the_mixture_that_is_offered_keeps_what_was_forgotten(base, tmp_path):
    found = api.train("continue", tuned(base), tmp_path / "run")
    offered = found["forgetting"]["offer"].split(";")[0].split()
    assert offered == [f"data.replay={base / 'both.txt'}", "data.replay_share=0.2"]
    kept = api.train("continue", tuned(base, *offered), tmp_path / "kept")
    assert entry(kept, "entities")["after"] > 0.95 and "entities" not in kept["forgetting"]["forgotten"]
    assert entry(kept, "entity_text")["after"] < entry(found, "entity_text")["after"]
    assert [round(one["actual"], 2) for one in kept["mixture"]] == [0.8, 0.2]
    assert api.classify(tmp_path / "kept", "a warm story", labels=["good", "bad"])["label"] == "good"


def test_FT7_lora_and_full_fine_tuning_are_told_apart_by_their_ledgers(base, tmp_path):
    rate = "train.learning_rate=5e-3"
    whole = api.train("continue", tuned(base, rate), tmp_path / "whole")
    lora = api.train("lora", tuned(base, rate, "adapt.rank=2"), tmp_path / "lora")
    for found in (whole, lora):  # both learn the domain
        assert found["forgetting"]["domain"]["after"]["loss"] < found["forgetting"]["domain"]["before"]["loss"]
    assert entry(lora, "entity_text")["before"] == entry(whole, "entity_text")["before"]
    assert entry(lora, "entity_text")["worse"] < 0.5 * entry(whole, "entity_text")["worse"]


def test_FT7_a_run_that_goes_on_does_not_measure_what_was_before_again(base, tmp_path, monkeypatch):
    whole = api.train("continue", tuned(base, "checkpoint.every=30"), tmp_path / "whole")
    said = tuned(base, "checkpoint.every=30")
    recipe, _ = load.load("continue", said)
    run = Run.create(tmp_path / "halves")
    files.write_text(run.recipe, config.dump(recipe))
    pretrain.resume_with(Run.open(run.folder), [lambda step: "stopped" if step.step == 30 else None])
    begun = run.ledger.read_bytes()
    monkeypatch.setattr(ledgers.Ledger, "begin", None)
    halves = pretrain.resume_with(Run.open(run.folder), [])
    assert run.ledger.read_bytes() == begun
    assert halves["forgetting"] == whole["forgetting"]
    lines = [[line.get("probe.entities") for line in r.read_metrics()] for r in (run, Run.open(tmp_path / "whole"))]
    assert lines[0] == lines[1] and sum(value is not None for value in lines[0]) == 3


def test_FT7_a_probe_that_changed_is_not_compared_with_what_it_was(base, tmp_path):
    probe = tmp_path / "probe.txt"
    probe.write_text("yesterday we saw ada")
    said = [*tuned(base, "train.steps=4", "checkpoint.every=2"), f"probes.mine={probe}"]
    api.train("continue", said, tmp_path / "run")
    probe.write_text("today we saw oslo")
    with pytest.raises(UserError, match=r"probes\.mine"):
        api.resume(tmp_path / "run")


@pytest.mark.parametrize("family", ["bert", "gpt"])
def test_FT7_under_a_head_for_labels_the_body_is_asked_with_its_own_head_again(family, base, tmp_path):
    said = [f"data.train={base / 'both.txt'}", "data.document=paragraph", *SHAPE, *FAST, "validation.every=0"]
    api.train(family, [*said, "train.steps=80", "train.learning_rate=1e-2"], tmp_path / "base")
    rows = [{"text": text, "label": label} for text, label in map(review, range(120))]
    (tmp_path / "reviews.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = [f"model.from={tmp_path / 'base'}", f"data.train={tmp_path / 'reviews.jsonl'}", "forgetting.own=false"]
    said += [*FAST, "train.learning_rate=2e-2", "train.steps=40", f"probes.text={base / 'entities.txt'}"]
    found = api.train("classify", said, tmp_path / "run")
    text = entry(found, "text")
    assert text["measure"] == ("accuracy" if family == "bert" else "nats a token") and text["forgotten"]
    parent, model = folder.load(tmp_path / "base" / "model").model, folder.load(tmp_path / "run" / "model").model
    assert "head.weight" not in model.base.state_dict() and "head.weight" in parent.state_dict()
    frozen = api.train("classify", [*said, "task.freeze_base=true"], tmp_path / "frozen")
    assert entry(frozen, "text")["before"] == entry(frozen, "text")["after"] == text["before"]
    assert "task.freeze_base=true" in found["forgetting"]["offer"] and frozen["forgetting"]["offer"] == ""
    body = folder.load(tmp_path / "frozen" / "model").model.base.state_dict()
    assert all(torch.equal(x, parent.state_dict()[name]) for name, x in body.items())
