"""LM11: what goes in and what comes out may be one or many: each shape is a task, trained from the command line."""

import json
import random

import pytest

from idiolect.cli import run

SHARED = ["tokenizer.kind=word", "tokenizer.size=100", "tokenizer.pattern=\\S+", "model.width=32", "model.dropout=0"]
SHARED += ["train.batch_tokens=512", "train.precision=fp32", "train.threads=1", "train.compile=no", "sample.every=0"]
SHARED += ["validation.every=0"]


def learnt(folder, recipe, train, held_out, *overrides):
    """The run of a recipe over rows, written to jsonl files."""
    for name, rows in (("train", train), ("held-out", held_out)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [f"data.train={folder / 'train.jsonl'}", f"data.validation={folder / 'held-out.jsonl'}"]
    assert run(["train", recipe, *data, *SHARED, *overrides, "-o", str(folder / "run")]) == 0
    return folder / "run"


def printed(capsys, *arguments):
    capsys.readouterr()
    assert run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def rows(count, seed, make):
    draw = random.Random(seed)
    return [make(draw) for _ in range(count)]


def test_LM11_many_to_one_a_text_has_a_label(tmp_path, capsys):
    """A sentence is about the sea when a word of the sea is in it, wherever."""

    def make(draw):
        words = draw.choices(["the", "a", "one", "old", "new", "and", "with", "of"], k=draw.randint(3, 9))
        about = draw.choice(["sea", "land"])
        words.insert(
            draw.randint(0, len(words)), draw.choice({"sea": ["boat", "fish"], "land": ["tree", "hill"]}[about])
        )
        return {"text": " ".join(words), "label": about}

    held = rows(40, 2, make)
    task = ["task.kind=labels", "train.steps=80", "train.learning_rate=1e-2"]
    model = learnt(tmp_path, "lstm", rows(400, 1, make), held, *task)
    found = [printed(capsys, "classify", model, row["text"])["label"] for row in held[:10]]
    assert found == [row["label"] for row in held[:10]]


def test_LM11_time_locked_every_word_has_a_tag(tmp_path, capsys):
    """A word's tag is the name of the word before it: what is known when the word is read."""

    def make(draw):
        tokens = draw.choices(["red", "green", "blue"], k=draw.randint(2, 7))
        return {"tokens": tokens, "tags": ["first", *(f"after-{token}" for token in tokens[:-1])]}

    held = rows(40, 2, make)
    task = ["task.kind=tags", "train.steps=150", "train.learning_rate=1e-2"]
    model = learnt(tmp_path, "lstm", rows(400, 1, make), held, *task)
    for row in held[:10]:
        tags = printed(capsys, "classify", model, " ".join(row["tokens"]))["tags"]
        assert [(tag["word"], tag["tag"]) for tag in tags] == list(zip(row["tokens"], row["tags"]))


def test_LM11_many_to_many_a_text_answers_a_text(tmp_path, capsys):
    """The words come back in the other language, the last one first: no word can be written before all are read."""
    other = {"one": "un", "two": "deux", "three": "trois", "four": "quatre", "five": "cinq"}

    def make(draw):
        words = draw.choices(list(other), k=draw.randint(1, 4))
        return {"source": " ".join(words), "target": " ".join(other[word] for word in reversed(words))}

    held = rows(40, 2, make)
    model = learnt(
        tmp_path, "seq2seq", rows(800, 1, make), held, "model.context=16", "train.steps=250", "train.learning_rate=1e-2"
    )
    (tmp_path / "sources.txt").write_text("\n".join(row["source"] for row in held))
    answers = printed(capsys, "translate", model, tmp_path / "sources.txt", "--file")["text"].split("\n")
    right = [answer == row["target"] for answer, row in zip(answers, held, strict=True)]
    assert sum(right) >= 0.95 * len(held)


def test_LM11_one_to_many_one_vector_becomes_words(tmp_path, capsys):
    """A caption: a frame of two numbers, the sign and the size of which are told."""

    def make(draw):
        x, y = (draw.choice([-2, -0.5, 0.5, 2]) for _ in range(2))
        words = [
            f"{'far' if abs(v) > 1 else 'near'} {side[v > 0]}"
            for v, side in ((x, ("left", "right")), (y, ("below", "above")))
        ]
        return {"frames": [[x + draw.gauss(0, 0.1), y + draw.gauss(0, 0.1)]], "text": " and ".join(words)}

    held = rows(40, 2, make)
    task = ["task.kind=frames", "model.source_features=2", "train.steps=150", "train.learning_rate=1e-2"]
    model = learnt(tmp_path, "seq2seq", rows(400, 1, make), held, *task, "model.context=16")
    answers = printed(capsys, "translate", model, tmp_path / "held-out.jsonl", "--file")["translations"]
    assert [answer["text"] for answer in answers] == [row["text"] for row in held]


@pytest.mark.parametrize("kind", ["seq2seq", "encoder-decoder"])
def test_LM11_one_to_one_a_word_answers_a_word(tmp_path, capsys, kind):
    opposites = {"hot": "cold", "big": "small", "up": "down", "in": "out", "left": "right"}
    pairs = [{"source": a, "target": b} for one in opposites.items() for a, b in (one, one[::-1])]
    shape = ["model.context=4", *([] if kind == "seq2seq" else ["model.heads=2"])]
    few = [f"model.kind={kind}", *shape, "train.batch_tokens=40", "train.steps=120", "train.learning_rate=1e-2"]
    model = learnt(tmp_path, "seq2seq", pairs * 4, pairs, *few)
    for pair in pairs[:4]:
        assert printed(capsys, "translate", model, pair["source"])["text"] == pair["target"]
