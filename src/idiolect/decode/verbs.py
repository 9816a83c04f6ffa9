"""The verbs `generate` and `explore` on a model folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from idiolect.decode import explore as explorer
from idiolect.decode import picture
from idiolect.decode.generate import Piece, complete, stream
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import UserError
from idiolect.interop.folder import Loaded, find, load

PLAIN = DecodeSettings()


def load_with_tokenizer(model: Path | str) -> Loaded:
    """The model of a model or run folder. Raises UserError when it has no tokenizer to read and write text with."""
    loaded = load(find(Path(model)))
    if loaded.tokenizer is None:
        raise UserError(f"{model} has no tokenizer", "put its tokenizer.json beside the model")
    return loaded


def generate(
    model: Path | str,
    prompt: str = "",
    settings: DecodeSettings = PLAIN,
    *,
    count: int = 1,
    streaming: bool = False,
) -> dict[str, Any] | Iterator[Piece]:
    """Continues a prompt `count` times: "text", "ids", "logprobs", "finish_reason" of the first, "completions" of all.

    With `streaming`, an iterator over the pieces of one continuation after the other instead.
    """
    if count < 1:
        raise UserError(f"cannot write {count} continuations", "ask for at least 1")
    loaded = load_with_tokenizer(model)
    if streaming:
        return (
            piece
            for request in range(count)
            for piece in stream(loaded.model, loaded.tokenizer, prompt, settings, request)
        )
    found = [asdict(c) for c in complete(loaded.model, loaded.tokenizer, [prompt] * count, settings)]
    return found[0] if count == 1 else {**found[0], "completions": found}


def explore(
    model: Path | str,
    prompt: str = "",
    settings: DecodeSettings = PLAIN,
    *,
    candidates: Sequence[str] = (),
    html: Path | None = None,
) -> dict[str, Any]:
    """Strategies side by side, `settings` among them, and the next-token distribution before and after reshaping.

    Returns the `Exploration` and the ranking of the candidates as plain values, and "text" to read; writes the page
    to `html` when asked.
    """
    loaded = load_with_tokenizer(model)
    found = explorer.explore(loaded.model, loaded.tokenizer, prompt, explorer.strategies(settings))
    ranking = explorer.candidates(loaded.model, loaded.tokenizer, prompt, candidates) if candidates else []
    if html is not None:
        picture.page(found, ranking).write(html)
    return {
        "prompt": prompt,
        "strategies": {name: asdict(outcome) for name, outcome in found.outcomes.items()},
        "candidates": [asdict(candidate) for candidate in ranking],
        "text": picture.lines(found, ranking),
    }
