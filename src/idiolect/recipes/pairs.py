"""The stage of sequence-to-sequence models: a target text from a source text."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idiolect.data.batch import IGNORE, Batch, bits_per_byte
from idiolect.data.examples import Pooled, Ragged, in_order, pooled
from idiolect.data.mixture import Mixture
from idiolect.data.padding import pad
from idiolect.data.settings import AnswersTask, DataSettings, PairsTask
from idiolect.decode.settings import DecodeSettings
from idiolect.decode.translate import start_id, translate
from idiolect.errors import UserError
from idiolect.evaluate.overlap import METRICS
from idiolect.evaluate.score import finite, lossy, perplexity, summed
from idiolect.recipes.prepare import fingerprints, mixture, say, split_examples, tokenizer_of
from idiolect.recipes.settings import Recipe
from idiolect.recipes.stage import Stage
from idiolect.text.examples import Examples
from idiolect.text.several import Several
from idiolect.tokens.tokenizer import Tokenizer
from idiolect.train import objectives

AT_ONCE = 4096
"""Pairs encoded at once."""
ROWS = 1 << 13
"""Positions of held-out pairs scored at once."""


@dataclass(frozen=True)
class Encoded:
    """n pairs as ids, each source and each target with the end-of-text after it."""

    sources: Ragged
    targets: Ragged
    bytes: np.ndarray
    """UTF-8 bytes of each target, int64 [n]."""

    @property
    def lengths(self) -> np.ndarray:
        """Positions that a pair takes, int64 [n]."""
        return self.sources.lengths + self.targets.lengths


@dataclass(frozen=True)
class Pairs(Stage):
    """Sources read whole, targets written token by token; held-out targets in bits per byte."""

    train: Encoded
    held: Encoded
    held_texts: list[tuple[str, str]]
    """The held-out pairs."""
    mixed: Mixture | None = None
    """Of the sources of the training pairs, where they are weighed."""

    def __post_init__(self) -> None:
        """Raises UserError when the library of a metric is missing: now, not after the training."""
        _ = self.curves

    @property
    def curves(self) -> tuple[str, ...]:
        """As every stage's, and the figures of the answers."""
        task = self.recipe.doing
        assert isinstance(task, AnswersTask)
        return *super().curves, *(key for metric in task.metrics for key in METRICS[metric](["a"], [["a"]]))

    @property
    def tokens(self) -> int:
        """Positions of all sources and targets to train on."""
        return int(self.train.lengths.sum())

    def source(self, pairs: Encoded, i: int) -> Tensor:
        """One source, as the model reads it: int64 [S]."""
        return torch.from_numpy(pairs.sources[i].astype(np.int64))

    def read(self, pairs: Encoded, examples: np.ndarray) -> tuple[Tensor, Tensor]:
        """The sources of examples [B], padded: int64 [B, S], and their lengths [B]."""
        return pad([pairs.sources[i] for i in examples.tolist()], self.tokenizer.pad_id)

    def layout(self, pairs: Encoded, examples: np.ndarray) -> Batch:
        """Examples [B] → sources [B, S]; ids [B, T], which begin as a text does, and labels, which end as one does."""
        tokenizer = self.tokenizer
        start = start_id(self.recipe.model, tokenizer)
        targets = [pairs.targets[i] for i in examples.tolist()]
        source, lengths = self.read(pairs, examples)
        ids, _ = pad([np.concatenate([[start], row[:-1]]) for row in targets], tokenizer.pad_id)
        labels, _ = pad(targets, IGNORE)
        return Batch(ids, labels, source=source, source_lengths=lengths)

    def batches(self) -> Pooled:
        """Pairs of about equal length together."""
        train = self.recipe.train
        return pooled(
            self.train.lengths,
            partial(self.layout, self.train),
            batch_tokens=train.batch_tokens,
            micro_batches=train.micro_batches,
            seed=train.seed,
            mixture=self.mixed,
        )

    def objective(self) -> objectives.Objective:
        """The next token's cross-entropy, given the source."""
        widths = self.tokenizer.token_bytes()
        return partial(objectives.translate, token_bytes=None if widths is None else torch.as_tensor(widths))

    def score(self, model: Any, tokens: int | None = None) -> dict[str, Any]:
        """Loss, perplexity and bits per byte of the held-out targets, each given its source.

        Over all of them, the task's metrics too, of what the model answers the first of their sources.
        """
        n = len(self.held.targets)
        if tokens is not None:  # whole pairs, at least one
            n = max(1, int(np.searchsorted(self.held.targets.ends, tokens, side="right")) - 1)
        batches = (self.layout(self.held, group) for group in in_order(self.held.lengths[:n], ROWS))
        nats, labels = summed(model, batches, objectives.translate)
        figures = self._figures(nats, labels, int(self.held.bytes[:n].sum()))
        return figures if tokens is not None else figures | self._answered(model)

    def _answered(self, model: Any) -> dict[str, Any]:
        task = self.recipe.doing
        assert isinstance(task, AnswersTask)
        some = self.held_texts[: task.answers]
        if not some or not task.metrics:
            return {}
        sources = [self.source(self.held, i) for i in range(len(some))]
        settings = DecodeSettings(temperature=0.0, max_tokens=model.context)
        written = [answer.text for answer in translate(model, self.tokenizer, sources, settings)]
        found: dict[str, Any] = {"answers": len(some)}
        for metric in task.metrics:
            found |= METRICS[metric](written, [[target] for _, target in some])
        return found

    def _figures(self, nats: float, labels: int, bytes_: int) -> dict[str, Any]:
        reason = lossy(self.tokenizer)
        found = {
            "loss": nats / labels,
            "perplexity": perplexity(nats, labels),
            "bits_per_byte": None if reason else bits_per_byte(nats, bytes_),
            "tokens": labels,
            "bytes": bytes_,
            "reason": reason,
        }
        return {key: finite(value) for key, value in found.items()}

    def baselines(self) -> dict[str, dict[str, Any]]:
        """Target tokens as often as in the training targets (each count plus one), whatever the source says."""
        V, held = self.tokenizer.size, self.held.targets.ids
        seen = np.bincount(self.train.targets.ids, minlength=V)
        nats = len(held) * math.log(seen.sum() + V) - float(np.log(seen[held] + 1).sum())
        return {"unigram": self._figures(nats, len(held), int(self.held.bytes.sum()))}

    def sample(self, model: Any, seed: int) -> str:
        """What the model answers one of the held-out sources, which the seed chooses."""
        asked, i = self.recipe.sample, seed % len(self.held_texts)
        settings = DecodeSettings(max_tokens=asked.tokens, temperature=asked.temperature, seed=seed)
        (written,) = translate(model, self.tokenizer, [self.source(self.held, i)], settings)
        return f"{self.held_texts[i][0]}\n→ {written.text}\n  (held out: {self.held_texts[i][1]})"


FIELD = re.compile(r"\{([^{}]+)\}")
"""A field in a source that is made of several."""


def texts(pairs: Iterable[Mapping[str, str]], task: PairsTask) -> Iterator[tuple[str, str]]:
    """Each example's source and target."""
    made = FIELD.search(task.source)
    for pair in pairs:
        yield task.prefix + (_filled(task.source, pair) if made else pair[task.source]), pair[task.target]


def _filled(pattern: str, pair: Mapping[str, str]) -> str:
    return FIELD.sub(lambda found: pair[found[1]], pattern)


def split(data: DataSettings, task: PairsTask) -> tuple[Several, Several]:
    """The pairs to train on, and the pairs held out. Raises UserError when either is empty."""
    fields = (*dict.fromkeys(FIELD.findall(task.source) or [task.source]), task.target)
    if task.targets and len(fields) > 2:
        what = f"lines of plain text are one field, and task.source names {', '.join(fields[:-1])}"
        raise UserError(what, "name one field, or give jsonl, parquet, csv or tsv without task.targets")
    if not isinstance(data.validation, float) and bool(task.targets) != (task.validation_targets is not None):
        what = "of task.targets and task.validation_targets only one is given"
        raise UserError(what, "name the plain text file with the targets of data.validation, or leave both out")
    if not task.targets:
        return split_examples(data, fields)
    if data.weights is not None:
        raise UserError("data.weights is for files with both fields", "give jsonl, parquet, csv or tsv")
    train = Examples(data.train, fields, task.targets)
    if isinstance(data.validation, float):
        own, out = train.split(data.validation)
        return Several((own,)), Several((out,))
    assert task.validation_targets is not None
    return Several((train,)), Several((Examples((data.validation,), fields, (task.validation_targets,)),))


def prepare(recipe: Recipe, folder: Path) -> Pairs:
    """Splits the pairs, learns or loads the one tokenizer of both sides, encodes."""
    task = recipe.doing
    assert isinstance(task, PairsTask)
    train, held = split(recipe.data, task)
    tokenizer = tokenizer_of(folder / "tokenizer", recipe.tokenizer, itertools.chain.from_iterable(texts(train, task)))
    say(f"tokenizer: {tokenizer.kind}, {tokenizer.size:,} tokens")
    asked = list(texts(held, task))
    encoded, held_encoded = (encode(side, tokenizer, recipe.reads) for side in (texts(train, task), asked))
    say(f"pairs: {len(encoded.sources):,}, {len(encoded.targets.ids):,} target tokens; held out {len(asked):,} pairs")
    prints = fingerprints(recipe, train.fingerprint, held.fingerprint, tokenizer)
    sizes = [sum(1 for _ in part) for part in train.parts] if len(train.parts) > 1 else []
    mixed = mixture(recipe.data, sizes, 0, recipe.train.seed) if sizes else None
    return Pairs(recipe, tokenizer, prints, train, encoded, held_encoded, asked, mixed)


def encode(pairs: Iterable[tuple[str, str]], tokenizer: Tokenizer, model: Any) -> Encoded:
    """The pairs as ids; a text longer than the model reads or writes is cut before its end-of-text, and counted."""
    most = (model.longest_source, model.context)
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    sizes: list[int] = []
    cut, rest = 0, iter(pairs)
    while some := list(itertools.islice(rest, AT_ONCE)):
        sizes += [len(target.encode("utf-8")) for _, target in some]
        for side, column, limit in zip(sides, zip(*some), most):
            for ids in tokenizer.encode_batch(column):
                kept = ids if limit is None else ids[: limit - 1]
                cut += len(kept) < len(ids)
                side.append(np.append(kept.astype(np.int32), np.int32(tokenizer.end_id)))
    if cut:
        say(f"{cut:,} texts are longer than the model's context and are cut")
    return Encoded(Ragged.of(sides[0]), Ragged.of(sides[1]), np.array(sizes, dtype=np.int64))
