"""Recipes of several sources, and of general text that is replayed."""

import json

import numpy as np
import pytest

from idiolect import api, config, files
from idiolect.cli import run as cli
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.recipes import load, pretrain, tasks
from idiolect.runs import Run

SHAPE = ["tokenizer.kind=byte", "model.width=16", "model.layers=1", "model.heads=2", "model.context=16"]
FAST = ["train.precision=fp32", "train.compile=no", "train.threads=1", "train.batch_tokens=128", "train.steps=12"]
FAST += ["validation.every=0", "sample.every=0", "checkpoint.every=5"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Text of a, of b (four times as much), and general text of c, each its own letter only."""
    base = tmp_path_factory.mktemp("texts")
    for letter, n in (("a", 400), ("b", 1600), ("c", 300)):
        (base / f"{letter}.txt").write_text(letter * n)
    return base


def overrides(texts, *more):
    return [f"data.train=['{texts / 'a.txt'}', '{texts / 'b.txt'}']", *SHAPE, *FAST, *more]


def letters(stage, steps=12):
    """How many rows of the first steps are of each letter."""
    rows = [row for step in range(steps) for batch in stage.batches()(step) for row in batch.ids.tolist()]
    return [sum(stage.tokenizer.encode(letter)[0] in row for row in rows) for letter in "abc"]


@pytest.mark.parametrize("family", ["gpt", "bert"])
@pytest.mark.parametrize(
    ("said", "rows"),
    [
        ("data.weights=equal", [48, 48, 0]),
        ("data.weights=[3, 1]", [72, 24, 0]),
        ("data.weights=proportional", [20, 76, 0]),  # 23 windows (one of 361 labels over 16) and 91
    ],
)
def test_every_source_has_its_share_of_the_rows(texts, said, rows, family, tmp_path):
    stage = tasks.prepare(load.load(family, overrides(texts, said, "data.packing=stream"))[0], tmp_path)
    if family == "gpt":
        assert np.abs(np.array(letters(stage)) - rows).max() <= 1 and sum(letters(stage)) == 96
    table = stage.mixture(12)
    assert [one["source"] for one in table] == [str(texts / "a.txt"), str(texts / "b.txt")]
    assert [one["actual"] for one in table] == pytest.approx([rows[0] / 96, rows[1] / 96], abs=0.011)
    assert {*"ab"} == {document.text[0] for document in (stage.text if family == "bert" else stage).held_text}


def test_general_text_is_a_part_of_every_batch(texts, tmp_path):
    said = overrides(texts, f"data.replay={texts / 'c.txt'}", "data.replay_share=0.25", "data.packing=stream")
    stage = tasks.prepare(load.load("gpt", said)[0], tmp_path)
    assert letters(stage)[2] == 24 and {letters(stage, step)[2] - letters(stage, step - 1)[2] for step in (3, 7)} == {2}
    assert not any("c" in document.text for document in stage.held_text)
    assert stage.mixture(12)[-1]["source"] == "replay" and stage.mixture(12)[-1]["planned"] == 0.25


def test_what_contradicts_itself_is_refused(texts):
    for said, problem in [
        (["data.weights=capped"], "cap and weights"),
        (["data.cap=5"], "cap and weights"),
        (["data.weights=[1, 2, 3]"], "3 numbers for the 2 of train"),
        (["data.weights=[1, -2]"], "greater than 0"),
        (["task.kind=labels", f"data.replay={texts / 'c.txt'}"], "data.replay is not for task.kind=labels"),
        (["model.kind=ngram", "data.weights=equal"], "counts all of its text once"),
    ]:
        with pytest.raises(UserError, match=problem):
            load.load("gpt", overrides(texts, *said) if "ngram" not in said[0] else [overrides(texts)[0], *said])


def test_a_mixed_run_says_its_shares_and_resumes_bit_for_bit(texts, tmp_path, capsys):
    said = overrides(texts, "data.weights=capped", "data.cap=30", f"data.replay={texts / 'c.txt'}")
    assert cli(["train", "gpt", *said, "-o", str(tmp_path / "whole"), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["mixture"]
    assert [one["planned"] for one in found] == pytest.approx([0.8 * 23 / 53, 0.8 * 30 / 53, 0.2], abs=0.02)
    assert err.count("of the rows planned") == 3
    recipe, _ = load.load("gpt", said)
    halves = Run.create(tmp_path / "halves")
    files.write_text(halves.recipe, config.dump(recipe))
    pretrain.resume_with(Run.open(halves.folder), [lambda step: "stopped" if step.step == 7 else None])
    assert cli(["resume", str(halves.folder)]) == 0
    assert "planned share" in capsys.readouterr().out
    one, other = (folder.load(tmp_path / name / "model").model.state_dict() for name in ("whole", "halves"))
    assert all((one[name] == other[name]).all() for name in one)
    (texts / "c.txt").write_text("c" * 301)
    with pytest.raises(UserError, match=r"data\.train"):
        api.resume(halves.folder)


def test_tasks_of_examples_mix_by_the_number_of_examples(tmp_path):
    for name, n in (("few", 10), ("many", 90)):
        rows = [{"text": f"{name} {i}", "label": "xy"[i % 2], "source": f"{name} {i}", "target": "z"} for i in range(n)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = [f"data.train=['{tmp_path / 'few.jsonl'}', '{tmp_path / 'many.jsonl'}']", "data.weights=equal", *SHAPE[:1]]
    for recipe in ("classify", "translate"):
        stage = tasks.prepare(load.load(recipe, [*said, "train.batch_tokens=128"])[0], tmp_path / recipe)
        table = stage.mixture(64)
        assert [one["actual"] for one in table] == pytest.approx([0.5, 0.5], abs=0.01)
        assert table[0]["epochs"] == pytest.approx(9 * table[1]["epochs"], rel=0.05)


def test_conversations_are_learnt_beside_general_text(texts, tmp_path):
    rows = [{"prompt": f"what is {i}?", "response": "x"} for i in range(40)]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = [f"data.train={tmp_path / 'chat.jsonl'}", "task.kind=chat", "task.template=turns", *SHAPE, *FAST]
    said += ["model.context=48", f"data.replay={texts / 'c.txt'}", "data.replay_share=0.5", "train.batch_tokens=384"]
    stage = tasks.prepare(load.load("gpt", said)[0], tmp_path / "run")
    (batch,) = stage.batches()(0)
    c = stage.tokenizer.encode("c")[0]
    general = [row for row in batch.ids.tolist() if row[1:9] == [c] * 8]
    assert len(general) == len(batch.ids) // 2
    found = api.train("gpt", [*said, "train.steps=2", "task.answers=2", "task.answer_tokens=3"], tmp_path / "chat")
    assert [one["actual"] for one in found["mixture"]] == [0.5, 0.5]
