"""Labels without a head: how they are asked for, and what is refused."""

import json

import pytest

from idiolect import cli
from idiolect.adapt.heads import attach
from idiolect.adapt.settings import LabelledSettings
from idiolect.decode.choices import choices
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, EncoderSettings
from idiolect.prompt.classify import classify
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

SETTINGS = DecoderSettings(layers=1, heads=2, width=16, context=97)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    base = tmp_path_factory.mktemp("classify")
    tokenizer = train(["Text: a film\nLabel: good"] * 9, TokenizerSettings(kind="byte"))
    model = build(SETTINGS, tokenizer.size, seed=3).eval()
    folder.save(base / "model", model, tokenizer, {})
    rows = [{"text": f"film {i}", "label": ("good", "bad")[i % 2]} for i in range(9)]
    (base / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return base, model, tokenizer


def test_the_labels_stand_where_the_template_says(made):
    base, model, tokenizer = made
    found = classify(base / "model", "a {label} film", labels=["good", "bad"], template="{text} is {label}!")
    (expected,) = choices(model, tokenizer, [("a {label} film is ", "!")], ["good", "bad"])
    assert found["logprobs"] == pytest.approx({"good": expected[0].logprob, "bad": expected[1].logprob}, abs=1e-5)
    assert found["tokens"] == {"good": 5, "bad": 4}
    assert sum(found["probabilities"].values()) == pytest.approx(1)
    assert found["label"] == next(iter(found["probabilities"])) == max(found["logprobs"], key=found["logprobs"].get)
    assert any("--by token" in note for note in found["notes"])
    means = classify(base / "model", "a film", labels=["good", "bad"], by="token")
    assert means["notes"] == [] and means["logprobs"]["good"] / means["tokens"]["good"] < 0


def test_examples_are_shown_and_what_they_take_is_said(made, capsys):
    base, _, tokenizer = made
    asked = ["classify", str(base / "model"), "a film", "--labels", "good,bad", "--json"]
    assert cli.run(asked) == 0
    bare = json.loads(capsys.readouterr().out)
    assert bare["prompt_tokens"] == 1 + len(tokenizer.encode("Text: a film\nLabel: "))
    assert cli.run([*asked, "--examples", str(base / "rows.jsonl"), "--shots", "2"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert bare["prompt_tokens"] + 2 * len("Text: film 0\nLabel: bad\n\n") <= shown["prompt_tokens"]
    assert shown["logprobs"] != bare["logprobs"]
    assert cli.run([*asked[:-1], "--examples", str(base / "rows.jsonl"), "--shots", "7"]) == 2
    assert "the model reads at most 97" in capsys.readouterr().err
    assert cli.run(asked[:-1]) == 0
    assert "prompt tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({}, "has no labels"),
        ({"labels": ["good"]}, "labels to compare are good"),
        ({"labels": ["good", "good"]}, "labels to compare are good, good"),
        ({"labels": ["good", "bad"], "template": "{text}"}, "does not have"),
        ({"labels": ["good", "bad"], "shots": 2}, "no 2 examples"),
    ],
)
def test_what_cannot_be_asked_is_refused(made, more, problem):
    with pytest.raises(UserError, match=problem):
        classify(made[0] / "model", "a film", **more)


def test_a_model_with_a_head_keeps_its_own_labels_and_an_encoder_has_none(made, tmp_path):
    _, _, tokenizer = made
    head = LabelledSettings(base=SETTINGS, labels=("x", "y"), pool="last")
    folder.save(tmp_path / "head", attach(build(SETTINGS, tokenizer.size), head, seed=1)[0], tokenizer, {})
    with pytest.raises(UserError, match="labels of its own"):
        classify(tmp_path / "head", "a film", labels=["good", "bad"])
    encoder = EncoderSettings(layers=1, heads=1, width=8, context=31)
    folder.save(tmp_path / "encoder", build(encoder, tokenizer.size), tokenizer, {})
    with pytest.raises(UserError, match="cannot continue a text"):
        classify(tmp_path / "encoder", "a film", labels=["good", "bad"])
