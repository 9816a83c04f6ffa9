"""LM14: the alignment as a heat map: how much of each source token was read for each token written.

The "Je suis étudiant" of the course is in the docs; here the language is planted, so that the
true source of each word is known: adjectives come after their noun and verbs last, as in

    old dog sees red wet ball  →  DOG OLD BALL RED WET SEES
"""

import json
import random
import re

import pytest

from idiolect import api, cli

NOUNS = [f"noun{i}" for i in range(16)]
ADJECTIVES = [f"adjective{i}" for i in range(16)]
VERBS = [f"verb{i}" for i in range(16)]


def sentence(generator):
    """(source words, target words, for each target word the place of its source), of one clause or two."""
    words, order = [], []

    def phrase():
        at = len(words)
        words.extend([*generator.sample(ADJECTIVES, generator.randint(0, 2)), generator.choice(NOUNS)])
        last = len(words) - 1
        order.extend([last, *range(at, last)])

    for _ in range(generator.randint(1, 2)):
        phrase()
        verb = len(words)
        words.append(generator.choice(VERBS))
        phrase()
        order.append(verb)
    return words, [words[i].upper() for i in order], order


@pytest.fixture
def run(tmp_path):
    """A model of the language, trained on other sentences than `held`."""
    generator = random.Random(5)
    rows = [sentence(generator) for _ in range(8000)]
    lines = [json.dumps({"source": " ".join(s), "target": " ".join(t)}) for s, t, _ in rows]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    api.train(
        "seq2seq",
        [
            *(f"data.train={tmp_path / 'train.jsonl'}", "data.validation=0.01", "tokenizer.kind=word"),
            *("model.width=64", "model.dropout=0.2", "train.precision=fp32", "train.steps=500"),
            *("train.batch_tokens=1500", "train.learning_rate=5e-3", "validation.every=0", "sample.every=0"),
        ],
        tmp_path / "run",
    )
    return tmp_path / "run"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_LM14_what_a_row_reads_most_is_the_true_source(run, tmp_path, capsys):
    generator = random.Random(7)
    held = [sentence(generator) for _ in range(100)]
    answers = api.translate(run, [" ".join(source) for source, _, _ in held], attention=True)["translations"]
    right = [i for i, (_, target, _) in enumerate(held) if answers[i]["text"].split() == target]
    assert len(right) >= 95
    true = [
        max(range(len(weights)), key=weights.__getitem__) == place
        for i in right
        for weights, place in zip(answers[i]["attention"]["weights"], held[i][2], strict=False)  # the end has none
    ]
    print(len(right), sum(true) / len(true))
    assert sum(true) / len(true) >= 0.9

    source, target, order = held[right[0]]
    pytest.importorskip("matplotlib")
    capsys.readouterr()
    for path in (tmp_path / "map.html", tmp_path / "map.png"):  # one command each
        assert cli.run(["explore", str(run), " ".join(source), "--attention", str(path)]) == 0
        assert " ".join(target) in capsys.readouterr().out
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    html = (tmp_path / "map.html").read_text()
    labels = re.findall(r'class="(?:end )?key">([^<]*)<', html)
    assert labels[: len(target)] == target and labels[len(target) + 1 : -1] == source  # each followed by the end
    for i, place in enumerate(order[:3]):
        squares = re.findall(rf"{target[i]} reads {source[place]}: ([\d.]+)", html)
        assert max(map(float, squares)) > 0.3
