"""FT1: each of the four meanings of fine-tuning is a recipe: a head, going on, PEFT, instruction tuning."""

import json

import pytest
import torch

from idiolect import api
from idiolect.cli import run as cli
from idiolect.interop import folder

FAST = ["train.precision=fp32", "train.compile=no", "train.threads=1", "train.batch_tokens=256", "train.steps=3"]
FAST += ["sample.every=0", "validation.every=0", "forgetting.own=false"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small decoder, and the data of each meaning."""
    home = tmp_path_factory.mktemp("FT1")
    (home / "text.txt").write_text("\n".join(f"the number {i} comes before {i + 1}" for i in range(200)))
    rows = [{"text": f"{i}", "label": "even" if i % 2 == 0 else "odd"} for i in range(60)]
    (home / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"prompt": f"What comes after {i}?", "response": f"{i + 1}"} for i in range(60)]
    (home / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shape = ["tokenizer.kind=byte", "model.width=16", "model.layers=1", "model.heads=2", "model.context=96"]
    api.train("gpt", [f"data.train={home / 'text.txt'}", "data.document=line", *shape, *FAST], home / "base")
    return home


MEANINGS = {
    "a head": ("classify", "labels.jsonl", []),
    "going on": ("continue", "text.txt", ["data.document=line"]),
    "PEFT": ("lora", "text.txt", ["data.document=line"]),
    "instruction tuning": ("sft", "answers.jsonl", ["task.answers=2", "task.answer_tokens=3", "task.template=turns"]),
}


@pytest.mark.parametrize("meaning", MEANINGS)
def test_FT1_each_meaning_is_a_recipe_that_starts_from_a_model_with_the_one_command(meaning, base, tmp_path, capsys):
    recipe, data, more = MEANINGS[meaning]
    assert recipe in api.list_recipes()
    said = [f"model.from={base / 'base'}", f"data.train={base / data}", *FAST, *more]
    assert cli(["train", recipe, *said, "-o", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 3 and found["validation"]["loss"] > 0
    before = folder.load(base / "base" / "model").model.state_dict()
    model = folder.load(tmp_path / "run" / "model").model
    after = (model.base if meaning == "a head" else model).state_dict()
    kept = {name for name, x in before.items() if name in after and torch.equal(x, after[name])}
    if meaning == "PEFT":  # only what was added moves
        assert kept == before.keys() & after.keys() and after.keys() - before.keys()
    else:
        assert kept == set() and before.keys() - after.keys() == ({"head.weight"} if meaning == "a head" else set())
    if meaning == "a head":
        assert api.classify(tmp_path / "run", "7")["label"] in ("even", "odd")
    else:
        assert api.generate(tmp_path / "run", "the number")["ids"]
