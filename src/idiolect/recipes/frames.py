"""The stage of models that read no text: a target text from a sequence of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idiolect.data import frames
from idiolect.data.examples import Ragged
from idiolect.data.settings import FramesTask
from idiolect.errors import UserError
from idiolect.recipes.pairs import Encoded, Pairs, encode
from idiolect.recipes.prepare import fingerprints, say, tokenizer_of
from idiolect.recipes.settings import Recipe
from idiolect.text.passport import Listed
from idiolect.text.several import Several
from idiolect.tokens.tokenizer import Tokenizer

Example = tuple[np.ndarray, str]
"""Frames float32 [S, F], and the text that belongs to them."""


@dataclass(frozen=True)
class Frames(Pairs):
    """As pairs, but for what is read."""

    def source(self, pairs: Encoded, i: int) -> Tensor:
        """One source: float32 [S, F]."""
        return torch.from_numpy(pairs.sources[i])

    def read(self, pairs: Encoded, examples: np.ndarray) -> tuple[Tensor, Tensor]:
        """The sources of examples [B], padded: float32 [B, S, F], and their lengths [B]."""
        return frames.pad([pairs.sources[i] for i in examples.tolist()])


def prepare(recipe: Recipe, folder: Path) -> Frames:
    """Reads and splits the examples, learns or loads the tokenizer of the texts.

    Raises UserError for what is wrong with any of them, and when frames are not as wide as the model's.
    """
    task = recipe.doing
    assert isinstance(task, FramesTask)
    rows = list(frames.rows(recipe.data.train, task.frames, task.target))
    train: list[Example] = [(source, text) for _, source, text in rows]
    if isinstance(recipe.data.validation, float):
        cut = int(len(train) * (1 - recipe.data.validation))
        train, held = train[:cut], train[cut:]
    else:
        held = list(frames.read([recipe.data.validation], task.frames, task.target))
    if not train or not held:
        raise UserError("there are no examples to learn from, or none held out", "give more, or another share")
    for part in (train, held):
        _check(recipe.source_features, part[0][0].shape[1])
    tokenizer = tokenizer_of(folder / "tokenizer", recipe.tokenizer, (text for _, text in train))
    say(f"tokenizer: {tokenizer.kind}, {tokenizer.size:,} tokens")
    say(f"examples: {len(train):,}, {sum(len(source) for source, _ in train):,} frames; held out {len(held):,}")
    texts = [(f"{len(source)} frames", text) for source, text in held]
    prints = fingerprints(recipe, frames.fingerprint(train), frames.fingerprint(held), tokenizer)
    encoded, held_encoded = (_encoded(part, tokenizer, recipe.reads) for part in (train, held))
    corpus = Several((Listed(prints["data.train"], tuple(passport for passport, *_ in rows[: len(train)])),))
    return Frames(recipe, tokenizer, prints, corpus, encoded, held_encoded, texts)


def _check(expected: int | None, width: int) -> None:
    """Raises UserError unless the model reads frames of that width."""
    if expected != width:
        what = f"frames have {width} numbers, and the model reads {'text' if expected is None else expected}"
        raise UserError(what, f"set model.source_features={width}")


def _encoded(examples: Sequence[Example], tokenizer: Tokenizer, model: Any) -> Encoded:
    """Texts as ids, and frames end to end, those past the longest source of the model left out."""
    sources = [source[: model.longest_source] for source, _ in examples]
    if cut := sum(len(short) < len(source) for short, (source, _) in zip(sources, examples)):
        say(f"{cut:,} sources are longer than the model reads and are cut")
    ends = np.cumsum([0, *map(len, sources)], dtype=np.int64)
    of_texts = encode([("", text) for _, text in examples], tokenizer, model)
    return replace(of_texts, sources=Ragged(np.concatenate(sources), ends))
