"""What every stage prepares: held-out text, the tokenizer, the hashes of what a run goes out from."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from idiolect import config, devices, files
from idiolect.data.settings import DataSettings
from idiolect.errors import UserError
from idiolect.interop.folder import fingerprint
from idiolect.models.settings import EncoderDecoderSettings
from idiolect.recipes.settings import Recipe
from idiolect.text.corpus import Corpus
from idiolect.tokens import learn
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer


def split(data: DataSettings) -> tuple[Corpus, Corpus]:
    """The text to train on, and the text held out. Raises UserError when either is empty."""
    corpus = Corpus(data.train, data.document, data.field)
    if isinstance(data.validation, float):
        return corpus.split(data.validation)
    return corpus, Corpus([data.validation], data.document, data.field)


def tokenizer_of(
    folder: Path, settings: TokenizerSettings, texts: Iterable[str], mask: bool = False, sentinels: int = 0
) -> Tokenizer:
    """The tokenizer in `folder` when a run already has one; else the one given or learnt, saved there.

    It is to have a mask token, or so many sentinels, which are among those that `settings.size` counts.
    """
    if folder.is_dir():
        files.verify(folder)
        return Tokenizer.load(folder, trust=True)  # its hashes say that we wrote it
    if settings.from_ is not None:
        tokenizer = Tokenizer.load(settings.from_)
    else:
        least, more = learn.SMALLEST.get(settings.kind, 0), mask + sentinels
        if more and settings.size < least + more:
            what = (
                f"a {settings.kind} tokenizer with {more} tokens for the task needs {least + more}, not {settings.size}"
            )
            raise UserError(what, f"set tokenizer.size to {least + more} or more")
        room = settings.model_copy(update={"size": settings.size - more})
        tokenizer = learn.train(texts, room, sampled=_sampled)
        devices.release_memory()
    if mask:
        tokenizer = tokenizer.with_mask()
    tokenizer = tokenizer.with_sentinels(sentinels)
    with files.new_folder(folder) as aside:
        tokenizer.save(aside)
    return tokenizer


def _sampled(learnt: int, total: int) -> None:
    say(f"tokenizer: learnt from {learnt / 1e6:,.0f} of {total / 1e6:,.0f} MB, drawn evenly (tokenizer.sample)")


def fingerprints(recipe: Recipe, train: str, held: str, tokenizer: Tokenizer) -> dict[str, str]:
    """What a resumed run must find again, given the hashes of the text to train on and of that held out."""
    prints = {
        "data.train": train,
        "data.validation": held,
        "tokenizer": tokenizer.fingerprint,
        "recipe": recipe_fingerprint(recipe),
    }
    model = recipe.model
    if model.from_ is not None:
        prints["model.from"] = fingerprint(model.from_)
    if isinstance(model, EncoderDecoderSettings) and model.encoder is not None and model.encoder.from_ is not None:
        prints["model.encoder.from"] = fingerprint(model.encoder.from_)
    return prints


def recipe_fingerprint(recipe: Recipe) -> str:
    """A hash of everything the user decided; what was resolved is not part of it."""
    text = config.dump(recipe.model_copy(update={"resolved": None}))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def say(line: str) -> None:
    """A line of progress, for people, on stderr."""
    print(line, file=sys.stderr, flush=True)
