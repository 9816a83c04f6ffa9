"""FT8: small models and small data do well on focused tasks: tuned beside prompted, on the same test, in one table."""

import json

import pytest

from idiolect import api
from idiolect.cli import run

FAST = ["train.precision=fp32", "train.compile=no", "train.threads=1", "sample.every=0", "validation.every=0"]
KINDS = {"good": ("warm", "funny", "moving", "clever"), "bad": ("dull", "tired", "clumsy", "empty")}
FILMS = ("film", "story", "cast", "ending", "score")


def reviews(n, start=0):
    for i in range(start, start + n):
        label = ("good", "bad")[i % 2]
        words = KINDS[label]
        text = f"a {words[i // 2 % 4]} {FILMS[i % 5]} and a {words[i // 8 % 4]} {FILMS[i // 3 % 5]}"
        yield {"text": text, "label": label}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A decoder that has read the words, but no label beside them; few labelled examples; a test."""
    home = tmp_path_factory.mktemp("FT8")
    texts = [row["text"] for row in reviews(400)] + ["good or bad", "Text: Label:", "bad or good"] * 20
    (home / "text.txt").write_text("\n".join(texts))
    for name, rows in (("train", reviews(120)), ("test", reviews(60, 120))):
        (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = [f"data.train={home / 'text.txt'}", "data.document=line", "tokenizer.kind=word", "model.layers=1"]
    said += ["model.width=32", "model.heads=2", "model.context=64", "train.steps=60", "train.batch_tokens=512"]
    api.train("gpt", [*said, *FAST, "train.learning_rate=1e-2"], home / "base")
    said = [f"model.from={home / 'base'}", f"data.train={home / 'train.jsonl'}", *FAST, "train.batch_tokens=256"]
    api.train("classify", [*said, "train.steps=80", "train.learning_rate=5e-3"], home / "tuned")
    return home


def test_FT8_a_tuned_small_model_beats_its_prompted_base_on_the_same_test_in_one_table(base, capsys):
    asked = ["evaluate", str(base / "base"), str(base / "tuned"), "--on", str(base / "test.jsonl"), "--task", "labels"]
    asked += ["--examples", str(base / "train.jsonl"), "--shots", "0,1,2,4"]
    assert run([*asked, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["family"], row["shots"]) for row in rows] == [
        ("decoder", 0),
        ("decoder", 1),
        ("decoder", 2),
        ("decoder", 4),
        ("labels", None),
        ("majority", None),
    ]
    assert rows[4]["accuracy"] > 0.95 and rows[4]["macro_f1"] > 0.95
    assert all(row["accuracy"] < rows[4]["accuracy"] - 0.2 for row in (*rows[:4], rows[5]))
    assert rows[4]["prompt_tokens"] is None and rows[3]["prompt_tokens"] > rows[0]["prompt_tokens"]
    assert run(asked) == 0
    out = capsys.readouterr().out
    assert "macro f1" in out and "majority" in out and len(out.splitlines()) == 8
