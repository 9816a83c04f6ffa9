"""FT4: instruction tuning: a model that learnt lines of text learns to answer, and to stop, from prompts and answers.

The base has read sentences that say which animal eats what. Tuned on questions about them, it answers and stops.
"""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from idiolect import api, config
from idiolect.cli import run as command
from idiolect.data.batch import IGNORE
from idiolect.models.build import build
from idiolect.recipes import load, tasks
from idiolect.train import objectives

ANIMALS = ["cow", "goat", "hen", "cat", "dog", "owl", "fox", "bee", "ant", "eel", "pig"]
FOODS = ["hay", "grass", "corn", "fish", "bones", "mice", "grapes", "pollen", "crumbs", "worms", "roots"]
COMMON = ["train.precision=fp32", "train.compile=no", "train.threads=1", "validation.every=0", "sample.every=0"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """(folder with a pretrained base and the run that tuned it, the tuning's result)."""
    folder = tmp_path_factory.mktemp("FT4")
    lines = [f"The {a} eats {f}." for a, f in zip(ANIMALS, FOODS, strict=True)] * 20
    (folder / "lines.txt").write_text("\n".join(lines))
    small = ["model.layers=2", "model.heads=2", "model.width=64", "model.context=128", "tokenizer.size=330"]
    base = [f"data.train={folder / 'lines.txt'}", "data.document=line", "train.steps=40", "train.batch_tokens=1024"]
    api.train("gpt", [*base, *small, *COMMON, "train.learning_rate=3e-3"], folder / "base")
    rows = [
        {"instruction": f"What does the {a} eat{mark}", "input": "", "output": f"The {a} eats {f}."}
        for mark in ("?", " now?", " today?", " here?", " in spring?", " in winter?")
        for a, f in zip(ANIMALS, FOODS, strict=True)
    ]
    (folder / "train.json").write_text(json.dumps(rows[:55]))
    (folder / "held.json").write_text(json.dumps(rows[55:]))
    given = [f"data.train={folder / 'train.json'}", f"data.validation={folder / 'held.json'}"]
    given += [f"model.from={folder / 'base'}", "train.steps=150", "train.batch_tokens=1024", "train.learning_rate=5e-3"]
    return folder, given, api.train("sft", [*given, *COMMON], folder / "run")


@pytest.mark.slow
def test_FT4_held_out_answers_are_right_stop_and_depend_on_what_was_asked(tuned):
    folder, _, result = tuned
    found = result["validation"]
    assert found["stops"] >= 0.95 and found["rougeL"] > 0.9
    assert found["loss"] < 0.2 < 0.5 < found["loss_other_prompt"]
    assert found["loss"] < result["baselines"]["unigram"]["loss"]
    assert api.chat(folder / "run", "What does the owl eat in winter?")["text"] == "The owl eats mice."
    silent = api.generate(folder / "base", "### Instruction:\nWhat does the owl eat?\n\n### Response:\n")
    assert silent["text"] != "The owl eats mice."  # the tuning taught it


@pytest.mark.slow
def test_FT4_the_folder_asks_and_answers_the_same_in_transformers(tuned):
    folder = tuned[0] / "run" / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    asked = [{"role": "user", "content": "What does the hen eat in winter?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        written = model.generate(**prompt, do_sample=False, max_new_tokens=60)[0, prompt["input_ids"].shape[1] :]
    ours = api.chat(folder, asked[0]["content"])
    assert ours["ids"] == tuple(written.tolist()) and ours["finish_reason"] == "stop"
    assert tokenizer.decode(written, skip_special_tokens=True) == ours["text"] == "The hen eats corn."


def stage_of(given, tmp_path, *more):
    recipe, _ = load.load("sft", [*given, *more])
    return tasks.prepare(recipe, tmp_path)


@pytest.mark.slow
def test_FT4_the_loss_is_of_the_answers_and_of_all_when_asked(tuned, tmp_path):
    """By hand: the sum of -log p over the answer and its end, or over the whole conversation."""
    _, given, _ = tuned
    for train_on, first in (("responses", None), ("all", 1)):
        stage = stage_of(given, tmp_path / train_on, f"task.train_on={train_on}")
        ids = torch.tensor(stage.train.ids[4].tolist())
        answer = len(stage.tokenizer.encode("The dog eats bones.")) + 1
        model = build(stage.recipe.model.model_copy(update={"from_": None}), stage.tokenizer.size, seed=2).eval()
        with torch.no_grad():
            logs = torch.log_softmax(model.head(model.body(ids[None, :-1]))[0].double(), -1)
            expected = -logs.gather(1, ids[1:, None])[(first or len(ids) - answer) - 1 :].sum()
            loss = objectives.next_token(model, stage.train.batch([4], stage.tokenizer.pad_id))
        assert float(loss.total) == pytest.approx(float(expected), rel=1e-5)
        assert loss.count == (answer if train_on == "responses" else len(ids) - 1)
        assert ids[-1] == stage.tokenizer.end_id  # learnt in both
        labels = stage.train.row(4)[1]
        assert labels[-1] == stage.tokenizer.end_id and (labels == IGNORE).any() == (train_on == "responses")


@pytest.mark.slow
def test_FT4_three_samples_are_shown_before_the_first_step(tuned, tmp_path, capsys):
    _, given, _ = tuned
    arguments = [
        *given,
        *COMMON,
        "train.steps=1",
        "train.warmup_steps=0",
        "task.answers=0",
        "-o",
        str(tmp_path / "run"),
    ]
    assert command(["train", "sft", *arguments]) == 0
    before, _, after = capsys.readouterr().err.partition("step 1/1")
    assert before.count("── conversation ") == 3 and after
    for animal, food in list(zip(ANIMALS, FOODS))[:3]:
        assert f"What does the {animal} eat?\n\n### Response:\n[The {animal} eats {food}.<|endoftext|>]" in before
    assert "end of answers learnt: yes, in 55 conversations" in before and "begin-of-text twice: no" in before
    assert config.read_toml(tmp_path / "run" / "recipe.toml")["task"]["train_on"] == "responses"
