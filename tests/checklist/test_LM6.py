"""LM6: CBOW predicts a word from the words around it, on both sides; so it looks into the future."""

import json
import random

import pytest

from idiolect.cli import run

THINGS = [("cat", "feline"), ("car", "auto"), ("boy", "lad"), ("sea", "ocean"), ("doctor", "medic"), ("house", "home")]
"""Each thing has two names, used in turn."""
RUN = ["tokenizer.size=200", "train.batch_tokens=1024", "train.precision=fp32", "train.threads=1", "sample.every=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sentences in which each thing does what is its own, and its names stand for one another."""
    folder, draw = tmp_path_factory.mktemp("lm6"), random.Random(5)
    lines = []
    for _ in range(3000):
        i = draw.randrange(len(THINGS))
        how, what, where = (f"{kind}{i}{draw.randrange(4)}" for kind in ("how", "does", "where"))
        lines.append(f"the {how} {draw.choice(THINGS[i])} {what} near the {where}")
    (folder / "text.txt").write_text("\n".join(lines))
    return folder


def train(folder, name, *overrides):
    text = [f"data.train={folder / 'text.txt'}", "data.document=line", "tokenizer.pattern=\\w+"]
    assert run(["train", "cbow", *text, *RUN, *overrides, "-o", str(folder / name)]) == 0
    return folder / name


def nearest(model, word, capsys):
    capsys.readouterr()
    assert run(["neighbours", str(model), word, "--top", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["rows"][0]["word"]


@pytest.mark.parametrize("mode", ["cbow", "skipgram"])
def test_LM6_trains_and_the_nearest_neighbour_of_a_word_is_its_synonym(folder, mode, capsys):
    few = ["model.width=24", "model.window=3", "train.steps=250", "train.learning_rate=1e-2", f"model.mode={mode}"]
    model = train(folder, mode, *few)
    for one, other in THINGS:
        assert nearest(model, one, capsys) == other
        assert nearest(model, other, capsys) == one
    # … and refuses to generate, saying why
    for verb in ("generate", "score"):
        assert run([verb, str(model), "the"]) == 2
        assert "looks into the future" in capsys.readouterr().err


def test_LM6_with_context_from_the_left_alone_it_is_decodable(folder, capsys):
    model = train(
        *(folder, "left", "model.left_only=true", "model.loss=softmax", "train.steps=120", "train.learning_rate=3e-2")
    )
    capsys.readouterr()
    assert run(["generate", str(model), "the how00 cat", "--temperature", "0", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["text"].split()
    # what a cat does, and then where; a bag of the last five words tells the place in the sentence
    assert written[0].startswith("does0") and written[1] == "near"
    assert run(["score", str(model), "the how00 cat does01 near the where02", "--json"]) == 0
    likely = json.loads(capsys.readouterr().out)["logprob"]
    assert run(["score", str(model), "the how00 cat does11 near the where02", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["logprob"] < likely - 3
