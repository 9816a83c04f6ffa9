"""The verb `curate`: a corpus from a heap of files, by a recipe."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idiolect import config
from idiolect.errors import UserError
from idiolect.recipes import load
from idiolect.text.curation.curate import count_words
from idiolect.text.curation.curate import curate as make
from idiolect.text.curation.engine import Engine
from idiolect.text.settings import Curation


@dataclass(frozen=True)
class TokensOf:
    """How many tokens a text is, for a tokenizer in a folder; each process loads it for itself."""

    folder: Path

    def __call__(self, text: str) -> int:
        """How many."""
        return len(_tokenizer(self.folder).encode(text))


@dataclass(frozen=True)
class PerplexityOf:
    """The perplexity of a text, a word, under the causal model in a folder; each process loads it for itself."""

    folder: Path

    def __call__(self, text: str) -> float:
        """Infinite for a text that is impossible. Raises UserError for a model whose scores are no probabilities."""
        from idiolect.evaluate.score import perplexity, score_text

        loaded = _model(self.folder)
        score = score_text(loaded.model, loaded.tokenizer, text)
        if score.perplexity is None:
            raise UserError(f"the scores of {self.folder} are no probabilities", "name another model")
        return perplexity(-score.logprob, max(1, len(text.split())))


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Any:
    from idiolect.tokens.tokenizer import Tokenizer
    from idiolect.tokens.verbs import locate

    return Tokenizer.load(locate(folder))


@functools.lru_cache(maxsize=1)
def _model(model: Path) -> Any:
    from idiolect.interop import folder

    return folder.load(folder.find(model))


def load_curation(recipe: str = "curate", overrides: Sequence[str] = ()) -> Curation:
    """A recipe for a curation, with its overrides. Raises UserError with every problem at once."""
    tables = load.tables(recipe)
    if load.CURATE not in tables:
        raise UserError(f"{recipe} is no recipe for a curation: it has no [curate]", "use curate or curate-web")
    return config.validate(Curation, config.override(tables, overrides, Curation), recipe)


def curate(
    inputs: Sequence[Path | str],
    out: Path | str,
    recipe: str = "curate",
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
    engine: Engine = "local",
    workers: int | None = None,
) -> dict[str, Any]:
    """Makes a corpus of files and folders; see `text.curation.curate.curate` for what it returns and raises."""
    settings = load_curation(recipe, overrides).curate
    return make(
        inputs,
        Path(out),
        settings,
        count_tokens=TokensOf(settings.tokenizer) if settings.tokenizer else count_words,
        perplexity=PerplexityOf(settings.perplexity.model) if settings.perplexity.model else None,
        tokens_are="tokens" if settings.tokenizer else "words",
        dry_run=dry_run,
        engine=engine,
        workers=workers,
    )
