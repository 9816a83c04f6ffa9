"""The stage of models that give labels: of texts, or of each word of a sentence.

n examples, B rows, T positions, C labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from idiolect.adapt.heads import attach, frame
from idiolect.adapt.settings import Bodies, LabelledSettings
from idiolect.data.batch import IGNORE, Batch
from idiolect.data.examples import Pooled, Ragged, in_order, pooled
from idiolect.data.labels import Frame, encode_words
from idiolect.data.mixture import Mixture
from idiolect.data.padding import pad
from idiolect.data.settings import LabelsTask, NumbersTask, TagsTask
from idiolect.errors import UserError
from idiolect.evaluate.labels import accuracy, entity_f1, macro_f1
from idiolect.evaluate.score import scoring
from idiolect.interop.labels import hidden_of
from idiolect.recipes.prepare import fingerprints, mixture, say, split_examples, tokenizer_of
from idiolect.recipes.settings import Recipe
from idiolect.recipes.stage import Stage
from idiolect.text.several import Several
from idiolect.tokens.tokenizer import Tokenizer
from idiolect.train import objectives
from idiolect.train.crossentropy import cross_entropy

ROWS = 1 << 13
"""Positions of held-out examples scored at once."""
REASON = "labels are not text"
"""Why they have neither perplexity nor bits per byte."""


@dataclass(frozen=True)
class Marked:
    """n examples as ids, with what is to be said of them."""

    rows: Ragged
    """The ids of each, framed."""
    places: Ragged
    """Of words, the position in its row at which each one's tag is read; those that do not fit have none."""
    truth: Sequence[Sequence[str]]
    """The labels of each: one of a text, one for each word of a sentence."""


@dataclass(frozen=True)
class Labels(Stage):
    """Examples with labels; held-out ones in accuracy and F1."""

    head: LabelledSettings
    train: Marked
    held: Marked
    mixed: Mixture | None = None
    """Of the sources of the training examples, where they are weighed."""

    @property
    def settings(self) -> LabelledSettings:
        """Those of the model with its head."""
        return self.head

    @property
    def curves(self) -> tuple[str, ...]:
        """The held-out figures that are worth a curve."""
        return ("loss", "accuracy", "macro_f1" if self.head.each == "text" else "entity_f1")

    @property
    def tokens(self) -> int:
        """Tokens of training text."""
        return len(self.train.rows.ids)

    def whole(self) -> Any:
        """The body that the recipe describes or starts from, under a new head."""
        task = self.recipe.doing
        assert isinstance(task, LabelsTask | TagsTask | NumbersTask)
        model, report = attach(super().whole(), self.head, seed=self.recipe.train.seed, freeze=task.freeze_base)
        if self.recipe.adapt is None:
            what = f"{report.trainable:,} of {report.total:,} parameters are trained"
            say(f"head: {'a number' if self.head.each == 'number' else f'{len(self.head.labels)} labels'}; {what}")
        return model

    def layout(self, marked: Marked, some: np.ndarray) -> Batch:
        """Examples [B] → ids [B, T] with their lengths; labels [B] of texts, or [B, T] at the places of words."""
        examples, number = some.tolist(), {name: i for i, name in enumerate(self.head.labels)}
        ids, lengths = pad([marked.rows[i] for i in examples], self.tokenizer.pad_id)
        truth = [[number[name] for name in marked.truth[i]] for i in examples]
        if self.head.each == "text":
            return Batch(ids, torch.tensor(truth)[:, 0], lengths=lengths)
        labels = torch.full_like(ids, IGNORE)
        for row, i in enumerate(examples):
            places = marked.places[i].tolist()
            labels[row, places] = torch.tensor(truth[row][: len(places)])
        return Batch(ids, labels, lengths=lengths)

    def batches(self) -> Pooled:
        """Examples of about equal length together."""
        train = self.recipe.train
        return pooled(
            self.train.rows.lengths,
            partial(self.layout, self.train),
            batch_tokens=train.batch_tokens,
            micro_batches=train.micro_batches,
            seed=train.seed,
            mixture=self.mixed,
        )

    def objective(self) -> objectives.Objective:
        """The labels' cross-entropy."""
        return objectives.labels

    def score(self, model: Any, tokens: int | None = None) -> dict[str, Any]:
        """Loss, accuracy and F1 of the held-out examples; a word that does not fit is guessed to have the usual tag."""
        n = len(self.held.rows)
        if tokens is not None:  # whole examples, at least one
            n = max(1, int(np.searchsorted(self.held.rows.ends, tokens, side="right")) - 1)
        nats, labels, usual = 0.0, 0, self._counts().most_common(1)[0][0]
        guesses = [[usual] * len(names) for names in self.held.truth[:n]]
        with scoring(model) as device:
            for some in in_order(self.held.rows.lengths[:n], ROWS):
                batch = self.layout(self.held, some).to(device)
                logits = model.logits(model.body(batch.ids, batch.lengths), batch.lengths)
                nats, labels = nats + float(cross_entropy(logits, batch.labels)), labels + batch.count
                best = logits.argmax(-1).tolist()  # [B] or [B, T]
                for row, i in enumerate(some.tolist()):
                    found = [best[row]] if self.head.each == "text" else [best[row][t] for t in self.held.places[i]]
                    guesses[i][: len(found)] = [self.head.labels[label] for label in found]
        return self._figures(nats / labels, guesses)

    def replay_offer(self) -> str:
        """As in every stage; a head can learn alone."""
        if self.recipe.adapt is not None:
            return super().replay_offer()
        return f"task.freeze_base=true, which learns the head alone; {super().replay_offer()}"

    def _counts(self) -> Counter[str]:
        """How often each label occurs in training."""
        return Counter(name for names in self.train.truth for name in names)

    def _figures(self, loss: float, guesses: Sequence[Sequence[str]]) -> dict[str, Any]:
        """The figures of the first held-out examples, given the guesses for each."""
        truth = self.held.truth[: len(guesses)]
        true, guessed = ([name for names in some for name in names] for some in (truth, guesses))
        found = {"loss": loss, "perplexity": None, "bits_per_byte": None, "reason": REASON, "labels": len(true)}
        found["accuracy"] = accuracy(true, guessed)
        if self.head.each == "text":
            return found | {"macro_f1": macro_f1(true, guessed)}
        return found | {f"entity_{name}": figure for name, figure in entity_f1(truth, guesses).items()}

    def baselines(self) -> dict[str, dict[str, Any]]:
        """The label that is the most usual in training, whatever the text; its loss: each label as often as there.

        Each count is one more than it is, as a label may be missing in training.
        """
        counts = self._counts()
        usual, total = counts.most_common(1)[0][0], counts.total() + len(self.head.labels)
        truth = [name for names in self.held.truth for name in names]
        loss = sum(math.log(total / (counts[name] + 1)) for name in truth) / len(truth)
        return {"majority": self._figures(loss, [[usual] * len(names) for names in self.held.truth])}


def prepare(recipe: Recipe, folder: Path) -> Labels:
    """Splits the texts with their labels, learns or loads the tokenizer, encodes."""
    task = recipe.doing
    assert isinstance(task, LabelsTask)
    train, held = split_examples(recipe.data, (task.text, task.label))
    tokenizer = tokenizer_of(folder / "tokenizer", recipe.tokenizer, (row[task.text] for row in train))

    def mark(rows: Sequence[Any], around: Frame) -> Marked:
        encoded = tokenizer.encode_batch([row[task.text] for row in rows])
        cut = sum(around.room is not None and len(ids) > around.room for ids in encoded)
        if cut:
            say(f"{cut:,} texts are longer than the model's context and are cut")
        return Marked(Ragged.of(map(around.of, encoded)), Ragged.of([]), [[row[task.label]] for row in rows])

    return stage(recipe, task, tokenizer, (train, held), mark)


def prepare_tags(recipe: Recipe, folder: Path) -> Labels:
    """Splits the sentences with their tags, learns or loads the tokenizer, encodes."""
    task = recipe.doing
    assert isinstance(task, TagsTask)
    words, tags = f"{task.tokens}[]", f"{task.tags}[]"
    train, held = split_examples(recipe.data, (words, tags))
    tokenizer = tokenizer_of(folder / "tokenizer", recipe.tokenizer, (" ".join(row[words]) for row in train))
    last = _pool(recipe, task) == "last"

    def mark(rows: Sequence[Any], around: Frame) -> Marked:
        pieces = encode_words([row[words] for row in rows], tokenizer)
        found = [around.of_words(some, last=last) for some in pieces]
        cut = sum(len(row.places) < len(some) for row, some in zip(found, pieces, strict=True))
        if cut:
            say(f"{cut:,} sentences are longer than the model's context; words that do not fit are not read")
        ids, places = (Ragged.of(row[part] for row in found) for part in (0, 1))
        return Marked(ids, places, [row[tags] for row in rows])

    return stage(recipe, task, tokenizer, (train, held), mark)


def stage(
    recipe: Recipe,
    task: LabelsTask | TagsTask,
    tokenizer: Tokenizer,
    halves: tuple[Several, Several],
    mark: Callable[[Sequence[Any], Frame], Marked],
) -> Labels:
    """The stage of the examples that `mark` encodes. Raises UserError when all their labels are the same."""
    say(f"tokenizer: {tokenizer.kind}, {tokenizer.size:,} tokens")
    around = frame(head_of(recipe, ("0", "1")).base, tokenizer, recipe.prompt)
    train, held = (mark([row for row in half if all(row.values())], around) for half in halves)
    if not len(train.rows) or not len(held.rows):
        raise UserError("there are no examples to train on, or none held out", "give files with examples in them")
    names = sorted({name for marked in (train, held) for some in marked.truth for name in some})
    if len(names) < 2:
        raise UserError(f"all labels are {', '.join(names)}", "give examples of two labels or more")
    say(f"examples: {len(train.rows):,}, held out {len(held.rows):,}; labels: {', '.join(names)}")
    prints = fingerprints(recipe, halves[0].fingerprint, halves[1].fingerprint, tokenizer)
    sizes = [sum(all(row.values()) for row in part) for part in halves[0].parts]
    mixed = mixture(recipe.data, sizes, 0, recipe.train.seed) if len(sizes) > 1 else None
    return Labels(recipe, tokenizer, prints, halves[0], head_of(recipe, names), train, held, mixed)


def head_of(recipe: Recipe, names: Sequence[str]) -> LabelledSettings:
    """The settings of the recipe's model under a head for labels of these names."""
    task, base = recipe.doing, recipe.model
    assert isinstance(task, LabelsTask | TagsTask | NumbersTask) and isinstance(base, Bodies)
    each = EACH[task.kind]
    pool = _pool(recipe, task)
    hidden = hidden_of(base) if each != "word" and pool == "first" else "none"
    return LabelledSettings(base=base, labels=tuple(names), each=each, pool=pool, hidden=hidden, dropout=task.dropout)


EACH: dict[str, Literal["text", "word", "number"]] = {"labels": "text", "tags": "word", "numbers": "number"}
"""What has a label, by task."""


def _pool(recipe: Recipe, task: LabelsTask | TagsTask | NumbersTask) -> Literal["first", "last", "mean"]:
    """Where a label is read: as the recipe says, or as is usual for the family."""
    if task.pool is not None:
        return task.pool
    if recipe.model.kind == "encoder-decoder" and not isinstance(task, TagsTask):
        return "mean"
    return "first" if recipe.model.kind in ("encoder", "encoder-decoder") else "last"
