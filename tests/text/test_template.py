"""Prompts with fields, and sets of them, from files of three kinds."""

from collections import Counter

import pytest

from idiolect.errors import UserError
from idiolect.text import template
from idiolect.text.template import Template

FLAN = """
# a file of templates as data
PATTERNS = {
    "rte": [
        ("{premise}\\n\\nDoes that mean {hypothesis}?", "{answer}"),
        ("Read: {premise} " "Then {hypothesis}?", "{answer}"),
    ],
    "nli": [("{a}", "{b}")],
}
import os
"""


def test_fields_are_filled_and_what_they_hold_is_taken_as_it_is():
    made = Template("{{keep}} {a} and {b}, {a}")
    assert made.fields == ("a", "b")
    assert made.fill({"a": "{b}", "b": 7, "c": ""}) == "{keep} {b} and 7, {b}"
    with pytest.raises(KeyError):
        made.fill({"a": "x"})


@pytest.mark.parametrize("text", ["{", "a } b", "{}", "{ }", "{a{b}}", "{{{"])
def test_a_brace_without_a_field_is_refused(text):
    with pytest.raises(UserError, match="brace without a field"):
        Template(text)


def test_a_set_of_several_tasks_from_toml_json_and_python(tmp_path):
    (tmp_path / "t.py").write_text(FLAN)
    (tmp_path / "t.json").write_text('{"rte": [["{premise}?", "{answer}"]], "nli": {"templates": [["{a}", "{b}"]]}}')
    (tmp_path / "t.toml").write_text('[nli]\ncategory = "entailment"\ntemplates = [{prompt = "{a}", response = "{b}"}]')
    found = template.find(f"{tmp_path}/t.py:rte")
    assert [pair.prompt.text for pair in found.pairs] == [
        "{premise}\n\nDoes that mean {hypothesis}?",
        "Read: {premise} Then {hypothesis}?",
    ]
    assert found.fields == ("premise", "hypothesis", "answer")
    assert template.find(f"{tmp_path}/t.json:nli").fields == ("a", "b")
    assert template.find(f"{tmp_path}/t.toml").category == "entailment"
    with pytest.raises(UserError, match="has the tasks rte, nli"):
        template.find(f"{tmp_path}/t.py")
    with pytest.raises(UserError, match='did you mean "nli"'):
        template.find(f"{tmp_path}/t.py:nil")
    with pytest.raises(UserError, match='did you mean "dialogue-summary"'):
        template.find("dialog-summary")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("t.json", "[1]", "no table of tasks"),
        ("t.json", '{"a": []}', "no list of templates"),
        ("t.json", '{"a": [["x {f}"]]}', "no prompt with its response"),
        ("t.json", '{"a": [["x", "{f}"]]}', "a side without a field"),
        ("t.json", '{"a": {"prompts": []}}', "'prompts', which is neither"),
        ("t.py", "T = {'a': [(open('x'), '{b}')]}", "malformed node"),
        ("t.py", "T = 1", "no table of tasks"),
        ("t.yaml", "a: 1", "none of .toml, .json and .py"),
    ],
)
def test_what_is_no_set_is_refused(name, text, problem, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=problem):
        template.find(str(tmp_path / name))


def test_each_example_gets_one_of_all_about_equally_often_and_always_the_same():
    found = template.find("dialogue-summary")
    numbers = [found.number(i, 3) for i in range(7000)]
    counts = Counter(numbers)
    assert set(counts) == set(range(7)) and all(850 < count < 1150 for count in counts.values())
    assert numbers == [found.number(i, 3) for i in range(7000)] != [found.number(i, 4) for i in range(7000)]
