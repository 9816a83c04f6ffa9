"""Recipes whose models give labels: of texts, and of each word of a sentence."""

import json

import pytest
import torch

from idiolect import api
from idiolect.adapt.heads import attach
from idiolect.data.batch import IGNORE
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.models.build import build
from idiolect.recipes import load, tasks

NOUNS = ("cat", "dog", "old man", "hat")
FAST = ["train.precision=fp32", "train.compile=no", "train.threads=1", "train.batch_tokens=256", "validation.every=0"]
BODY = {
    "gpt": ["model.width=16", "model.layers=1", "model.heads=2", "model.context=32"],
    "lstm": ["model.width=16", "model.layers=1"],
    "t5": ["model.width=16", "model.layers=1", "model.heads=2", "model.context=32", "model.source_context=32"],
}


def reviews(path, n):
    """A text a line with its label: whether "good" or "bad" comes last."""
    words, rows = ("bad", "good"), []
    rows = [
        f"a {words[i // 2 % 2]} {NOUNS[i % 4]} and a {words[i % 2]} {NOUNS[i // 3 % 4]}\t{words[i % 2]}"
        for i in range(n)
    ]
    path.write_text("\n".join(rows) + "\n")
    return path


def sentences(path, n):
    """A word and its tag a line: what follows "the" is a thing, of one word or of two."""
    lines = []
    for i in range(n):
        for part in ("a", NOUNS[i % 3], "sees", "the", NOUNS[i // 2 % 4]):
            known = lines and lines[-1] == "the\tO"
            for place, word in enumerate(part.split()):
                lines.append(f"{word}\t{('I' if place else 'B') + '-thing' if known else 'O'}")
        lines.append("")
    path.write_text("\n".join(lines))
    return path


def labels(tmp_path, *more):
    return ["task.kind=labels", "task.text=1", "task.label=2", f"data.train={reviews(tmp_path / 'r.tsv', 120)}", *more]


def tags(tmp_path, *more):
    return ["task.kind=tags", f"data.train={sentences(tmp_path / 's.conll', 120)}", *more]


@pytest.mark.parametrize("kind", BODY)
@pytest.mark.parametrize("task", [labels, tags])
def test_what_decides_is_learnt_and_every_parameter_moves(kind, task, tmp_path):
    said = [*task(tmp_path), *BODY[kind], *FAST, "tokenizer.kind=word", "train.steps=120", "train.learning_rate=0.01"]
    before = tasks.prepare(load.load(kind, said)[0], tmp_path / "stage").model().state_dict()
    found = api.train(kind, said, tmp_path / "run")
    figure = "macro_f1" if task is labels else "entity_f1"
    assert found["validation"]["accuracy"] == found["validation"][figure] == 1
    majority = found["baselines"]["majority"]
    assert majority["accuracy"] < 0.8 and majority[figure] < 0.5 and majority["loss"] > found["validation"]["loss"]
    assert (found["validation"]["perplexity"], found["validation"]["bits_per_byte"]) == (None, None)
    after = folder.load(tmp_path / "run" / "model").model.state_dict()
    assert before.keys() == after.keys()
    assert {name for name in before if torch.equal(before[name], after[name])} == set()
    if task is labels:
        assert api.classify(tmp_path / "run", "a bad dog and a good cat")["label"] == "good"
    else:
        tagged = api.classify(tmp_path / "run", "a cat sees the old man")["tags"]
        assert [entry["tag"] for entry in tagged] == ["O", "O", "O", "O", "B-thing", "I-thing"]


def test_the_batch_is_the_framed_text_with_its_label(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"text": "ab", "label": 7}\n{"text": "abc", "label": 3}\n' * 5)
    said = ["task.kind=labels", f"data.train={tmp_path / 'r.jsonl'}", "tokenizer.kind=byte", "model.context=3", FAST[3]]
    stage = tasks.prepare(load.load("gpt", said)[0], tmp_path / "run")
    batch = stage.batches()(0)[0]
    begin, pad = stage.tokenizer.begin_id, stage.tokenizer.pad_id
    a, b = stage.tokenizer.encode("ab")
    assert stage.head.labels == ("3", "7")
    assert {tuple(row) for row in batch.ids.tolist()} == {(begin, a, b)}  # "abc" is cut
    assert batch.labels.shape == batch.lengths.shape == (len(batch.ids),) and pad not in batch.ids
    assert set(batch.labels.tolist()) == {0, 1}
    assert stage.recipe.model.context == 3 and stage.head.pool == "last"


def test_tags_lie_at_the_last_token_of_each_word_and_nowhere_else(tmp_path):
    (tmp_path / "s.conll").write_text("abc\tX\nd\tO\n\n" * 5)
    said = ["task.kind=tags", f"data.train={tmp_path / 's.conll'}", "tokenizer.kind=byte", "model.context=5", FAST[3]]
    stage = tasks.prepare(load.load("gpt", said)[0], tmp_path / "run")
    batch = stage.batches()(0)[0]
    assert batch.ids[0].tolist() == [stage.tokenizer.begin_id, *stage.tokenizer.encode("abc")]  # " d" does not fit
    assert batch.labels[0].tolist() == [IGNORE, IGNORE, IGNORE, stage.head.labels.index("X")]
    model = stage.model().eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 1.0]))  # always X
    # of two words the first is read and right; the other is guessed to have the usual tag, the first met of a tie
    assert stage.score(model)["accuracy"] == 0.5


def test_what_is_wrong_with_the_examples_is_said(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"text": "ab", "label": "x"}\n' * 20)
    said = ["task.kind=labels", "tokenizer.kind=byte", f"data.train={tmp_path / 'one.jsonl'}"]
    with pytest.raises(UserError, match="all labels are x"):
        tasks.prepare(load.load("gpt", said)[0], tmp_path / "a")
    (tmp_path / "empty.jsonl").write_text("")
    said = [*labels(tmp_path), f"data.validation={tmp_path / 'empty.jsonl'}", "tokenizer.kind=byte"]
    with pytest.raises(UserError, match="none held out"):
        tasks.prepare(load.load("gpt", said)[0], tmp_path / "b")
    with pytest.raises(UserError, match="task.kind=labels is not for model.kind=ngram"):
        load.load("ngram", labels(tmp_path))


def test_a_run_of_labels_stopped_and_resumed_is_the_same(tmp_path):
    said = [*labels(tmp_path), *BODY["lstm"], *FAST, "train.steps=6", "checkpoint.every=2", "tokenizer.kind=char"]
    api.train("lstm", [*said, "model.dropout=0.1"], tmp_path / "run")
    assert api.verify_resume(tmp_path / "run", steps=6)["identical"]


def test_the_same_seed_gives_the_same_head_on_any_body(tmp_path):
    stage = tasks.prepare(
        load.load("gpt", [*labels(tmp_path), *BODY["gpt"], "tokenizer.kind=char"])[0], tmp_path / "run"
    )
    again, _ = attach(build(stage.head.base, stage.tokenizer.size), stage.head, seed=stage.recipe.train.seed)
    assert torch.equal(stage.model().head.weight, again.head.weight)


def test_the_report_shows_accuracy_beside_the_majority(tmp_path, capsys):
    said = [*labels(tmp_path), *BODY["lstm"], *FAST, "train.steps=3", "tokenizer.kind=char"]
    api.train("lstm", said, tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "held-out accuracy" in page and "majority" in page
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("final.accuracy" in line for line in metrics)


@pytest.mark.parametrize("kind", ["lora", "soft-prompt", "adapter"])
def test_an_encoder_decoder_that_learns_labels_can_be_adapted(kind, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(row.split("\t")[0] for row in reviews(tmp_path / "r.tsv", 40).open()))
    shape = [*BODY["t5"], *FAST, "tokenizer.kind=word", "train.steps=2", "task.sentinels=3"]
    api.train("t5", [f"data.train={tmp_path / 'text.txt'}", "data.document=line", *shape], tmp_path / "t5")
    said = [*labels(tmp_path, *FAST), f"model.from={tmp_path / 't5'}", f"adapt.kind={kind}", "train.steps=3"]
    found = api.train("t5", said, tmp_path / "run")
    assert found["validation"]["accuracy"] >= 0
    before = folder.load(tmp_path / "t5" / "model").model.state_dict()
    after = folder.load(tmp_path / "run" / "model").model
    assert api.classify(tmp_path / "run", "a bad dog and a good cat")["label"] in ("good", "bad")
    kept = {name: x for name, x in after.base.state_dict().items() if name in before}
    assert len(kept) >= 3 and all(torch.equal(before[name], x) for name, x in kept.items())
