"""What every stage prepares: held-out text, the tokenizer, the hashes of what a run goes out from."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from idiolect import config, devices, files
from idiolect.data.batches import NextToken, next_token
from idiolect.data.conversations import Packed
from idiolect.data.mixture import MixedRows, Mixture, shares
from idiolect.data.settings import DataSettings
from idiolect.data.shards import Shards
from idiolect.errors import UserError
from idiolect.interop.folder import fingerprint
from idiolect.models.settings import EncoderDecoderSettings
from idiolect.recipes.settings import Recipe
from idiolect.text.corpus import Corpus
from idiolect.text.examples import Examples
from idiolect.text.several import Several
from idiolect.tokens import learn
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer


def split(data: DataSettings) -> tuple[Several, Several]:
    """The text to train on, a part for each source of a mixture, and the text held out.

    Raises UserError when either is empty.
    """
    return _split(data, lambda paths: Corpus(paths, data.document, data.field))


def split_examples(data: DataSettings, fields: tuple[str, ...]) -> tuple[Several, Several]:
    """As `split`, for examples with these fields."""
    return _split(data, lambda paths: Examples(tuple(paths), fields))


def _split(data: DataSettings, source: Callable[[Sequence[Path]], Corpus | Examples]) -> tuple[Several, Several]:
    sources = [source(paths) for paths in sources_of(data)]
    if not isinstance(data.validation, float):
        return Several(tuple(sources)), Several((source([data.validation]),))
    halves = [one.split(data.validation) for one in sources]
    return Several(tuple(half[0] for half in halves)), Several(tuple(half[1] for half in halves))


def sources_of(data: DataSettings) -> list[tuple[Path, ...]]:
    """The files and folders of each source: one source each where they are weighed, else all together."""
    return [data.train] if data.weights is None else [(path,) for path in data.train]


def mixture(data: DataSettings, sizes: Sequence[int], replayed: int, seed: int) -> Mixture | None:
    """The mixture of sources of so many examples, and of so many replayed; None when there is but one source."""
    wanted = shares(sizes, data.weights or "proportional", data.cap)
    if data.replay:
        wanted = [share * (1 - data.replay_share) for share in wanted] + [data.replay_share]
        sizes = [*sizes, replayed]
    if len(wanted) == 1:
        return None
    return Mixture(tuple(sizes), tuple(wanted), seed)


def mixed_rows(
    recipe: Recipe, tokenizer: Tokenizer, own: Sequence[Packed], general: Shards | None
) -> Packed | MixedRows:
    """Rows of a task's own sources, and between them rows of general text that is replayed."""
    parts: list[Packed | NextToken] = [*own]
    if general is not None:
        replayed = next_token(
            general,
            context=recipe.reads.context,
            batch_tokens=recipe.train.batch_tokens,
            seed=recipe.train.seed,
            begin_id=tokenizer.begin_id,
            end_id=tokenizer.end_id,
            pad_id=own[0].pad_id,
        )
        parts.append(replayed)
    sizes = [part.n for part in parts]
    mixed = mixture(recipe.data, sizes[: len(own)], sizes[-1], recipe.train.seed)
    if mixed is None:
        return own[0]
    return MixedRows(tuple(parts), mixed, min(part.rows for part in own), own[0].micro_batches, own[0].pad_id)


def names_of(data: DataSettings) -> list[str]:
    """What to call the sources of a mixture."""
    names = [" + ".join(map(str, paths)) for paths in sources_of(data)]
    return [*names, "replay"] if data.replay else names


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
    for name, path in recipe.probes.items() if model.from_ is not None else ():
        prints[f"probes.{name}"] = files.sha256(path) if path.is_file() else Corpus([path]).fingerprint
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
