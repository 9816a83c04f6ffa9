"""The stage of encoders: hidden tokens of a text from all that is around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idiolect.data import masking as data
from idiolect.data.batch import Batch
from idiolect.data.batches import held_out
from idiolect.data.settings import MaskedTask
from idiolect.errors import UserError
from idiolect.evaluate.masked import fill_in, unigram
from idiolect.evaluate.score import ROWS, scoring
from idiolect.models.settings import EncoderSettings
from idiolect.recipes import next_token
from idiolect.recipes.settings import Recipe
from idiolect.recipes.stage import Stage
from idiolect.train import objectives


@dataclass(frozen=True)
class Masked(Stage):
    """The rows of next-token training with some tokens hidden; held-out text with always the same ones hidden."""

    text: next_token.NextToken
    """The text, split and encoded."""
    how: data.Masking

    @property
    def curves(self) -> tuple[str, ...]:
        """The held-out figures that are worth a curve."""
        return ("loss", "accuracy")

    @property
    def tokens(self) -> int:
        """Tokens of training text."""
        return self.text.tokens

    def batches(self) -> data.Masked:
        """Windows of the training text, other tokens hidden in every step."""
        return data.Masked(self.text.batches(), self.how)

    def objective(self) -> objectives.Objective:
        """The hidden tokens' cross-entropy."""
        return objectives.masked

    def held(self, tokens: int | None = None) -> Iterator[Batch]:
        """The first `tokens` tokens of the held-out text, or all of it."""
        assert isinstance(self.recipe.model, EncoderSettings)
        context = self.recipe.model.context
        marks = {"begin_id": self.tokenizer.begin_id, "end_id": self.tokenizer.end_id, "pad_id": self.tokenizer.pad_id}
        rows = max(1, ROWS // context)
        return data.held_out_masks(
            held_out(self.text.held, context=context, rows=rows, limit_tokens=tokens, **marks), self.how
        )

    def score(self, model: Any, tokens: int | None = None) -> dict[str, Any]:
        """The figures of `evaluate.masked.Filled`; there are no perplexity and no bits per byte."""
        return fill_in(model, self.held(tokens), self.how.mask_id).json()

    def baselines(self) -> dict[str, dict[str, Any]]:
        """The guess that knows only how often each token comes in the training text."""
        seen = sum(text.counts() for text in (self.text.train, *self.text.others))
        counts = np.where(self.how.content, seen, 0)
        return {"unigram": unigram(counts, self.held(), self.how.mask_id).json()}

    def replay_offer(self) -> str:
        """As of next tokens."""
        return self.text.replay_offer()

    def sample(self, model: Any, seed: int) -> str:
        """The beginning of the held-out text, with the model's guess in brackets wherever a token is hidden."""
        batch = next(self.held(self.recipe.sample.tokens))
        ids = batch.ids[0, : None if batch.lengths is None else int(batch.lengths[0])]
        with scoring(model) as device:
            guesses = model.head(model.transform(model.body(ids[None].to(device))))[0].argmax(-1).tolist()
        pieces = self.tokenizer.pieces(ids.tolist())
        for t in (ids == self.how.mask_id).nonzero().flatten().tolist():
            guess = self.tokenizer.pieces([guesses[t]])[0]
            pieces[t] = f"{' ' * guess.startswith(' ')}[{guess.strip()}]"
        shown = [piece for piece, id_ in zip(pieces, ids.tolist()) if id_ == self.how.mask_id or self.how.content[id_]]
        between = " " if self.tokenizer.token_bytes() is None else ""  # pieces of lossless tokenizers hold the spaces
        return between.join(shown)


def prepare(recipe: Recipe, folder: Path) -> Masked:
    """Text and tokenizer as for next tokens; a tokenizer without a mask gets one, unless a model knows its ids."""
    task = recipe.doing
    assert isinstance(task, MaskedTask) and isinstance(recipe.model, EncoderSettings)
    if recipe.model.head == "none":
        raise UserError("model.head = none has nothing to fill in with", "set model.head to plain or transform")
    text = next_token.prepare(recipe, folder, mask=recipe.model.from_ is None)
    how = data.masking(text.tokenizer, task.share, task.whole_words)
    return Masked(recipe, text.tokenizer, text.fingerprints, text.corpus, text, how)
