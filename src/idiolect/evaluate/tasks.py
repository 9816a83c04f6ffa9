"""Models on one task with known answers, in one table: tuned ones beside ones that are prompted with k examples.

N test examples, k shots.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from idiolect.adapt.heads import Labelled, frame
from idiolect.data.examples import in_order
from idiolect.decode.choices import choices, longest_reply, replies
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
from idiolect.prompt.few_shot import Example, Form, Prompt
from idiolect.text.examples import Examples
from idiolect.tokens import chat
from idiolect.tokens.chat import Chat

AT_ONCE = 64
"""Prompts answered at once."""
ROWS = 1 << 13
"""Positions of texts labelled at once."""
FIELDS = {"labels": ("text", "label"), "pairs": ("source", "target")}
"""The fields of an example unless others are named, and what a template calls them."""


@dataclass
class Asking:
    """One model asked on one test with some examples shown, and what came of it."""

    loaded: Loaded
    name: Path | str
    form: Form
    shown: Sequence[Example]
    test: Sequence[Example]
    asked: TaskEvaluation
    talk: Chat | None
    """The chat template that it is asked by, where it has one."""
    prompts: list[Prompt] = field(default_factory=list)
    missed: int = 0
    """Texts that are longer than the model reads, which count as answered wrongly."""

    def notes(self, shots: int) -> list[str]:
        """What is to be said of it."""
        said = few_shot.warnings(shots, self.prompts)
        if self.missed:
            what = "are longer than it reads and count as answered wrongly"
            said.append(f"{self.missed} of {len(self.test)} texts {what}")
        return [f"{self.name}: {line}" for line in said]


def evaluate_task(
    models: Sequence[Path | str], on: Path | str, asked: TaskEvaluation, precision: Precision = "stored"
) -> dict[str, Any]:
    """{"rows", "notes"}: for each model its figures on the test, one row for each number of shots.

    A model with a head for labels gives its own, and one that answers a source (an encoder-decoder, of pairs) answers
    it: one row without shots each. All others are prompted, by their chat template where they have one: of labels the
    likeliest name is the guess, of pairs the answer is written greedily. Labels are measured in accuracy and macro F1,
    pairs by the metrics asked for. Raises UserError for a model that can do neither, and for shots without a file of
    examples.
    """
    assert asked.task is not None
    fields = asked.fields or FIELDS[asked.task]
    test = _read(on, fields)[: asked.limit]
    pool = [] if asked.examples is None else _read(asked.examples, fields)
    if max(asked.shots) > 0 and not pool:
        raise UserError("there are no examples to show", "name the file with them: --examples FILE")
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for name in models:
        loaded = load_with_tokenizer(name, precision)
        assert loaded.tokenizer is not None
        talk = chat.own(loaded.tokenizer) if asked.chat else None
        form = _FORMS[asked.task, talk is not None]
        if asked.template:
            form = Form(asked.template, *FIELDS[asked.task])
        for shots in _rows_of(loaded, asked):
            one = Asking(loaded, name, form, few_shot.draw(pool, shots or 0, asked.seed), test, asked, talk)
            row: dict[str, Any] = {"model": str(name), "family": loaded.settings.kind, "shots": shots}
            row |= _TASKS[asked.task](one)
            rows.append(row | {"prompt_tokens": fmean(p.tokens for p in one.prompts) if one.prompts else None})
            notes += one.notes(shots or 0)
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


def _labels(one: Asking) -> dict[str, float]:
    truth = [label for _, label in one.test]
    guesses = _by_head(one) if isinstance(one.loaded.model, Labelled) else _by_names(one)
    return {"accuracy": accuracy(truth, guesses), "macro_f1": macro_f1(truth, guesses)}


def _by_head(one: Asking) -> list[str]:
    model, tokenizer = one.loaded.model, one.loaded.tokenizer
    assert isinstance(model, Labelled) and tokenizer is not None
    if model.settings.each != "text" or not {label for _, label in one.test} & set(model.settings.labels):
        what = f"{one.name} knows the labels {', '.join(model.settings.labels[:8])}, of which none is in the test"
        raise UserError(what, "name its own labels in the test, or leave it out")
    lengths = np.array([len(tokenizer.encode(text)) for text, _ in one.test])
    room = frame(model.settings.base, tokenizer, model.before).room
    short = np.flatnonzero(lengths <= (lengths.max() if room is None else room))
    one.missed, guesses = len(lengths) - len(short), [""] * len(lengths)
    for group in in_order(lengths[short], ROWS):
        some = short[group].tolist()
        for i, found in zip(some, label_texts(model, tokenizer, [one.test[i][0] for i in some]), strict=True):
            guesses[i] = found["label"]
    return guesses


def _by_names(one: Asking) -> list[str]:
    model, tokenizer = reader(one.loaded, one.name), one.loaded.tokenizer
    assert tokenizer is not None
    names = sorted({label for _, label in (*one.test, *one.shown)})
    context, room = model.context, max(len(tokenizer.encode(label + one.form.sides("")[1])) for label in names)
    if isinstance(model, SequenceToSequence):
        context, room, one.talk = model.settings.longest_source, 0, None  # type: ignore[attr-defined]
    if one.talk is not None:
        room = longest_reply(one.talk, names)
    some = _prompted(one, context, room + 1)
    guesses = [""] * len(one.test)
    for first in range(0, len(some), AT_ONCE):
        group = some[first : first + AT_ONCE]
        if one.talk is None:
            asked = [(one.prompts[i].before, one.prompts[i].after) for i in group]
            found = choices(model, tokenizer, asked, names)
        else:
            found = replies(model, one.talk, [one.prompts[i].messages for i in group], names)
        for i, row in zip(group, found, strict=True):
            weights = [choice.weight(one.asked.by) for choice in row]
            guesses[i] = names[weights.index(max(weights))]
    return guesses


def _prompted(one: Asking, context: int | None, room: int) -> list[int]:
    """Makes the prompts of all texts; returns those that leave so much room for an answer."""
    given, tokenizer = [text for text, _ in one.test], one.loaded.tokenizer
    one.prompts = [few_shot.fitting(one.form, one.shown, text, tokenizer, context, room, one.talk) for text in given]
    fit = [i for i, prompt in enumerate(one.prompts) if prompt.fits(room)]
    one.missed = len(given) - len(fit)
    return fit


def _pairs(one: Asking) -> dict[str, float]:
    tokenizer, model, written = one.loaded.tokenizer, one.loaded.model, [""] * len(one.test)
    settings = DecodeSettings(temperature=0.0, max_tokens=one.asked.answer_tokens)
    if isinstance(model, SequenceToSequence):
        read: Any = model.settings
        most: int | None = read.longest_source
        prefix = _prefix(one.loaded.lineage)
        lengths = [len(tokenizer.encode(prefix + source)) + 1 for source, _ in one.test]  # type: ignore[union-attr]
        some = [i for i, length in enumerate(lengths) if most is None or length <= most]
        one.missed = len(lengths) - len(some)
        sources = [source_ids(model, tokenizer, prefix + one.test[i][0]) for i in some]
        for i, answer in zip(some, translate(model, tokenizer, sources, settings) if some else [], strict=True):
            written[i] = answer.text
    else:
        speaking = language_model(one.loaded, one.name)
        some = _prompted(one, speaking.context, one.asked.answer_tokens)
        stops: dict[str, Any] = {"stop": _stop(one.form, (*one.shown, *one.test))}
        if one.talk is not None:
            stops = {"stop_tokens": one.talk.stops}
        settings = settings.model_copy(update=stops)
        for first in range(0, len(some), AT_ONCE):
            group = some[first : first + AT_ONCE]
            asked = [one.prompts[i].ids or one.prompts[i].before for i in group]
            answers = complete(speaking, tokenizer, asked, settings)
            for i, answer in zip(group, answers, strict=True):
                written[i] = answer.text
    found: dict[str, float] = {}
    for metric in one.asked.metrics:
        found |= METRICS[metric]([text.strip() for text in written], [[target] for _, target in one.test])
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


_FORMS = {
    ("labels", False): few_shot.LABELS,
    ("labels", True): few_shot.LABELS,
    ("pairs", False): few_shot.PAIRS,
    ("pairs", True): few_shot.REPLIES,
}
"""(task, whether it is asked in a chat) → how."""
_TASKS = {"labels": _labels, "pairs": _pairs}
