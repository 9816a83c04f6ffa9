"""Recipes whose models give a number to a text, or to two."""

import json

import numpy as np
import pytest
import torch

from idiolect import api
from idiolect.cli import run as cli
from idiolect.data.batch import Batch
from idiolect.data.labels import joined
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.recipes import load, tasks
from idiolect.train import objectives

FAST = ["train.precision=fp32", "train.compile=no", "train.threads=1", "train.batch_tokens=512", "validation.every=0"]
SHAPE = ["tokenizer.kind=word", "model.layers=1", "model.width=32", "model.heads=2", "model.context=24"]
STARS = {"awful": 1.0, "dull": 2.0, "fair": 3.0, "fine": 4.0, "great": 5.0}
FILMS = ("film", "story", "cast", "score")


def rows(n):
    """Pairs of reviews: each of its own stars, and together of both's."""
    for i in range(n):
        one, other = list(STARS)[i % 5], list(STARS)[i // 5 % 5]
        text, second = f"a {one} {FILMS[i % 4]}", f"the {FILMS[i // 4 % 4]} is {other}"
        stars = STARS[one]
        yield {"sentence1": text, "sentence2": second, "stars": stars, "score": stars + STARS[other]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("numbers") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows(600))))
    return path


def said(data, *more):
    return [f"data.train={data}", *SHAPE, *FAST, *more]


@pytest.mark.parametrize("kind", ["encoder", "decoder", "encoder-decoder"])
def test_a_texts_number_is_learnt_on_every_body_and_every_parameter_moves(kind, data, tmp_path):
    recipe = {"encoder": "similarity", "decoder": "gpt", "encoder-decoder": "t5"}[kind]
    more = ["task.kind=numbers", "task.text=sentence1", "task.target=stars", "train.steps=70"]
    more += ["train.learning_rate=1e-2", "model.dropout=0"] + ["model.source_context=24"] * (recipe == "t5")
    if recipe == "similarity":
        more.append("task.other=")
    stage = tasks.prepare(load.load(recipe, said(data, *more))[0], tmp_path / "stage")
    before = stage.model().state_dict()
    found = api.train(recipe, said(data, *more), tmp_path / "run")
    figures, mean = found["validation"], found["baselines"]["mean"]
    assert figures["pearson"] > 0.95 and figures["mean_squared_error"] < 0.3 * mean["mean_squared_error"]
    assert figures["loss"] == pytest.approx(figures["mean_squared_error"] / stage.head.deviation**2)
    assert mean["pearson"] is None and mean["loss"] == pytest.approx(1, abs=0.15)
    after = folder.load(tmp_path / "run" / "model").model.state_dict()
    assert {name for name in before if torch.equal(before[name], after[name])} == set()
    assert api.classify(tmp_path / "run", "a great film")["value"] == pytest.approx(5, abs=1)
    assert api.classify(tmp_path / "run", "a awful story")["value"] == pytest.approx(1, abs=1)


def test_two_texts_have_a_number_together(data, tmp_path, capsys):
    more = ["train.steps=100", "train.learning_rate=5e-3", "model.dropout=0"]
    assert cli(["train", "similarity", *said(data, *more), "-o", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "mean squared error" in out and float(out.split("Spearman ")[1].split()[0]) > 0.8
    found = [
        api.classify(tmp_path / "run", f"a {one} film", other=f"the story is {other}")["value"]
        for one, other in (("great", "great"), ("great", "awful"), ("awful", "great"), ("awful", "awful"))
    ]
    assert found == pytest.approx([10, 6, 6, 2], abs=1.5)
    assert cli(["classify", str(tmp_path / "run"), "a fine film", "--other", "the cast is fine"]) == 0
    assert "value" in capsys.readouterr().out


def test_the_batch_has_both_texts_and_deviations_for_labels(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"sentence1": "ab", "sentence2": "c", "score": 2}\n' * 4)
    with pytest.raises(UserError, match="all numbers are 2"):
        tasks.prepare(load.load("similarity", said(tmp_path / "r.jsonl"))[0], tmp_path / "a")
    numbers = [2, 4] * 8
    (tmp_path / "r.jsonl").write_text(
        "".join(json.dumps({"sentence1": "ab", "sentence2": "c", "score": n}) + "\n" for n in numbers)
    )
    shape = ["tokenizer.kind=byte", "model.context=6", "data.validation=0.25", FAST[3]]
    stage = tasks.prepare(load.load("similarity", [f"data.train={tmp_path / 'r.jsonl'}", *shape])[0], tmp_path / "b")
    batch = stage.batches()(0)[0]
    t = stage.tokenizer
    assert set(batch.labels.tolist()) == {-1.0, 1.0} and (stage.head.mean, stage.head.deviation) == (3, 1)
    row = t.framed([*t.encode("ab"), t.end_id, *t.encode("c")])
    assert batch.ids[0].tolist() == list(row) and batch.count == len(batch.ids)
    (tmp_path / "r.jsonl").write_text('{"sentence1": "ab", "sentence2": "c", "score": "much"}\n' * 9)
    with pytest.raises(UserError, match="'much' in the field score is no number"):
        tasks.prepare(load.load("similarity", [f"data.train={tmp_path / 'r.jsonl'}", *shape])[0], tmp_path / "c")


def test_of_two_texts_that_do_not_fit_the_longer_is_cut():
    a, b = np.arange(10, 19), np.arange(20, 23)
    assert joined(a, b, 7, None).tolist() == [*a, 7, *b]
    assert joined(a, b, 7, 9).tolist() == [10, 11, 12, 13, 14, 7, 20, 21, 22]
    assert joined(b, a, 7, 9).tolist() == [20, 21, 22, 7, 10, 11, 12, 13, 14]
    assert joined(a, a, 7, 8).tolist() == [10, 11, 12, 7, 10, 11, 12, 13]


def test_the_loss_is_the_squared_distance():
    class Model:
        def body(self, ids, lengths):
            return ids

        def logits(self, hidden, lengths):
            return torch.tensor([[0.5], [-1.0]])

    found = objectives.numbers(Model(), Batch(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([2.0, 1.0])))
    assert float(found.total) == pytest.approx(1.5**2 + 2**2) and found.count == 2


def test_a_frozen_base_stays_and_lora_adapts_it(data, tmp_path):
    api.train(
        "bert",
        [f"data.train={_text(data, tmp_path)}", "data.document=line", *SHAPE, *FAST, "train.steps=3"],
        tmp_path / "bert",
    )
    before = folder.load(tmp_path / "bert" / "model").model.state_dict()
    more = [f"data.train={data}", *FAST, f"model.from={tmp_path / 'bert'}", "train.steps=3"]
    for name, override in (("frozen", "task.freeze_base=true"), ("lora", "adapt.kind=lora")):
        found = api.train("similarity", [*more, override], tmp_path / name)
        model = folder.load(tmp_path / name / "model").model
        kept = {key: x for key, x in model.base.state_dict().items() if key in before}
        assert len(kept) > 5 and all(torch.equal(before[key], x) for key, x in kept.items())
        value = api.classify(tmp_path / name, "a fine film", other="the cast is fine")["value"]
        assert np.isfinite(value) and model.settings.mean == pytest.approx(6, abs=0.2)
        assert found["forgetting"]["probes"]


def _text(data, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(json.loads(line)["sentence1"] for line in data.open()))
    return tmp_path / "text.txt"
