"""Instruction tuning: what a batch holds, what is refused before the first step, what is measured, resumed exactly."""

import json
import math
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as Native
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

from idiolect import api, config, files
from idiolect.cli import run as command
from idiolect.data.batch import IGNORE
from idiolect.errors import UserError
from idiolect.models.build import build
from idiolect.recipes import pretrain, tasks
from idiolect.recipes.settings import Recipe
from idiolect.runs import Run
from idiolect.train import objectives

TABLES = {
    "tokenizer": {"kind": "byte"},
    "model": {"kind": "decoder", "layers": 1, "heads": 2, "width": 16, "context": 131},
    "task": {"kind": "chat", "answers": 3, "answer_tokens": 5},
    "train": {
        "steps": 7,
        "batch_tokens": 400,
        "micro_batches": 2,
        "precision": "fp32",
        "compile": "no",
        "threads": 1,
        "learning_rate": 0.01,
    },
    "checkpoint": {"every": 3},
    "validation": {"every": 3, "tokens": 50},
    "sample": {"every": 5, "tokens": 5},
}
WORDS = ["red", "green", "blue", "yellow", "white"]


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """41 instructions with their answers, every fifth with an input; the first is longer than the model reads."""
    path = tmp_path_factory.mktemp("chat") / "facts.json"
    rows = [{"instruction": "x" * 200, "input": "", "output": "y"}]
    for number in range(40):
        word = WORDS[number % 5]
        rows.append({"instruction": f"Say {word}.", "input": "loud" * (number % 5 == 0), "output": f"{word} {number}"})
    path.write_text(json.dumps(rows))
    return path


def recipe(path, **changes):
    tables = {key: dict(table) for key, table in TABLES.items()} | {"data": {"train": [str(path)]}}
    for key, value in changes.items():
        table, _, name = key.partition("__")
        tables[table][name] = value
    return config.validate(Recipe, tables, "test")


def spelled(number):
    """What the template `instruction` makes of row `number` of the facts, and its answer."""
    word = WORDS[(number - 1) % 5]
    asked = f"Say {word}." + "\n\nloud" * ((number - 1) % 5 == 0)
    return f"### Instruction:\n{asked}\n\n### Response:\n", f"{word} {number - 1}"


def test_what_is_learnt_is_the_answer_and_its_end(facts, tmp_path, capsys):
    stage = tasks.prepare(recipe(facts), tmp_path)
    said = capsys.readouterr().err
    assert "instructions (instruction, input, output), from facts.json" in said
    assert "1 (2.8%), nothing left to learn in 1" in said  # 1 of the first 36
    tokenizer = stage.tokenizer
    for i in (0, 7):
        prompt, answer = spelled(i + 1)
        ids = [tokenizer.end_id, *tokenizer.encode(prompt), *tokenizer.encode(answer), tokenizer.end_id]
        read, labels = stage.train.row(i)
        assert read.tolist() == ids[:-1]
        n = len(answer) + 1
        assert labels.tolist()[:-n] == [IGNORE] * (len(read) - n) and labels.tolist()[-n:] == ids[-n:]
    assert tokenizer.pad_id != tokenizer.end_id


def test_all_of_the_conversation_can_be_learnt(facts, tmp_path):
    stage = tasks.prepare(recipe(facts, task__train_on="all"), tmp_path)
    read, labels = stage.train.row(3)
    assert labels.tolist() == [*read.tolist()[1:], stage.tokenizer.end_id]
    assert (stage.held.said.row(0)[1] == IGNORE).any()  # what is measured is the answers all the same


def test_a_packed_batch_loses_as_much_as_its_parts(facts, tmp_path):
    stage = tasks.prepare(recipe(facts), tmp_path)
    batches = stage.batches()
    assert batches.shared
    model = build(stage.recipe.model, stage.tokenizer.size, seed=5)
    rows = np.arange(len(batches.ends) - 1)
    with torch.no_grad():
        whole = objectives.next_token(model, batches.batch(rows))
        alone = (stage.train.batch([i], stage.tokenizer.pad_id) for i in range(len(stage.train)))
        parts = [objectives.next_token(model, batch) for batch in alone]
    assert whole.count == sum(part.count for part in parts) == len(stage.train.labels)
    assert float(whole.total) == pytest.approx(sum(float(part.total) for part in parts), rel=1e-6)


def test_every_epoch_has_every_conversation_once(facts, tmp_path):
    batches = tasks.prepare(recipe(facts), tmp_path).batches()
    R = len(batches.ends) - 1
    assert sorted(batches.order.tolist()) == list(range(len(batches.conversations)))
    labels = sum(batch.count for step in range(R) for batch in batches(step))  # R steps are `rows` epochs
    assert labels == batches.rows * len(batches.conversations.labels)


def test_held_out_figures_are_the_models_own(facts, tmp_path):
    stage = tasks.prepare(recipe(facts), tmp_path)
    model = build(stage.recipe.model, stage.tokenizer.size, seed=4).eval()
    tokenizer = stage.tokenizer
    nats = other = labels = bytes_ = 0
    held = [spelled(number) for number in range(36, 41)]
    prompts = [tokenizer.encode(prompt) for prompt, _ in held]
    for i, (_, answer) in enumerate(held):
        n = len(answer) + 1
        for prompt, own in ((prompts[i], True), (prompts[(i + 1) % 5], False)):
            ids = torch.tensor([[tokenizer.end_id, *prompt, *tokenizer.encode(answer), tokenizer.end_id]])
            found = -float(model.score(ids)[0, -n:].sum())
            nats, other = (nats + found, other) if own else (nats, other + found)
        labels, bytes_ = labels + n, bytes_ + n - 1
    figures = stage.score(model)
    assert figures["tokens"] == labels and figures["bytes"] == bytes_
    assert figures["loss"] == pytest.approx(nats / labels, rel=1e-5)
    assert figures["loss_other_prompt"] == pytest.approx(other / labels, rel=1e-5)
    assert figures["bits_per_byte"] == pytest.approx(nats / bytes_ / math.log(2), rel=1e-5)
    assert figures["answers"] == 3 and figures["stops"] in (0, 1 / 3, 2 / 3, 1)
    assert stage.score(model, 20)["tokens"] <= 20


def test_a_run_resumed_is_the_uninterrupted_run_and_its_folder_spells_the_same(facts, tmp_path):
    asked = recipe(facts, model__dropout=0.2)
    result = api.train(asked, out=tmp_path / "whole")
    assert result["steps"] == 7 and "stops" in result["validation"]
    files.write_text(Run.create(tmp_path / "cut").recipe, config.dump(asked))
    run = Run.open(tmp_path / "cut")
    for step in (2, 5):
        pretrain.resume_with(run, [lambda done, step=step: "stopped" if done.step == step else None])
    api.resume(run.folder)
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "Before the first step" in page and re.search("<mark>green 1&lt;|<mark>green 1", page)


def test_a_changed_template_is_not_gone_on_with(facts, tmp_path):
    mine = tmp_path / "mine.jinja"
    mine.write_text("{% for m in messages %}{{ m.content + eos_token }}{% endfor %}")
    asked = recipe(facts, task__template=str(mine))
    files.write_text(Run.create(tmp_path / "run").recipe, config.dump(asked))
    run = Run.open(tmp_path / "run")
    pretrain.resume_with(run, [lambda done: "stopped" if done.step == 2 else None])
    mine.write_text("{% for m in messages %}{{ m.content + eos_token }}!{% endfor %}")
    with pytest.raises(UserError, match=r"task\.template"):
        api.resume(run.folder)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}", "two begin"),
        (
            "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
            "{% else %}{{ m.content }}:{% endif %}{% endfor %}",
            "the end of an answer would never be learnt",
        ),
        ("{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}", "no token"),
        ("x" * 200 + "{% for m in messages %}{{ m.content }}{% endfor %}", "no token.*; every conversation is longer"),
    ],
)
def test_what_would_fail_later_is_refused_before_the_first_step(template, problem, facts, tmp_path, capsys):
    (tmp_path / "t.jinja").write_text(template)
    rows = tmp_path / "facts.json"
    rows.write_text(facts.read_text())
    out = tmp_path / "run"
    given = [f"{table}.{key}={value}" for table, keys in TABLES.items() for key, value in keys.items()]
    given += [f"data.train={rows}", f"task.template={tmp_path / 't.jinja'}", "-o", str(out)]
    assert command(["train", "sft", *given]) == 2
    assert re.search(problem, capsys.readouterr().err)
    assert not (out / "checkpoints").exists()


def test_where_a_template_ends_no_answer_the_text_ends(facts, tmp_path):
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.role[0] + m.content }}\n{% endfor %}")
    stage = tasks.prepare(recipe(facts, task__template=str(tmp_path / "t.jinja")), tmp_path / "run")
    read, labels = stage.train.row(0)
    answer = spelled(1)[1]
    assert labels[labels != IGNORE].tolist() == [*stage.tokenizer.encode(answer), stage.tokenizer.end_id]
    assert stage.tokenizer.decode(read).endswith(f"a{answer}\n")


def test_settings_that_contradict_one_another_are_refused(facts, tmp_path):
    for changes, problem in (
        ({"task__prompt": "{instruction}"}, "given together"),
        ({"task__prompt": "{a}", "task__response": "{b}", "task__templates": "dialogue-summary"}, "exclude each other"),
    ):
        with pytest.raises(UserError, match=problem):
            recipe(facts, **changes)
    tables = {"data": {"train": [str(facts)]}, "model": {"kind": "encoder"}, "task": {"kind": "chat"}}
    with pytest.raises(UserError, match=r"task\.kind=chat is not for model\.kind=encoder"):
        config.validate(Recipe, tables, "test")
    stream = {"data": {"train": [str(facts)], "packing": "stream"}, "model": {"kind": "lstm"}, "task": {"kind": "chat"}}
    with pytest.raises(UserError, match="conversations are whole"):
        tasks.prepare(config.validate(Recipe, stream, "test"), tmp_path)


def test_text_that_steers_a_terminal_is_shown_as_text(tmp_path, capsys):
    rows = [{"prompt": f"\x1b[2J{n}", "response": "\x07ok"} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tasks.prepare(recipe(tmp_path / "rows.jsonl", task__system="Be kind."), tmp_path / "run")
    said = capsys.readouterr().err
    assert "\x1b" not in said and "\x07" not in said and "\\x1b[2J0" in said and "[\\x07ok<|endoftext|>]" in said
    assert said.count("Be kind.") == 3


def test_a_recurrent_model_learns_to_answer_too(facts, tmp_path):
    tables = {"kind": "lstm", "layers": 1, "width": 8, "context": 131}
    asked = recipe(facts).model_dump(mode="json", by_alias=True, exclude_none=True) | {"model": tables}
    result = api.train(config.validate(Recipe, asked, "test"), out=tmp_path / "run")
    assert result["steps"] == 7 and api.chat(tmp_path / "run", "Say red.")["finish_reason"] in ("stop", "length")


def test_new_tokens_grow_the_model_they_are_taught_to(facts, tmp_path):
    base = api.train(recipe(facts), out=tmp_path / "base")["model"]
    overrides = [f"model.from={base}", "task.template=chatml", "train.steps=1", "train.precision=fp32"]
    result = api.train("sft", [f"data.train={facts}", *overrides, "task.answers=2", "sample.every=0"], tmp_path / "run")
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (base, result["model"]))
    grown = {name: len(after[name]) - len(before[name]) for name in before if after[name].shape != before[name].shape}
    assert set(grown.values()) == {2} and len(grown) >= 1
    settings = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert settings["vocab_size"] == 260
    assert api.chat(tmp_path / "run", "Say red.")["messages"][0]["content"] == "Say red."


def test_a_foreign_base_without_padding_or_end_of_text_learns_both_ends(facts, tmp_path):
    """GPT-2's folder has no padding token; where there is no end of text either, one is added with its row."""
    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for ends in ({}, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}):
        native = Native(models.BPE(vocab=vocabulary, merges=[]))
        native.pre_tokenizer, native.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        theirs = PreTrainedTokenizerFast(tokenizer_object=native, **ends)
        torch.manual_seed(0)
        shape = GPT2Config(vocab_size=len(theirs), n_layer=1, n_head=2, n_embd=16, n_positions=131)
        folder = tmp_path / f"gpt2-{len(ends)}"
        AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
        theirs.save_pretrained(folder)
        given = [f"data.train={facts}", f"model.from={folder}", "train.steps=3", "train.precision=fp32"]
        given += ["task.answers=2", "sample.every=0", "forgetting.own=false"]
        result = api.train("sft", given, tmp_path / f"run-{len(ends)}")
        weights = load_file(tmp_path / f"run-{len(ends)}" / "model" / "model.safetensors")
        assert max(len(tensor) for tensor in weights.values() if tensor.shape[-1:] == (16,)) >= 257
        assert math.isfinite(result["validation"]["loss"])
        assert api.chat(tmp_path / f"run-{len(ends)}", "Say red.")["finish_reason"] in ("stop", "length")


def test_conversations_that_a_template_does_not_take_are_left_out_unless_they_are_many(tmp_path, capsys):
    (tmp_path / "t.jinja").write_text(
        "{% if messages[0].content == 'no' %}{{ raise_exception('it says no') }}{% endif %}"
        "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    )
    for bad in (1, 3):
        rows = [{"prompt": "no" if i < bad else f"p{i}", "response": f"r{i}"} for i in range(200)]
        (tmp_path / f"{bad}.json").write_text(json.dumps(rows))
        asked = recipe(tmp_path / f"{bad}.json", task__template=str(tmp_path / "t.jinja"))
        if bad == 1:
            assert len(tasks.prepare(asked, tmp_path / "run").train) == 179
            assert "left out 1 of 180 conversations" in capsys.readouterr().err
        else:
            with pytest.raises(UserError, match="3 of 180 conversations cannot be spelled: .* it says no"):
                tasks.prepare(asked, tmp_path / "other")
