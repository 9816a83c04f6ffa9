"""PA1: sentiment by comparing P(positive | …) with P(negative | …), with no head at all."""

import json
import math

import pytest

from idiolect import api
from idiolect.cli import run

NAMES = ("Ada", "Grace", "Alan", "Jackie Chan", "Edsger", "Barbara")
FEELINGS = {"positive": ("like", "love", "admire"), "very negative": ("hate", "fear", "avoid")}


@pytest.mark.parametrize("recipe", ["gpt", "translate"])
def test_PA1_classify_prints_the_probabilities_of_both_labels(recipe, tmp_path, capsys):
    rows = [(f"I {verb} {name}", label) for name in NAMES for label, verbs in FEELINGS.items() for verb in verbs] * 4
    rows = [row for row in rows if row[0] != "I like Jackie Chan"]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"source": a, "target": b}) for a, b in rows))
    (tmp_path / "text.txt").write_text("\n".join(f"{text} : {label}" for text, label in rows))
    said = [f"data.train={tmp_path / 'text.txt'}", "data.document=line"]
    if recipe == "translate":
        said = [f"data.train={tmp_path / 'rows.jsonl'}", "model.dropout=0"]
    said += ["tokenizer.kind=word", "model.layers=1", "model.width=32", "model.context=16", "train.precision=fp32"]
    said += ["train.batch_tokens=512", "train.steps=60", "train.learning_rate=1e-2", "sample.every=0"]
    api.train(recipe, [*said, "validation.every=0", "train.threads=1", "train.compile=no"], tmp_path / "run")
    template = "{text} : {label}" if recipe == "gpt" else "{text}{label}"
    asked = ["classify", str(tmp_path / "run"), "I like Jackie Chan", "--labels", "positive,very negative"]
    assert run([*asked, "--template", template]) == 0
    out = capsys.readouterr().out
    assert out.split()[1] == "positive" and "very negative 0" in out
    assert run([*asked, "--template", template, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["label"] == "positive" and found["probabilities"]["positive"] > 0.9
    weights = {label: math.exp(logprob) for label, logprob in found["logprobs"].items()}
    share = weights["positive"] / sum(weights.values())
    assert found["probabilities"]["positive"] == pytest.approx(share)
    assert found["tokens"]["very negative"] == found["tokens"]["positive"] + 1
    assert run([*asked, "--template", template, "--by", "token", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    weights = {label: math.exp(logprob / found["tokens"][label]) for label, logprob in found["logprobs"].items()}
    assert found["probabilities"]["positive"] == pytest.approx(weights["positive"] / sum(weights.values()))
