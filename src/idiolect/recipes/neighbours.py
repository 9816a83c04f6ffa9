"""The stage of word vectors: a word from the words around it, or they from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from idiolect import seeds
from idiolect.data import neighbours as data
from idiolect.data.shards import Shards
from idiolect.decode.neighbours import most_similar, unit
from idiolect.errors import UserError
from idiolect.evaluate.score import finite, perplexity, summed
from idiolect.models.settings import CbowSettings
from idiolect.recipes import next_token
from idiolect.recipes.settings import Recipe
from idiolect.recipes.stage import Stage
from idiolect.train import objectives

PLACES = 1 << 12
"""Places of held-out text scored at once."""
SHOWN, NEAREST = 8, 6
"""Words of a sample, and the neighbours of each."""


@dataclass(frozen=True)
class Neighbours(Stage):
    """Batches of `data.neighbours`, held-out places by the same loss."""

    train: Shards
    held: Shards
    counts: np.ndarray
    """How often each word occurs in the training text, int64 [V]."""

    @property
    def tokens(self) -> int:
        """Tokens of training text."""
        return self.train.tokens

    def batches(self) -> data.Neighbours:
        """Places of the training text."""
        model, train = self.recipe.model, self.recipe.train
        assert isinstance(model, CbowSettings)
        return data.Neighbours(
            self.train,
            inward=model.mode == "cbow",
            window=model.window,
            dynamic=model.dynamic_window,
            subsample=model.subsample,
            negatives=model.negatives if model.loss == "negative" else 0,
            places=train.batch_tokens,
            micro_batches=train.micro_batches,
            seed=train.seed,
            counts=self.counts,
            pad_id=self.tokenizer.pad_id,
        )

    def objective(self) -> objectives.Objective:
        """Negative sampling, or the softmax over all words."""
        return objectives.neighbours

    def score(self, model: Any, tokens: int | None = None) -> dict[str, Any]:
        """The loss of held-out places, whole windows and every word; with the softmax also the perplexity.

        A perplexity of words given those around them is not one of the text, so there are no bits per byte.
        """
        held = replace(self.batches(), shards=self.held, subsample=0.0, dynamic=False)
        places = np.arange(min(tokens or self.held.tokens, self.held.tokens))
        batches = (
            held.batch(places[first : first + PLACES], seeds.numpy_generator(0, "held-out", first))
            for first in range(0, len(places), PLACES)
        )
        nats, labels = summed(model, batches, objectives.neighbours)
        if not labels:
            raise UserError("the held-out text has no words with words around them", "hold out a larger share")
        sampled = held.negatives > 0
        return {
            "loss": nats / labels,
            "perplexity": None if sampled else finite(perplexity(nats, labels)),
            "bits_per_byte": None,
            "tokens": labels,
            "reason": "negative sampling gives no probabilities"
            if sampled
            else "words are read with what follows them",
        }

    def sample(self, model: Any, seed: int) -> str:
        """The words nearest to those of the recipe's prompt, or to some from the frequent to the rare."""
        asked = self.tokenizer.encode(self.recipe.sample.prompt)
        order = np.argsort(-self.counts, kind="stable")[: int((self.counts > 0).sum())]
        some = np.unique(np.geomspace(1, len(order), SHOWN).astype(int) - 1)
        vectors = unit(model.embedding.weight).cpu()
        lines = []
        for word in asked or order[some].tolist():
            near = most_similar(vectors, self.tokenizer, {word: 1.0}, NEAREST)
            lines.append(f"{self.tokenizer.pieces([word])[0]}: {', '.join(piece for piece, _ in near)}")
        return "\n".join(lines)


def prepare(recipe: Recipe, folder: Path) -> Stage:
    """Text and tokenizer as for next tokens, which is what a left_only model is trained on."""
    text = next_token.prepare(recipe, folder)
    assert isinstance(recipe.model, CbowSettings)
    if recipe.model.left_only:
        return text
    counts = np.where(text.tokenizer.content, text.train.counts(), 0)
    if (counts > 0).sum() < 2:
        raise UserError("the training text has no two words that the tokenizer knows", "use more text")
    return Neighbours(recipe, text.tokenizer, text.fingerprints, text.corpus, text.train, text.held, counts)
