"""PA5: in-context examples with their output format: k = 0 … 6 and more, their tokens, when to fine-tune instead."""

import json
import random

import pytest

from idiolect import api
from idiolect.cli import run

SYMBOLS = "abcdefgh"


@pytest.fixture(scope="module")
def copier(tmp_path_factory):
    """A decoder that has read lists of "word => word": which word a list maps a word to, only the list itself tells."""
    base = tmp_path_factory.mktemp("PA5")
    draw = random.Random(3)
    texts = []
    for _ in range(3000):
        one, other = draw.sample("xyz", 2)
        lines = [f"{word} = {one if word < 'e' else other}" for word in draw.choices(SYMBOLS, k=9)]
        texts.append(" ; ".join(lines))
    (base / "text.txt").write_text("\n".join(texts))
    said = [f"data.train={base / 'text.txt'}", "data.document=line", "tokenizer.kind=word", "model.layers=2"]
    said += ["model.width=48", "model.heads=2", "model.context=40", "train.precision=fp32", "train.threads=1"]
    said += ["train.batch_tokens=1200", "train.steps=260", "train.learning_rate=1e-2", "train.optimizer=muon"]
    said += ["sample.every=0", "validation.every=0", "train.compile=no", "data.validation=0.01"]
    api.train("gpt", said, base / "run")
    rows = [{"text": word, "label": "x" if word < "e" else "z"} for word in SYMBOLS * 4]
    draw.shuffle(rows)
    (base / "shown.jsonl").write_text("\n".join(map(json.dumps, rows[:20])))
    (base / "test.jsonl").write_text("\n".join(map(json.dumps, rows[20:])))
    return base


TEMPLATE = "{text} = {label} ;"


def test_PA5_examples_in_the_context_teach_the_task_and_its_format(copier, capsys):
    asked = ["evaluate", str(copier / "run"), "--on", str(copier / "test.jsonl"), "--task", "labels"]
    asked += ["--examples", str(copier / "shown.jsonl"), "--template", TEMPLATE]
    assert run([*asked, "--shots", "0,1,2,4,6,7", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["shots"]: row for row in found["rows"] if row["family"] == "decoder"}
    assert list(rows) == [0, 1, 2, 4, 6, 7]
    assert rows[6]["accuracy"] > 0.9 > 0.8 > rows[0]["accuracy"]
    tokens = [rows[shots]["prompt_tokens"] for shots in (0, 1, 2, 4, 6, 7)]
    assert tokens == [3, 7, 11, 19, 27, 31]  # begin-of-text, a word and "=", and four for each example
    assert len([note for note in found["notes"] if "7 examples are more than 6" in note]) == 1
    assert all("fine-tune instead" in note for note in found["notes"])
    assert run([*asked, "--shots", "0,4"]) == 0
    assert "prompt tokens" in capsys.readouterr().out


def test_PA5_past_the_context_it_says_so_and_points_to_fine_tuning(copier, capsys):
    asked = ["evaluate", str(copier / "run"), "--on", str(copier / "test.jsonl"), "--task", "labels", "--json"]
    asked += ["--examples", str(copier / "shown.jsonl"), "--template", TEMPLATE]
    assert run([*asked, "--shots", "12"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"][0]["prompt_tokens"] == 35  # nine examples, for the tenth would leave nothing for the label
    assert any("the context has no room for 12 examples; fine-tune instead" in note for note in found["notes"])


def test_PA5_classify_shows_the_examples_too_and_says_what_they_take(copier, capsys):
    asked = ["classify", str(copier / "run"), "b", "--labels", "x,z", "--template", TEMPLATE, "--json"]
    assert run([*asked, "--examples", str(copier / "shown.jsonl"), "--shots", "6"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["label"] == "x" and found["prompt_tokens"] == 27 and found["notes"] == []
