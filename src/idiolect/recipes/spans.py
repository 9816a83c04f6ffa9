"""The stage of T5: spans that were left out of a text, from what is around them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idiolect.data import spans as data
from idiolect.data.settings import SpansTask
from idiolect.decode.settings import DecodeSettings
from idiolect.decode.translate import start_id, translate
from idiolect.errors import UserError
from idiolect.evaluate.score import ROWS, finite, perplexity, summed
from idiolect.models.settings import EncoderDecoderSettings
from idiolect.recipes import next_token
from idiolect.recipes.settings import Recipe
from idiolect.recipes.stage import Stage
from idiolect.train import objectives


@dataclass(frozen=True)
class Spans(Stage):
    """Windows of a text less some spans as sources, these as targets; of held-out text always the same are left out."""

    text: next_token.NextToken
    """The text, split and encoded."""
    how: data.Corruption
    length: int
    """Tokens of a window."""

    @property
    def curves(self) -> tuple[str, ...]:
        """The held-out figures that are worth a curve."""
        return ("loss", "perplexity")

    @property
    def tokens(self) -> int:
        """Tokens of training text."""
        return self.text.tokens

    def batches(self) -> data.SpanBatches:
        """Windows of the training text, other spans left out each time."""
        train = self.recipe.train
        return data.span_batches(
            data.Spans(self.text.train, self.how, self.length),
            batch_tokens=train.batch_tokens,
            micro_batches=train.micro_batches,
            seed=train.seed,
        )

    def objective(self) -> objectives.Objective:
        """The cross-entropy of the spans' tokens and sentinels, given the rest."""
        return objectives.translate

    def score(self, model: Any, tokens: int | None = None) -> dict[str, Any]:
        """Loss and perplexity of the spans that are left out of the held-out text, sentinels and ends included."""
        held, rows = data.Spans(self.text.held, self.how, self.length), max(1, ROWS // self.length)
        nats, labels = summed(model, data.held_out_spans(held, rows, tokens), objectives.translate)
        reason = "a model of spans gives a text no probability"
        found = {"loss": nats / labels, "perplexity": perplexity(nats, labels)}
        return {
            **{key: finite(value) for key, value in found.items()},
            "bits_per_byte": None,
            "tokens": labels,
            "reason": reason,
        }

    def sample(self, model: Any, seed: int) -> str:
        """The beginning of the held-out text, with what the model writes in brackets wherever a span is left out."""
        asked = self.recipe.sample
        batch = next(data.held_out_spans(data.Spans(self.text.held, self.how, self.length), 1))
        assert batch.source is not None
        source, sentinels = batch.source[0], self.how.sentinels
        settings = DecodeSettings(max_tokens=asked.tokens, temperature=asked.temperature, seed=seed)
        (written,) = translate(model, self.tokenizer, [source], settings)
        parts, kept = [], []
        for id_ in source.tolist():
            if id_ not in sentinels:
                kept.append(id_)
                continue
            run = data.restore(np.array([id_]), np.array(written.ids), sentinels)
            parts += [self.tokenizer.decode(kept), f"[{self.tokenizer.decode(run)}]"]
            kept = []
        between = " " if self.tokenizer.token_bytes() is None else ""  # pieces of lossless tokenizers hold the spaces
        return between.join([*parts, self.tokenizer.decode(kept)])


def prepare(recipe: Recipe, folder: Path) -> Spans:
    """Text and tokenizer as for next tokens; a tokenizer gets sentinels, unless a model knows its ids."""
    task, model = recipe.doing, recipe.model
    assert isinstance(task, SpansTask) and isinstance(model, EncoderDecoderSettings)
    text = next_token.prepare(recipe, folder, sentinels=task.sentinels if model.from_ is None else 0)
    tokenizer = text.tokenizer
    start = start_id(model, tokenizer)
    how = data.Corruption(task.share, task.mean_length, tokenizer.sentinels, start, tokenizer.end_id, tokenizer.pad_id)
    length = how.longest(recipe.reads.longest_source or model.context, model.context)  # type: ignore[union-attr]
    if not data.Spans(text.held, how, length).n:
        raise UserError("the held-out text is shorter than two tokens", "hold out more of it")
    return Spans(recipe, tokenizer, text.fingerprints, text.corpus, text, how, length)
