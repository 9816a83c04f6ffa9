"""The stage of models that give a number: of a text, or of two.

n examples, B rows, T positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from idiolect.adapt.heads import frame
from idiolect.data.batch import Batch
from idiolect.data.examples import Ragged, in_order
from idiolect.data.labels import joined
from idiolect.data.padding import pad
from idiolect.data.settings import NumbersTask
from idiolect.errors import UserError
from idiolect.evaluate.numbers import mean_squared_error, pearson, spearman
from idiolect.evaluate.score import scoring
from idiolect.recipes.labels import ROWS, Labels, Marked, head_of
from idiolect.recipes.prepare import fingerprints, mixture, say, split_examples, tokenizer_of
from idiolect.recipes.settings import Recipe
from idiolect.tokens.tokenizer import Tokenizer
from idiolect.train import objectives

REASON = "numbers are not text"
"""Why they have neither perplexity nor bits per byte."""


@dataclass(frozen=True)
class Numbers(Labels):
    """Examples with numbers; held-out ones in mean squared error and correlations.

    The loss is in squares of the training numbers' deviation, so that 1 is what their mean alone would have.
    """

    targets: tuple[np.ndarray, np.ndarray] = (np.empty(0), np.empty(0))
    """The numbers of the training and of the held-out examples, float64 [n] each."""

    @property
    def curves(self) -> tuple[str, ...]:
        """The held-out figures that are worth a curve."""
        return ("loss", "mean_squared_error", "pearson", "spearman")

    def layout(self, marked: Marked, some: np.ndarray) -> Batch:
        """Examples [B] → ids [B, T] with their lengths; labels float32 [B], deviations above the mean."""
        ids, lengths = pad([marked.rows[i] for i in some.tolist()], self.tokenizer.pad_id)
        numbers = self.targets[0 if marked is self.train else 1][some]
        return Batch(ids, torch.from_numpy(self._outputs(numbers)), lengths=lengths)

    def _outputs(self, numbers: np.ndarray) -> np.ndarray:
        return ((numbers - self.head.mean) / self.head.deviation).astype(np.float32)

    def objective(self) -> objectives.Objective:
        """The squared distance."""
        return objectives.numbers

    def score(self, model: Any, tokens: int | None = None) -> dict[str, Any]:
        """Loss, mean squared error and correlations of the held-out examples."""
        n = len(self.held.rows)
        if tokens is not None:  # whole examples, at least one
            n = max(1, int(np.searchsorted(self.held.rows.ends, tokens, side="right")) - 1)
        outputs = np.zeros(n)
        with scoring(model) as device:
            for some in in_order(self.held.rows.lengths[:n], ROWS):
                batch = self.layout(self.held, some).to(device)
                found = model.logits(model.body(batch.ids, batch.lengths), batch.lengths)
                outputs[some] = found[:, 0].double().cpu().numpy()
        return self._numbers(outputs)

    def _numbers(self, outputs: np.ndarray) -> dict[str, Any]:
        """The figures of the first held-out examples, given the model's output for each."""
        truth: list[float] = self.targets[1][: len(outputs)].tolist()
        guess: list[float] = (self.head.mean + self.head.deviation * outputs).tolist()
        error = mean_squared_error(truth, guess)
        return {
            "loss": error / self.head.deviation**2,
            "perplexity": None,
            "bits_per_byte": None,
            "reason": REASON,
            "labels": len(truth),
            "mean_squared_error": error,
            "pearson": pearson(truth, guess),
            "spearman": spearman(truth, guess),
        }

    def baselines(self) -> dict[str, dict[str, Any]]:
        """The mean of the training numbers, whatever the text."""
        return {"mean": self._numbers(np.zeros(len(self.held.rows)))}


def prepare(recipe: Recipe, folder: Path) -> Numbers:
    """Splits the texts with their numbers, learns or loads the tokenizer, encodes. Raises UserError for no number."""
    task = recipe.doing
    assert isinstance(task, NumbersTask)
    fields = (task.text, *([] if task.other is None else [task.other]))
    halves = split_examples(recipe.data, (*fields, task.target))
    tokenizer = tokenizer_of(
        folder / "tokenizer", recipe.tokenizer, (row[field] for row in halves[0] for field in fields)
    )
    say(f"tokenizer: {tokenizer.kind}, {tokenizer.size:,} tokens")
    train, held = (list(half) for half in halves)
    if not train or not held:
        raise UserError("there are no examples to train on, or none held out", "give files with examples in them")
    numbers = tuple(np.array([_number(row[task.target], task.target) for row in rows]) for rows in (train, held))
    if numbers[0].std() == 0:
        raise UserError(f"all numbers are {numbers[0][0]:g}", "give examples of different numbers")
    head = head_of(recipe, (task.target,)).model_copy(
        update={"mean": float(numbers[0].mean()), "deviation": float(numbers[0].std())}
    )
    say(f"examples: {len(train):,}, held out {len(held):,}; {task.target} {head.mean:.4g} ± {head.deviation:.4g}")
    around = frame(head.base, tokenizer, recipe.prompt)
    marked = [
        Marked(Ragged.of(map(around.of, encode(rows, fields, tokenizer, around.room))), Ragged.of([]), [])
        for rows in (train, held)
    ]
    sizes = [sum(1 for _ in part) for part in halves[0].parts]
    mixed = mixture(recipe.data, sizes, 0, recipe.train.seed) if len(sizes) > 1 else None
    prints = fingerprints(recipe, halves[0].fingerprint, halves[1].fingerprint, tokenizer)
    return Numbers(recipe, tokenizer, prints, halves[0], head, marked[0], marked[1], mixed, (numbers[0], numbers[1]))


def encode(
    rows: Sequence[Mapping[str, str]], fields: Sequence[str], tokenizer: Tokenizer, room: int | None
) -> list[np.ndarray]:
    """The ids of each example's text or two texts, cut to the room; how many were is said."""
    columns = [tokenizer.encode_batch([row[field] for row in rows]) for field in fields]
    cut = sum(room is not None and sum(map(len, ids)) + len(ids) - 1 > room for ids in zip(*columns, strict=True))
    if cut:
        say(f"{cut:,} texts are longer than the model's context and are cut")
    if len(columns) == 1:
        return list(columns[0])
    return [joined(a, b, tokenizer.end_id, room) for a, b in zip(*columns, strict=True)]


def _number(text: str, field: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{text[:40]!r} in the field {field} is no number", "name the field with the numbers")
    return value
