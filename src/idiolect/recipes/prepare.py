"""From a recipe's text to its tokenizer and its shards."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from idiolect import config, devices, files
from idiolect.data import shards
from idiolect.data.settings import DataSettings
from idiolect.errors import UserError
from idiolect.recipes.settings import Recipe
from idiolect.text.corpus import Corpus
from idiolect.tokens import learn
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prepared:
    """All that a stage needs besides its settings."""

    tokenizer: Tokenizer
    train: shards.Shards
    held: shards.Shards
    held_text: Corpus
    fingerprints: Mapping[str, str]
    """Of the text, the tokenizer and the recipe: what a resumed run must find again."""


def split(data: DataSettings) -> tuple[Corpus, Corpus]:
    """The text to train on, and the text held out. Raises UserError when either is empty."""
    corpus = Corpus(data.train, data.document, data.field)
    if isinstance(data.validation, float):
        return corpus.split(data.validation)
    return corpus, Corpus([data.validation], data.document, data.field)


def tokenizer_of(folder: Path, settings: TokenizerSettings, text: Corpus) -> Tokenizer:
    """The tokenizer in `folder` when a run already has one; else the one given or learnt, saved there."""
    if folder.is_dir():
        files.verify(folder)
        return Tokenizer.load(folder, trust=True)  # its hashes say that we wrote it
    if settings.from_ is not None:
        tokenizer = Tokenizer.load(settings.from_)
    else:
        tokenizer = learn.train((document.text for document in text), settings, sampled=_sampled)
        devices.release_memory()
    with files.new_folder(folder) as aside:
        tokenizer.save(aside)
    return tokenizer


def _sampled(learnt: int, total: int) -> None:
    say(f"tokenizer: learnt from {learnt / 1e6:,.0f} of {total / 1e6:,.0f} MB, drawn evenly (tokenizer.sample)")


def prepare(recipe: Recipe, folder: Path) -> Prepared:
    """Splits the text, learns or loads the tokenizer, encodes. Raises UserError for what is wrong with any of them."""
    train, held = split(recipe.data)
    tokenizer = tokenizer_of(folder / "tokenizer", recipe.tokenizer, train)
    say(f"tokenizer: {tokenizer.kind}, {tokenizer.size:,} tokens")
    encoded, held_encoded = shards.encode(train, tokenizer), shards.encode(held, tokenizer)
    devices.release_memory()
    say(f"text: {encoded.documents:,} documents, {encoded.tokens:,} tokens; held out {held_encoded.tokens:,} tokens")
    if held_encoded.tokens == 0:
        raise UserError("the held-out text has no tokens", "give more text, or another tokenizer.pattern")
    fingerprints = {
        "data.train": train.fingerprint,
        "data.validation": held.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "recipe": recipe_fingerprint(recipe),
    }
    return Prepared(tokenizer, encoded, held_encoded, held, fingerprints)


def recipe_fingerprint(recipe: Recipe) -> str:
    """A hash of everything the user decided; what was resolved is not part of it."""
    text = config.dump(recipe.model_copy(update={"resolved": None}))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def say(line: str) -> None:
    """A line of progress, for people, on stderr."""
    print(line, file=sys.stderr, flush=True)
