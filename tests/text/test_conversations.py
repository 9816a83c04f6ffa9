"""Conversations from files of many layouts, told by the names of their fields."""

import gzip
import json

import duckdb
import pytest

from idiolect.errors import UserError
from idiolect.text import template
from idiolect.text.conversations import Conversations
from idiolect.text.template import Pair, Template

ASKED = [("Add 1 and 2.", "3"), ("Name a\ncolour.", "red, say"), ("Why {not}?", "because")]
WANTED = [[{"role": "user", "content": p}, {"role": "assistant", "content": r}] for p, r in ASKED]
LAYOUTS = {
    "messages": lambda p, r: {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": r}]},
    "parts": lambda p, r: {
        "messages": [{"role": x, "content": [{"type": "text", "text": t}]} for x, t in (("user", p), ("assistant", r))]
    },
    "conversations": lambda p, r: {"conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": r}]},
    "alpaca": lambda p, r: {"instruction": p, "input": "", "output": r},
    "dolly": lambda p, r: {"instruction": p, "context": "", "response": r, "category": "x"},
    "prompt and response": lambda p, r: {"prompt": p, "response": r},
    "prompt and completion": lambda p, r: {"prompt": p, "completion": r, "id": 3},
    "question and answer": lambda p, r: {"question": p, "answer": r},
    "lists on both sides": lambda p, r: {
        "prompt": [{"role": "user", "content": p}],
        "completion": [{"role": "assistant", "content": r}],
    },
}


def found(path, **more):
    return [row["messages"] for row in Conversations((path,), (), **more)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["json", "jsonl", "jsonl.gz", "parquet"])
def test_every_layout_in_every_kind_of_file(layout, kind, tmp_path):
    rows = [LAYOUTS[layout](p, r) for p, r in ASKED]
    path = tmp_path / f"rows.{kind}"
    text = json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows))
    if kind == "parquet":
        (tmp_path / "rows.jsonl").write_text(text)
        duckdb.sql(f"copy (from read_json('{tmp_path}/rows.jsonl')) to '{path}' (format parquet)")
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    assert found(path) == WANTED
    (name,) = Conversations((path,), ()).layouts()
    assert any(word in name for word in (*rows[0], "lists"))


def test_a_table_of_columns(tmp_path):
    (tmp_path / "a.csv").write_text('id,question,answer\n1,"Why, then?",so\n2,Who?,me\n')
    assert [[m["content"] for m in row] for row in found(tmp_path / "a.csv")] == [["Why, then?", "so"], ["Who?", "me"]]


def test_an_input_comes_after_its_instruction(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "Spell:", "input": "freind", "output": "friend"}]))
    assert found(tmp_path / "a.json")[0][0]["content"] == "Spell:\n\nfreind"


def test_several_turns_a_system_message_and_a_question_left_open(tmp_path):
    roles = ["system", "human", "gpt", "human", "gpt", "human"]
    (tmp_path / "a.jsonl").write_text(json.dumps({"conversations": [{"from": r, "value": r} for r in roles]}))
    names = [message["role"] for message in found(tmp_path / "a.jsonl")[0]]
    assert names == ["system", "user", "assistant", "user", "assistant"]


def test_fields_of_ones_own_through_a_template(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"en": "cat", "de": "Katze", "n": 7}))
    pair = Pair(Template("{n}: translate {en}"), Template("{de}"))
    assert [m["content"] for m in found(tmp_path / "a.jsonl", pair=pair)[0]] == ["7: translate cat", "Katze"]
    with pytest.raises(UserError, match="no text in a field 'fr'"):
        found(tmp_path / "a.jsonl", pair=Pair(Template("{fr}"), Template("{de}")))


def test_the_template_of_an_example_is_the_same_in_whole_and_split(tmp_path):
    rows = [{"dialogue": f"A: {i}", "summary": f"{i}"} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = template.find("dialogue-summary")
    whole = Conversations((tmp_path / "a.jsonl",), (), templates=asked, seed=5)
    train, held = whole.split(0.25)
    assert [*train, *held] == [*whole] and len([*held]) == 10
    for number, row in enumerate(held):
        expected = asked.pairs[row["template"]].prompt.text.replace("{dialogue}", f"A: {30 + number}")
        assert row["messages"][0]["content"] == expected
    assert len({whole.fingerprint, train.fingerprint, held.fingerprint}) == 3


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"messages": [{"role": "admin", "content": "a"}]}, "the role 'admin'"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "the role "),
        ({"messages": [{"role": "user", "content": "a"}]}, "no answer"),
        ({"messages": [{"role": "assistant", "content": " "}]}, "no answer"),
        ({"messages": [{"role": "user", "content": None}]}, "a message without text"),
        ({"messages": ["a"]}, "no list of messages"),
        ({"prompt": "a", "response": ""}, "no answer"),
        ({"prompt": "a", "response": "\ud800"}, "half of a surrogate"),
        ({"text": "a"}, "fields .'text'. are those of no kind of conversation"),
    ],
)
def test_what_is_no_conversation_is_refused(row, problem, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=problem):
        found(tmp_path / "a.jsonl")


def test_a_few_bad_rows_are_left_out(tmp_path):
    rows = [{"prompt": str(i), "response": "b"} for i in range(200)]
    rows[7]["response"] = None
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert len(found(tmp_path / "a.json", pair=None)) == 199


def test_files_without_rows_or_json(tmp_path):
    for text, problem in (("[]", "has no rows"), ("[1", "cannot be read: not JSON"), ("", "has no rows")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(UserError, match=problem):
            found(tmp_path / "a.json")
