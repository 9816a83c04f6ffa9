"""The verb evaluate on tasks: labels and pairs, prompted and tuned."""

import json

import pytest
import torch

from idiolect import api
from idiolect.adapt.heads import attach
from idiolect.adapt.settings import LabelledSettings
from idiolect.decode.choices import choices
from idiolect.decode.settings import ChatSettings, DecodeSettings
from idiolect.errors import UserError
from idiolect.evaluate.overlap import exact_match, rouge
from idiolect.evaluate.settings import TaskEvaluation
from idiolect.evaluate.tasks import evaluate_task
from idiolect.interop import folder
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, EncoderDecoderSettings, EncoderSettings
from idiolect.prompt.few_shot import LABELS, draw
from idiolect.tokens.chat import BUILT_IN
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

SHAPES = {
    "decoder": DecoderSettings(layers=1, heads=2, width=16, context=301),
    "t5": EncoderDecoderSettings(layers=1, heads=2, width=16, context=43, source_context=301),
    "encoder": EncoderSettings(layers=1, heads=2, width=16, context=301),
}
ROWS = [{"text": f"film {i}", "label": "xyz"[i % 3], "source": f"{i} a", "target": f"{i % 2}"} for i in range(11)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    base = tmp_path_factory.mktemp("tasks")
    (base / "test.jsonl").write_text("\n".join(map(json.dumps, ROWS[:7])))
    (base / "shown.jsonl").write_text("\n".join(map(json.dumps, ROWS[7:])))
    tokenizer = train(["film"], TokenizerSettings(kind="byte"))
    for name, shape in SHAPES.items():
        folder.save(
            base / name, build(shape, tokenizer.size, seed=3).eval(), tokenizer, {"recipe": '[task]\nprefix = "p"'}
        )
    return base, tokenizer


def test_a_guess_is_the_likeliest_label_after_the_examples(made):
    base, tokenizer = made
    model = folder.load(base / "decoder").model
    asked = TaskEvaluation(task="labels", shots=(0, 2), examples=base / "shown.jsonl", seed=5)
    found = evaluate_task([base / "decoder"], base / "test.jsonl", asked)["rows"]
    shown = draw([(row["text"], row["label"]) for row in ROWS[7:]], 2, 5)
    lead = "".join(LABELS.filled(*example) + "\n\n" for example in shown)
    for row, before in zip(found, ("", lead), strict=False):
        right = 0
        for example in ROWS[:7]:
            (answers,) = choices(model, tokenizer, [(f"{before}Text: {example['text']}\nLabel: ", "")], ["x", "y", "z"])
            right += "xyz"[max(range(3), key=lambda i: answers[i].logprob)] == example["label"]
        assert row["accuracy"] == pytest.approx(right / 7)
    assert found[1]["prompt_tokens"] == pytest.approx(found[0]["prompt_tokens"] + len(lead))
    assert found[2]["accuracy"] == pytest.approx(sum(r["label"] == _usual() for r in ROWS[:7]) / 7)


def _usual():
    labels = [row["label"] for row in ROWS[7:]]
    return max(dict.fromkeys(labels), key=labels.count)


def test_answers_are_written_up_to_the_end_of_their_line_and_measured(made):
    base, _ = made
    asked = TaskEvaluation(task="pairs", answer_tokens=5, limit=3, template="{source} -> {target}")
    (row,) = evaluate_task([base / "decoder"], base / "test.jsonl", asked)["rows"]
    settings = DecodeSettings(temperature=0.0, max_tokens=5, stop=("\n",))
    written = [api.generate(base / "decoder", f"{r['source']} -> ", settings)["text"].strip() for r in ROWS[:3]]
    references = [[r["target"]] for r in ROWS[:3]]
    expected = exact_match(written, references) | rouge(written, references)
    assert {key: row[key] for key in expected} == expected and row["shots"] == 0


def test_an_encoder_decoder_answers_the_source_as_it_was_trained_to(made):
    base, _ = made
    asked = TaskEvaluation(
        task="pairs", shots=(0, 1), examples=base / "shown.jsonl", answer_tokens=4, metrics=("rouge",)
    )
    (row,) = evaluate_task([base / "t5"], base / "test.jsonl", asked)["rows"]
    settings = DecodeSettings(temperature=0.0, max_tokens=4)
    written = [api.translate(base / "t5", "p" + r["source"], settings)["text"].strip() for r in ROWS[:7]]
    assert row["rougeL"] == rouge(written, [[r["target"]] for r in ROWS[:7]])["rougeL"] and row["shots"] is None


def test_texts_that_are_too_long_count_as_wrong_and_are_counted(made, tmp_path):
    base, tokenizer = made
    rows = [{"text": text, "label": "x", "source": text, "target": "x"} for text in ("short", "long " * 80, "brief")]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, [*rows, {**rows[0], "label": "y"}])))
    head = LabelledSettings(base=SHAPES["decoder"], labels=("x", "y"), pool="last")
    model = attach(build(SHAPES["decoder"], tokenizer.size), head, seed=1)[0]
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([1.0, 0.0])  # always x
    folder.save(tmp_path / "head", model, tokenizer, {})
    for name, task in [
        ("head", "labels"),
        ("decoder", "labels"),
        ("t5", "labels"),
        ("decoder", "pairs"),
        ("t5", "pairs"),
    ]:
        where = tmp_path / name if name == "head" else base / name
        found = evaluate_task([where], tmp_path / "test.jsonl", TaskEvaluation(task=task, answer_tokens=3))
        assert found["notes"] == [f"{where}: 1 of 4 texts are longer than it reads and count as answered wrongly"]
        if name == "head":
            assert found["rows"][0]["accuracy"] == 0.5


@pytest.fixture(scope="module")
def talking(made):
    """A decoder whose folder has a chat template, which needs no tokens of its own."""
    base, _ = made
    tokenizer = train(["film"], TokenizerSettings(kind="byte"))
    tokenizer.templates = {"default": BUILT_IN["turns"]}
    model = build(SHAPES["decoder"], tokenizer.size, seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20)  # so that what it writes depends on what it reads
    folder.save(base / "talking", model, tokenizer, {})
    return base, tokenizer


def test_a_model_with_a_chat_template_is_asked_by_it_and_answers_as_in_a_chat(talking):
    """An answer is what `chat` says to the source, and the references are what it says in one."""
    base, _ = talking
    settings = ChatSettings(temperature=0.0, max_tokens=5)
    said = [api.chat(base / "talking", row["source"], settings)["text"].strip() for row in ROWS[:3]]
    assert all(said) and len(set(said)) == 3
    rows = [{"source": row["source"], "target": text} for row, text in zip(ROWS, said, strict=False)]
    (base / "said.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = TaskEvaluation(task="pairs", answer_tokens=5, metrics=("exact_match",))
    (row,) = evaluate_task([base / "talking"], base / "said.jsonl", asked)["rows"]
    assert row["exact_match"] == 1.0
    plain = asked.model_copy(update={"chat": False})
    (other,) = evaluate_task([base / "talking"], base / "said.jsonl", plain)["rows"]
    assert other["exact_match"] == 0.0


def test_labels_are_compared_as_answers_in_a_chat_with_the_examples_as_earlier_turns(talking):
    base, tokenizer = talking
    model = folder.load(base / "talking").model
    asked = TaskEvaluation(task="labels", shots=(2,), examples=base / "shown.jsonl", seed=5)
    row = evaluate_task([base / "talking"], base / "test.jsonl", asked)["rows"][0]
    shown = draw([(row["text"], row["label"]) for row in ROWS[7:]], 2, 5)
    lead = "".join(f"User: Text: {text}\nLabel:\nAssistant:\n{label}<|endoftext|>\n" for text, label in shown)
    right = 0
    for example in ROWS[:7]:
        prompt = f"{lead}User: Text: {example['text']}\nLabel:\nAssistant:\n"
        ids = [tokenizer.begin_id]
        for i, part in enumerate(prompt.split("<|endoftext|>")):
            ids += [tokenizer.end_id] * (i > 0) + tokenizer.encode(part)
        logs = []
        for label in "xyz":
            full = torch.tensor([[*ids, *tokenizer.encode(label), tokenizer.end_id]])
            logs.append(float(model.score(full)[0, len(ids) :].sum()))
        right += "xyz"[max(range(3), key=logs.__getitem__)] == example["label"]
        assert row["prompt_tokens"] == len(ids)  # all of one length
    assert row["accuracy"] == pytest.approx(right / 7)
    found = api.classify(base / "talking", "film 0", labels=("x", "y"), examples=base / "shown.jsonl", shots=2, seed=5)
    assert found["prompt_tokens"] == len(ids)
    full = [torch.tensor([[*ids, *tokenizer.encode(label), tokenizer.end_id]]) for label in "xy"]
    expected = {label: float(model.score(one)[0, len(ids) :].sum()) for label, one in zip("xy", full, strict=True)}
    asked_of = api.classify(
        base / "talking", "film 6", labels=("x", "y"), examples=base / "shown.jsonl", shots=2, seed=5
    )
    assert asked_of["logprobs"] == pytest.approx(expected, abs=1e-4)


def test_what_cannot_be_asked_is_refused(made):
    base, _ = made
    for model, asked, problem in [
        ("decoder", TaskEvaluation(task="labels", shots=(1,)), "no examples to show"),
        ("decoder", TaskEvaluation(task="labels", shots=(5,), examples=base / "shown.jsonl"), "there are 4"),
        ("decoder", TaskEvaluation(task="labels", template="{text}"), "does not have"),
        ("encoder", TaskEvaluation(task="labels"), "cannot continue a text"),
        ("decoder", TaskEvaluation(task="pairs", fields=("a", "b")), "test.jsonl"),
    ]:
        with pytest.raises(UserError, match=problem):
            evaluate_task([base / model], base / "test.jsonl", asked)
