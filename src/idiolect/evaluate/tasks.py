"""Models on one task with known answers, in one table: tuned ones beside ones that are prompted with k examples.

N test examples, k shots.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from idiolect.adapt.heads import Labelled
from idiolect.data.examples import in_order
from idiolect.decode.choices import By, choices
from idiolect.decode.classify import label_texts
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings, Precision
from idiolect.decode.translate import source_ids, translate
from idiolect.decode.verbs import language_model, load_with_tokenizer, reader
from idiolect.errors import UserError
from idiolect.evaluate.labels import accuracy, macro_f1
from idiolect.evaluate.overlap import METRICS
from idiolect.evaluate.settings import TaskEvaluation
from idiolect.interop.folder import Loaded
from idiolect.models.contract import SequenceToSequence
from idiolect.prompt import few_shot
from idiolect.prompt.few_shot import Form, Prompt
from idiolect.text.examples import Examples

AT_ONCE = 64
"""Prompts answered at once."""
FIELDS = {"labels": ("text", "label"), "pairs": ("source", "target")}
"""The fields of an example unless others are named, and what a template calls them."""

Example = tuple[str, str]
"""What is given, and the true answer."""


def evaluate_task(
    models: Sequence[Path | str], on: Path | str, asked: TaskEvaluation, precision: Precision = "stored"
) -> dict[str, Any]:
    """{"rows", "notes"}: for each model its figures on the test, one row for each number of shots.

    A model with a head for labels gives its own, and one that answers a source (an encoder-decoder, of pairs) answers
    it: one row without shots each. All others are prompted: of labels the likeliest name is the guess, of pairs the
    answer is written greedily. Labels are measured in accuracy and macro F1, pairs by the metrics asked for. Raises
    UserError for a model that can do neither, and for shots without a file of examples.
    """
    assert asked.task is not None
    fields = asked.fields or FIELDS[asked.task]
    test = _read(on, fields)[: asked.limit]
    pool = [] if asked.examples is None else _read(asked.examples, fields)
    if max(asked.shots) > 0 and not pool:
        raise UserError("there are no examples to show", "name the file with them: --examples FILE")
    form = Form(asked.template, *FIELDS[asked.task]) if asked.template else _FORMS[asked.task]
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for name in models:
        loaded = load_with_tokenizer(name, precision)
        for shots in _rows_of(loaded, asked):
            shown = few_shot.draw(pool, shots or 0, asked.seed)
            prompts: list[Prompt] = []
            found = _TASKS[asked.task](loaded, name, form, shown, test, asked, prompts)
            row: dict[str, Any] = {"model": str(name), "family": loaded.settings.kind, "shots": shots}
            rows.append(row | found | {"prompt_tokens": fmean(p.tokens for p in prompts) if prompts else None})
            notes += [f"{name}: {line}" for line in few_shot.warnings(shots or 0, prompts)]
    if asked.task == "labels":
        rows.append(_majority(pool or test, test))
    return {"rows": rows, "notes": list(dict.fromkeys(notes))}


def _read(path: Path | str, fields: tuple[str, str]) -> list[Example]:
    found = [(row[fields[0]], row[fields[1]]) for row in Examples((Path(path),), fields)]
    if not found:
        raise UserError(f"there are no examples in {path}", "check the file")
    return found


def _rows_of(loaded: Loaded, asked: TaskEvaluation) -> Sequence[int | None]:
    """The shots a model is asked with; None for one that needs no prompt."""
    answers = asked.task == "pairs" and isinstance(loaded.model, SequenceToSequence)
    return [None] if answers or isinstance(loaded.model, Labelled) else asked.shots


def _labels(
    loaded: Loaded,
    name: Path | str,
    form: Form,
    shown: Sequence[Example],
    test: Sequence[Example],
    asked: TaskEvaluation,
    prompts: list[Prompt],
) -> dict[str, float]:
    truth = [label for _, label in test]
    if isinstance(loaded.model, Labelled):
        guesses = _by_head(loaded.model, loaded.tokenizer, name, [text for text, _ in test], set(truth))
    else:
        names = sorted({label for _, label in (*test, *shown)})
        guesses = _by_names(loaded, name, form, shown, test, names, asked.by, prompts)
    return {"accuracy": accuracy(truth, guesses), "macro_f1": macro_f1(truth, guesses)}


def _by_head(model: Labelled, tokenizer: Any, name: Path | str, texts: Sequence[str], truth: set[str]) -> list[str]:
    if model.settings.each == "word" or not truth & set(model.settings.labels):
        what = f"{name} knows the labels {', '.join(model.settings.labels[:8])}, of which none is in the test"
        raise UserError(what, "name its own labels in the test, or leave it out")
    guesses = [""] * len(texts)
    for group in in_order(np.array([len(text) for text in texts]), 1 << 14):
        found = label_texts(model, tokenizer, [texts[i] for i in group])
        for i, one in zip(group.tolist(), found, strict=True):
            guesses[i] = one["label"]
    return guesses


def _by_names(
    loaded: Loaded,
    name: Path | str,
    form: Form,
    shown: Sequence[Example],
    test: Sequence[Example],
    names: Sequence[str],
    by: By,
    prompts: list[Prompt],
) -> list[str]:
    model, tokenizer = reader(loaded, name), loaded.tokenizer
    assert tokenizer is not None
    context, room = model.context, 0
    if isinstance(model, SequenceToSequence):
        context = model.settings.longest_source  # type: ignore[attr-defined]
    else:
        room = max(len(tokenizer.encode(label + form.sides("")[1])) for label in names)
    prompts += [few_shot.fitting(form, shown, text, tokenizer, context, room + 1) for text, _ in test]
    guesses = []
    for first in range(0, len(prompts), AT_ONCE):
        some = [(prompt.before, prompt.after) for prompt in prompts[first : first + AT_ONCE]]
        for row in choices(model, tokenizer, some, names):
            weights = [one.weight(by) for one in row]
            guesses.append(names[weights.index(max(weights))])
    return guesses


def _pairs(
    loaded: Loaded,
    name: Path | str,
    form: Form,
    shown: Sequence[Example],
    test: Sequence[Example],
    asked: TaskEvaluation,
    prompts: list[Prompt],
) -> dict[str, float]:
    tokenizer, written = loaded.tokenizer, []
    settings = DecodeSettings(temperature=0.0, max_tokens=asked.answer_tokens)
    if isinstance(loaded.model, SequenceToSequence):
        prefix = _prefix(loaded.lineage)
        sources = [source_ids(loaded.model, tokenizer, prefix + source) for source, _ in test]
        written = [answer.text for answer in translate(loaded.model, tokenizer, sources, settings)]
    else:
        model = language_model(loaded, name)
        prompts += [
            few_shot.fitting(form, shown, source, tokenizer, model.context, asked.answer_tokens) for source, _ in test
        ]
        settings = settings.model_copy(update={"stop": _stop(form, (*shown, *test))})
        for first in range(0, len(prompts), AT_ONCE):
            some = [prompt.before for prompt in prompts[first : first + AT_ONCE]]
            written += [answer.text for answer in complete(model, tokenizer, some, settings)]
    found: dict[str, float] = {}
    for metric in asked.metrics:
        found |= METRICS[metric]([text.strip() for text in written], [[target] for _, target in test])
    return found


def _stop(form: Form, known: Iterable[Example]) -> tuple[str, ...]:
    """Where an answer ends: with what the form has after it, else with its line, else before the next example."""
    after = form.sides("")[1]
    return (after or ("\n\n" if any("\n" in target for _, target in known) else "\n"),)


def _prefix(lineage: Mapping[str, Any]) -> str:
    """What the model was trained to find before every source."""
    task = tomllib.loads(str(lineage.get("recipe", ""))).get("task", {})
    return str(task.get("prefix", ""))


def _majority(known: Sequence[Example], test: Sequence[Example]) -> dict[str, Any]:
    """The row of the label that is the most usual among the examples, whatever the text."""
    usual = Counter(label for _, label in known).most_common(1)[0][0]
    truth = [label for _, label in test]
    figures = {"accuracy": accuracy(truth, [usual] * len(truth)), "macro_f1": macro_f1(truth, [usual] * len(truth))}
    return {"model": "majority", "family": "majority", "shots": None, **figures, "prompt_tokens": None}


_FORMS = {"labels": few_shot.LABELS, "pairs": few_shot.PAIRS}
_TASKS = {"labels": _labels, "pairs": _pairs}
