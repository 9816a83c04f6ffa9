"""FT6: FLAN: many tasks of many categories, each with templates of its own, in one instruction tuning."""

import json
from collections import Counter

import pytest

from idiolect.cli import run
from idiolect.errors import UserError
from idiolect.recipes import chat, load, tasks
from idiolect.text import template

FLAN = """
# as the collection has them: a dict of lists of (prompt, answer)
PATTERNS = {
    "rte": [
        ("{premise}\\n\\nDoes that mean {hypothesis}?", "{answer}"),
        ("Read: {premise} " "Then {hypothesis}?", "{answer}"),
        ("{hypothesis}, given {premise}?", "{answer}"),
    ],
    "mood": [("How does it sound? {text}", "{label}"), ("{text}\\nMood:", "{label}")],
}
"""
OURS = {"dialogue-summary", "entailment", "reading", "sentiment", "topic"}


@pytest.fixture
def made(tmp_path):
    """A file of templates, and the rows of two tasks: 60 of the one, 20 of the other."""
    (tmp_path / "flan.py").write_text(FLAN)
    rte = [{"premise": f"p{i}", "hypothesis": f"h{i}", "answer": ("yes", "no")[i % 2]} for i in range(60)]
    mood = [{"text": f"t{i}", "label": ("glad", "sad")[i % 2]} for i in range(20)]
    for name, rows in (("rte", rte), ("mood", mood)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def recipe(made, *more):
    shape = ["model.layers=1", "model.heads=2", "model.width=16", "model.context=64", "tokenizer.kind=byte"]
    data = f"data.train=['{made / 'rte.jsonl'}', '{made / 'mood.jsonl'}']"
    sets = f"task.templates=['{made / 'flan.py'}:rte', '{made / 'flan.py'}:mood']"
    return load.load("sft", [data, sets, *shape, "train.batch_tokens=640", *more])[0]


def test_FT6_the_registry_knows_every_task_by_its_category(made, capsys):
    shipped = template.list_templates()
    assert {one["name"] for some in shipped.values() for one in some} == OURS
    assert [one["name"] for one in shipped["summarisation"]] == ["dialogue-summary"]
    assert shipped["question answering"][0]["fields"] == ["context", "question", "answer"]
    assert len(shipped) == 5
    (made / "mine.toml").write_text('[nli]\ncategory = "inference"\ntemplates = [["{a}: {b}?", "{c}"]]')
    assert run(["recipes", "templates", str(made / "mine.toml"), str(made / "flan.py"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "inference": [{"name": f"{made}/mine.toml:nli", "templates": 1, "fields": ["a", "b", "c"]}],
        "no category": [
            {"name": f"{made}/flan.py:rte", "templates": 3, "fields": ["premise", "hypothesis", "answer"]},
            {"name": f"{made}/flan.py:mood", "templates": 2, "fields": ["text", "label"]},
        ],
    }
    assert run(["recipes", "templates"]) == 0
    out = capsys.readouterr().out
    assert "summarisation" in out and "dialogue-summary" in out and "premise, hypothesis, label" in out


def test_FT6_every_set_that_ships_fills_every_field(made):
    for name in OURS:
        found = template.find(name)
        row = {field: f"<{field}>" for field in found.fields}
        for pair in found.pairs:
            asked = pair.prompt.fill(row)
            assert pair.response.fields == found.fields[-1:] and pair.response.fill(row) == f"<{found.fields[-1]}>"
            assert all(f"<{field}>" in asked for field in found.fields[:-1])


def test_FT6_each_task_has_its_own_templates_sampled_and_recorded_per_example(made):
    stage = tasks.prepare(recipe(made), made / "run")
    record = json.loads((made / "run" / chat.RECORD).read_text())
    assert [(one["task"], len(one["chosen"])) for one in record["train"]] == [("rte", 54), ("mood", 18)]
    assert [len(one["chosen"]) for one in record["validation"]] == [6, 2]
    assert set(record["train"][0]["chosen"]) == {0, 1, 2} and set(record["train"][1]["chosen"]) == {0, 1}
    number = 0
    for one in record["train"]:
        for i, chosen in enumerate(one["chosen"]):
            asked, answer = one["templates"][chosen]
            values = {"premise": f"p{i}", "hypothesis": f"h{i}", "answer": ("yes", "no")[i % 2]}
            values |= {"text": f"t{i}", "label": ("glad", "sad")[i % 2]}
            expected = f"### Instruction:\n{asked.format(**values)}\n\n### Response:\n{answer.format(**values)}"
            assert stage.tokenizer.decode(stage.train.ids[number]) == expected
            number += 1


def test_FT6_tasks_are_mixed_by_their_weights(made):
    """Each row of a batch is of one task; in equal parts, though the one has three times as many examples."""
    stage = tasks.prepare(recipe(made, "data.weights=equal"), made / "run")
    batches = stage.batches()
    of_mood = Counter()
    for step in range(40):
        for batch in batches(step):
            for ids in batch.ids.tolist():
                text = stage.tokenizer.decode([i for i in ids if i != stage.tokenizer.end_id])
                of_mood["Mood:" in text or "sound?" in text] += 1
    assert of_mood[True] == of_mood[False] > 0
    shares = [(row["planned"], row["actual"]) for row in stage.mixture(40)]
    assert shares == [(0.5, 0.5), (0.5, 0.5)]


def test_FT6_what_does_not_fit_together_is_refused(made):
    with pytest.raises(UserError, match="task.templates has 2 sets for the 1 of data.train"):
        recipe(made, f"data.train={made / 'rte.jsonl'}")
    with pytest.raises(UserError, match="data.validation is a share of each"):
        recipe(made, f"data.validation={made / 'rte.jsonl'}")
    swapped = f"data.train=['{made / 'mood.jsonl'}', '{made / 'rte.jsonl'}']"
    with pytest.raises(UserError, match="has no text in a field 'premise'"):
        tasks.prepare(recipe(made, swapped), made / "run")
