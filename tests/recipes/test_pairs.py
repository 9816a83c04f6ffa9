"""Pairs of texts: what a batch of them holds, a run through the command's own functions, resumed exactly, refused."""

import json
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from idiolect import api, config, files
from idiolect.data.batch import IGNORE
from idiolect.errors import UserError
from idiolect.models.build import build
from idiolect.recipes import pretrain, tasks
from idiolect.recipes.settings import Recipe
from idiolect.runs import Run

TABLES = {
    "tokenizer": {"kind": "char", "size": 300},
    "model": {"kind": "seq2seq", "width": 10, "context": 17, "source_context": 19},
    "task": {"kind": "pairs", "source": "from", "target": "to"},
    "train": {
        "steps": 9,
        "batch_tokens": 120,
        "micro_batches": 2,
        "precision": "fp32",
        "compile": "no",
        "threads": 1,
        "learning_rate": 0.01,
    },
    "checkpoint": {"every": 3},
    "validation": {"every": 3, "tokens": 50},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """73 words and what they are backwards; the first pair is longer than the model reads and writes."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    draw = np.random.default_rng(7)
    words = ["abcde" * 5] + ["".join(draw.choice(list("abcdef"), size=draw.integers(2, 9))) for _ in range(72)]
    path.write_text("\n".join(json.dumps({"from": word, "to": word[::-1]}) for word in words))
    return path


def recipe(pairs, **changes):
    tables = {key: dict(table) for key, table in TABLES.items()} | {"data": {"train": [str(pairs)]}}
    for key, value in changes.items():
        table, _, name = key.partition("__")
        tables[table][name] = value
    return config.validate(Recipe, tables, "test")


def test_a_batch_holds_sources_targets_and_their_ends(pairs, tmp_path):
    stage = tasks.prepare(recipe(pairs), tmp_path)
    tokenizer = stage.tokenizer
    batch = stage.layout(stage.train, np.array([3, 5]))
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    for row, example in enumerate((3, 5)):
        source, target = (tokenizer.encode(rows[example][field]) for field in ("from", "to"))
        n, m = len(source) + 1, len(target) + 1
        assert batch.source_lengths[row] == n
        assert batch.source[row].tolist()[:n] == [*source, tokenizer.end_id]
        assert batch.ids[row].tolist()[:m] == [tokenizer.begin_id, *target]
        assert batch.labels[row].tolist()[:m] == [*target, tokenizer.end_id]
        assert set(batch.ids[row].tolist()[m:]) <= {tokenizer.pad_id} and set(batch.labels[row].tolist()[m:]) <= {
            IGNORE
        }


def test_texts_longer_than_the_model_are_cut_before_their_end_and_counted(pairs, tmp_path, capsys):
    stage = tasks.prepare(recipe(pairs), tmp_path)
    assert "2 texts are longer than the model's context" in capsys.readouterr().err
    assert len(stage.train.sources[0]) == 19 and len(stage.train.targets[0]) == 17
    assert stage.train.sources[0][-1] == stage.tokenizer.end_id == stage.train.targets[0][-1]


def test_the_held_out_score_is_the_models_own(pairs, tmp_path):
    stage = tasks.prepare(recipe(pairs), tmp_path)
    model = build(stage.recipe.model, stage.tokenizer.size, seed=4)
    nats = labels = 0
    for source, target in stage.held_texts:
        ids = torch.tensor([[stage.tokenizer.begin_id, *stage.tokenizer.encode(target), stage.tokenizer.end_id]])
        source_ids = torch.tensor([[*stage.tokenizer.encode(source), stage.tokenizer.end_id]])
        nats -= float(model.eval().score(ids, source=source_ids).sum())
        labels += ids.shape[1] - 1
    found = stage.score(model)
    assert found["loss"] == pytest.approx(nats / labels, rel=1e-5) and found["tokens"] == labels
    bytes_ = sum(len(target) for _, target in stage.held_texts)
    assert found["bits_per_byte"] == pytest.approx(nats / bytes_ / np.log(2), rel=1e-5)
    some = stage.score(model, 20)
    assert 0 < some["tokens"] <= 20


def test_a_run_ends_in_a_model_and_a_table_beside_the_unigram(pairs, tmp_path):
    result = api.train(recipe(pairs), out=tmp_path / "run")
    assert result["family"] == "seq2seq" and result["steps"] == 9
    files.verify(tmp_path / "run" / "model")
    table = api.compare_runs([tmp_path / "run"])
    assert {row["model"] for row in table["rows"]} == {"run", "unigram"}
    assert "validation.bits_per_byte" in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_run_stopped_and_resumed_is_the_uninterrupted_run(pairs, tmp_path):
    asked = recipe(pairs, model__dropout=0.2)
    api.train(asked, out=tmp_path / "whole")
    files.write_text(Run.create(tmp_path / "cut").recipe, config.dump(asked))
    run = Run.open(tmp_path / "cut")
    for step in (2, 5):
        pretrain.resume_with(run, [lambda done, step=step: "stopped" if done.step == step else None])
    api.resume(run.folder)
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_plain_files_beside_one_another_are_pairs(pairs, tmp_path):
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    for side in ("from", "to"):
        (tmp_path / f"{side}.txt").write_text("\n".join(row[side] for row in rows))
        (tmp_path / f"held-{side}.txt").write_text("\n".join(row[side] for row in rows[:5]))
    asked = recipe(tmp_path / "from.txt", task__targets=[str(tmp_path / "to.txt")])
    stage = tasks.prepare(asked, tmp_path / "run")
    assert len(stage.train.sources) == 65 and len(stage.held.sources) == 8
    held = {"data__validation": str(tmp_path / "held-from.txt")}
    files_apart = recipe(
        tmp_path / "from.txt",
        task__targets=[str(tmp_path / "to.txt")],
        task__validation_targets=str(tmp_path / "held-to.txt"),
        **held,
    )
    assert len(tasks.prepare(files_apart, tmp_path / "other").held.sources) == 5
    with pytest.raises(UserError, match="only one is given"):
        tasks.prepare(recipe(tmp_path / "from.txt", task__targets=[str(tmp_path / "to.txt")], **held), tmp_path / "bad")


def test_the_prefix_stands_before_every_source(pairs, tmp_path):
    plain, asked = (tasks.prepare(recipe(pairs, task__prefix=p), tmp_path / str(len(p))) for p in ("", "fed: "))
    assert [f"fed: {source}" for source, _ in plain.held_texts] == [source for source, _ in asked.held_texts]


def test_a_task_and_a_model_that_do_not_go_together_are_refused(pairs):
    tables = {"data": {"train": [str(pairs)]}, "model": {"kind": "lstm"}, "task": {"kind": "pairs"}}
    with pytest.raises(UserError, match=r"task\.kind=pairs is not for model\.kind=lstm"):
        config.validate(Recipe, tables, "test")


def test_answers_to_held_out_sources_are_measured_at_the_end(pairs, tmp_path, monkeypatch):
    stage = tasks.prepare(recipe(pairs, task__metrics=["exact_match", "rouge"], task__answers=3), tmp_path)
    model = build(stage.recipe.model, stage.tokenizer.size, seed=4)
    right = dict(stage.held_texts)
    wrong = stage.held_texts[1][0]

    def answers(model, tokenizer, sources, settings):
        texts = [tokenizer.decode(source.tolist()[:-1]) for source in sources]
        return [Answer("?" if text == wrong else right[text]) for text in texts]

    monkeypatch.setattr("idiolect.recipes.pairs.translate", answers)
    found = stage.score(model)
    assert found["answers"] == 3
    for name in ("exact_match", "rouge1", "rougeL"):
        assert name in stage.curves and found[name] == pytest.approx(2 / 3)
    assert "exact_match" not in stage.score(model, 20)


class Answer(NamedTuple):
    text: str


def test_a_metric_whose_library_is_missing_is_missed_before_the_training(pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match="sacrebleu"):
        tasks.prepare(recipe(pairs, task__metrics=["bleu"]), tmp_path)


def test_a_source_is_made_of_several_fields(tmp_path):
    row = {"question": "Where is the key?", "passage": "The key is in {question}.", "answer": "there"}
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(json.dumps(row | {"answer": f"there {i}"}) for i in range(20)))
    asked = {"task__source": "question: {question} context: {passage} or {question}", "task__target": "answer"}
    stage = tasks.prepare(recipe(path, **asked), tmp_path / "run")
    made = "question: Where is the key? context: The key is in {question}. or Where is the key?"
    assert stage.held_texts == [(made, "there 18"), (made, "there 19")]
    with pytest.raises(UserError, match="no text in field 'context'"):
        tasks.prepare(recipe(path, task__source="{context}", task__target="answer"), tmp_path / "other")
    with pytest.raises(UserError, match="task.source names question, passage"):
        tasks.prepare(recipe(path, **asked, task__targets=[str(path)]), tmp_path / "third")
