"""The stage of causal models: each token of a text from those before it, or counting them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from idiolect import devices
from idiolect.data import batches, shards
from idiolect.data.batches import NextToken as Rows
from idiolect.data.mixture import MixedRows
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import UserError
from idiolect.evaluate import baselines
from idiolect.evaluate.score import unnormalised
from idiolect.evaluate.verbs import evaluate_shards
from idiolect.recipes.parent import replay_of
from idiolect.recipes.prepare import fingerprints, mixture, say, split, tokenizer_of
from idiolect.recipes.settings import Recipe
from idiolect.recipes.stage import Stage
from idiolect.text.corpus import Corpus
from idiolect.text.several import Several
from idiolect.train import objectives


@dataclass(frozen=True)
class NextToken(Stage):
    """Batches of `data.batches.next_token`, held-out text in bits per byte."""

    train: shards.Shards
    held: shards.Shards
    held_text: Several
    others: tuple[shards.Shards, ...] = ()
    """The further sources of a mixture, what is replayed last; `train` is the first."""

    @property
    def tokens(self) -> int:
        """Tokens of training text."""
        return self.train.tokens + sum(text.tokens for text in self.others)

    def _rows(self, text: shards.Shards) -> Rows:
        """Windows of one source."""
        return batches.next_token(
            text,
            context=self.recipe.reads.context,
            batch_tokens=self.recipe.train.batch_tokens,
            micro_batches=self.recipe.train.micro_batches,
            seed=self.recipe.train.seed,
            packing=self.recipe.data.packing,
            begin_id=self.tokenizer.begin_id,
            end_id=self.tokenizer.end_id,
            pad_id=self.tokenizer.pad_id,
        )

    def batches(self) -> Rows | MixedRows:
        """Windows of the training text."""
        first = self._rows(self.train)
        if not self.others:
            return first
        rows, data = (first, *map(self._rows, self.others)), self.recipe.data
        sizes = [part.n for part in rows]
        own, replayed = (sizes[:-1], sizes[-1]) if data.replay else (sizes, 0)
        mixed = mixture(data, own, replayed, self.recipe.train.seed)
        assert mixed is not None
        return MixedRows(rows, mixed, first.rows, first.micro_batches, first.pad_id)

    def objective(self) -> objectives.Objective:
        """The next token's cross-entropy."""
        widths = self.tokenizer.token_bytes()
        return partial(objectives.next_token, token_bytes=None if widths is None else torch.as_tensor(widths))

    def score(self, model: Any, tokens: int | None = None) -> dict[str, Any]:
        """The `Evaluation` of the held-out text.

        A model whose scores are not probabilities has none of the numbers, and "reason" says why.
        """
        if reason := unnormalised(model, "loss, perplexity and bits per byte"):
            return {"loss": None, "perplexity": None, "bits_per_byte": None, "reason": reason}
        return evaluate_shards(model, self.tokenizer, self.held, limit_tokens=tokens).json()

    def baselines(self) -> dict[str, dict[str, Any]]:
        """Uniform, unigram and gzip over the same held-out bytes."""
        return {
            "uniform": baselines.uniform(self.held, self.tokenizer).json(),
            "unigram": baselines.unigram(self.held, self.tokenizer, self.train, *self.others).json(),
            "gzip": {"bits_per_byte": baselines.gzip(document.text for document in self.held_text)},
        }

    def replay_offer(self) -> str:
        """As in every stage; general text can be mixed in, that of the model's own run where it is still there."""
        return f"{replay_of(self.recipe)}; {super().replay_offer()}"

    def sample(self, model: Any, seed: int) -> str:
        """A short continuation of the recipe's prompt."""
        asked = self.recipe.sample
        settings = DecodeSettings(max_tokens=asked.tokens, temperature=asked.temperature, seed=seed)
        return asked.prompt + complete(model, self.tokenizer, [asked.prompt], settings)[0].text


def prepare(recipe: Recipe, folder: Path, mask: bool = False, sentinels: int = 0) -> NextToken:
    """Splits the text, learns or loads the tokenizer, encodes. Raises UserError for what is wrong with any of them.

    The tokenizer is to have a mask token, or so many sentinels.
    """
    train, held = split(recipe.data)
    replayed = (Corpus(recipe.data.replay, recipe.data.document, recipe.data.field),) if recipe.data.replay else ()
    texts = (document.text for document in train)
    tokenizer = tokenizer_of(folder / "tokenizer", recipe.tokenizer, texts, mask, sentinels)
    say(f"tokenizer: {tokenizer.kind}, {tokenizer.size:,} tokens")
    read = Several((*train.parts, *replayed))
    encoded, *others = (shards.encode(part, tokenizer) for part in read.parts)
    held_encoded = shards.encode(held, tokenizer)
    devices.release_memory()
    documents, tokens = (sum(getattr(e, key) for e in (encoded, *others)) for key in ("documents", "tokens"))
    say(f"text: {documents:,} documents, {tokens:,} tokens; held out {held_encoded.tokens:,} tokens")
    if held_encoded.tokens == 0:
        raise UserError("the held-out text has no tokens", "give more text, or another tokenizer.pattern")
    prints = fingerprints(recipe, read.fingerprint, held.fingerprint, tokenizer)
    return NextToken(recipe, tokenizer, prints, read, encoded, held_encoded, held, tuple(others))
