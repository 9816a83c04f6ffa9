"""The stage of causal models: each token of a text from those before it, or counting them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from idiolect import devices
from idiolect.data import batches, shards
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import UserError
from idiolect.evaluate import baselines
from idiolect.evaluate.score import unnormalised
from idiolect.evaluate.verbs import evaluate_shards
from idiolect.recipes.prepare import fingerprints, say, split, tokenizer_of
from idiolect.recipes.settings import Recipe
from idiolect.recipes.stage import Stage
from idiolect.text.corpus import Corpus
from idiolect.train import objectives


@dataclass(frozen=True)
class NextToken(Stage):
    """Batches of `data.batches.next_token`, held-out text in bits per byte."""

    train: shards.Shards
    held: shards.Shards
    held_text: Corpus

    @property
    def tokens(self) -> int:
        """Tokens of training text."""
        return self.train.tokens

    def batches(self) -> batches.NextToken:
        """Windows of the training text."""
        return batches.next_token(
            self.train,
            context=self.recipe.reads.context,
            batch_tokens=self.recipe.train.batch_tokens,
            micro_batches=self.recipe.train.micro_batches,
            seed=self.recipe.train.seed,
            packing=self.recipe.data.packing,
            begin_id=self.tokenizer.begin_id,
            end_id=self.tokenizer.end_id,
            pad_id=self.tokenizer.pad_id,
        )

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
            "unigram": baselines.unigram(self.held, self.tokenizer, self.train).json(),
            "gzip": {"bits_per_byte": baselines.gzip(document.text for document in self.held_text)},
        }

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
    texts = (document.text for document in train)
    tokenizer = tokenizer_of(folder / "tokenizer", recipe.tokenizer, texts, mask, sentinels)
    say(f"tokenizer: {tokenizer.kind}, {tokenizer.size:,} tokens")
    encoded, held_encoded = shards.encode(train, tokenizer), shards.encode(held, tokenizer)
    devices.release_memory()
    say(f"text: {encoded.documents:,} documents, {encoded.tokens:,} tokens; held out {held_encoded.tokens:,} tokens")
    if held_encoded.tokens == 0:
        raise UserError("the held-out text has no tokens", "give more text, or another tokenizer.pattern")
    prints = fingerprints(recipe, train.fingerprint, held.fingerprint, tokenizer)
    return NextToken(recipe, tokenizer, prints, encoded, held_encoded, held)
