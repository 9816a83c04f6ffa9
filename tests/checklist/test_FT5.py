"""FT5: templates turn a table into instructions: the seven ways to ask for the summary of a dialogue."""

from __future__ import annotations

import json

import pytest

from idiolect.errors import UserError
from idiolect.recipes import chat, load, tasks
from idiolect.text import template

DIALOGUE = "#Person1#: Shall we go to the lake?\n#Person2#: It rains. {Later}, then."
SUMMARY = "#Person2# puts off a walk to the lake because of the rain."
SEVEN = [
    f"{DIALOGUE}\n\nBriefly summarize that dialogue.",
    f"Here is a dialogue:\n{DIALOGUE}\n\nWrite a short summary!",
    f"Dialogue:\n{DIALOGUE}\n\nWhat is a summary of this dialogue?",
    f"{DIALOGUE}\n\nWhat was that dialogue about, in two sentences or less?",
    f"Here is a dialogue:\n{DIALOGUE}\n\nWhat were they talking about?",
    f"Dialogue:\n{DIALOGUE}\n\nWhat were the main points in that conversation?",
    f"Dialogue:\n{DIALOGUE}\n\nWhat was going on in that conversation?",
]


def test_FT5_all_seven_render_on_a_dialogue():
    row = {"dialogue": DIALOGUE, "summary": SUMMARY, "topic": "weather"}
    found = template.find("dialogue-summary")
    assert [pair.prompt.fill(row) for pair in found.pairs] == SEVEN
    assert [pair.response.fill(row) for pair in found.pairs] == [SUMMARY] * 7


def recipe(folder, *more):
    given = ["model.layers=1", "model.heads=2", "model.width=16", "model.context=512", "tokenizer.kind=byte"]
    return load.load("sft", [f"data.train={folder}/rows.jsonl", *given, *more])[0]


@pytest.fixture
def rows(tmp_path):
    lines = [json.dumps({"dialogue": f"{DIALOGUE} {i}", "summary": f"{SUMMARY} {i}"}) for i in range(70)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_FT5_each_example_gets_one_of_them_which_the_run_records(rows):
    stage = tasks.prepare(recipe(rows, "task.templates=dialogue-summary"), rows / "run")
    found = json.loads((rows / "run" / chat.RECORD).read_text())
    record = {part: one["chosen"] for part, (one,) in found.items()}
    assert [asked.replace("{dialogue}", DIALOGUE) for asked, _ in found["train"][0]["templates"]] == SEVEN
    assert len(record["train"]) == len(stage.train) == 63 and len(record["validation"]) == 7
    assert set(record["train"]) == set(range(7))
    for part, first, conversations in (("train", 0, stage.train), ("validation", 63, stage.held.said)):
        for number, chosen in enumerate(record[part]):
            dialogue = f"{DIALOGUE} {first + number}"
            asked = SEVEN[chosen].replace(DIALOGUE, dialogue)
            text = stage.tokenizer.decode(conversations.ids[number])
            assert text == f"### Instruction:\n{asked}\n\n### Response:\n{SUMMARY} {first + number}"
    again = tasks.prepare(recipe(rows, "task.templates=dialogue-summary"), rows / "again")
    assert (again.train.ids.ids == stage.train.ids.ids).all()
    other = tasks.prepare(recipe(rows, "task.templates=dialogue-summary", "train.seed=1"), rows / "other")
    assert (rows / "other" / chat.RECORD).read_text() != (rows / "run" / chat.RECORD).read_text() and other


def test_FT5_placeholders_are_checked(rows):
    (rows / "mine.json").write_text(json.dumps({"sum": [["Summarise {dialog}", "{summary}"]]}))
    with pytest.raises(UserError, match="no text in a field 'dialog'") as error:
        tasks.prepare(recipe(rows, f"task.templates={rows}/mine.json"), rows / "run")
    assert "'dialogue', 'summary'" in error.value.mend
    with pytest.raises(UserError, match="brace without a field"):
        tasks.prepare(recipe(rows, "task.prompt=Summarise {dialogue", "task.response={summary}"), rows / "run2")
