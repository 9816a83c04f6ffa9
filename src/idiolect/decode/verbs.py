"""The verbs `generate` and `explore` on a model folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from idiolect.decode import explore as explorer
from idiolect.decode import picture
from idiolect.decode.generate import Piece, complete, stream
from idiolect.decode.settings import DecodeSettings, Precision
from idiolect.errors import UserError
from idiolect.interop.folder import Loaded, find, load
from idiolect.models.contract import LanguageModel

PLAIN = DecodeSettings()
WITHOUT = "use a model that reads from left to right, such as one trained by the recipes gpt, lstm or ngram"
DTYPES = {"stored": None, "fp32": torch.float32, "bf16": torch.bfloat16}


def load_with_tokenizer(model: Path | str, precision: Precision = "stored") -> Loaded:
    """The model of a model or run folder. Raises UserError when it has no tokenizer to read and write text with.

    Also for another precision than the stored one of a model that has none.
    """
    loaded = load(find(Path(model)), dtype=DTYPES[precision])
    if precision != "stored" and loaded.settings.kind == "ngram":
        raise UserError(f"{model} is an n-gram model, which has counts and no precision", "leave precision out")
    if loaded.tokenizer is None:
        raise UserError(f"{model} has no tokenizer", "put its tokenizer.json beside the model")
    return loaded


def language_model(loaded: Loaded, name: Path | str) -> LanguageModel:
    """The model, as one that continues texts. Raises UserError, saying why, for one that cannot."""
    model = loaded.model
    refusal = getattr(model, "refusal", "")
    if refusal or not isinstance(model, LanguageModel):
        raise UserError(f"{name} is a {loaded.settings.kind} model and cannot continue a text: it {refusal}", WITHOUT)
    return model


def generate(
    model: Path | str,
    prompt: str = "",
    settings: DecodeSettings = PLAIN,
    *,
    count: int = 1,
    streaming: bool = False,
    precision: Precision = "stored",
) -> dict[str, Any] | Iterator[Piece]:
    """Continues a prompt `count` times: "text", "ids", "logprobs", "finish_reason" of the first, "completions" of all.

    With `streaming`, an iterator over the pieces of one continuation after the other instead.
    """
    if count < 1:
        raise UserError(f"cannot write {count} continuations", "ask for at least 1")
    loaded = load_with_tokenizer(model, precision)
    writing = language_model(loaded, model)
    if streaming:
        return (
            piece for request in range(count) for piece in stream(writing, loaded.tokenizer, prompt, settings, request)
        )
    found = [asdict(c) for c in complete(writing, loaded.tokenizer, [prompt] * count, settings)]
    return found[0] if count == 1 else {**found[0], "completions": found}


def explore(
    model: Path | str,
    prompt: str = "",
    settings: DecodeSettings = PLAIN,
    *,
    candidates: Sequence[str] = (),
    html: Path | None = None,
    precision: Precision = "stored",
) -> dict[str, Any]:
    """Strategies side by side, `settings` among them, and the next-token distribution before and after reshaping.

    Returns the `Exploration` and the ranking of the candidates as plain values, and "text" to read; writes the page
    to `html` when asked.
    """
    loaded = load_with_tokenizer(model, precision)
    writing = language_model(loaded, model)
    found = explorer.explore(writing, loaded.tokenizer, prompt, explorer.strategies(settings))
    ranking = explorer.candidates(writing, loaded.tokenizer, prompt, candidates) if candidates else []
    if html is not None:
        picture.page(found, ranking).write(html)
    return {
        "prompt": prompt,
        "strategies": {name: asdict(outcome) for name, outcome in found.outcomes.items()},
        "candidates": [asdict(candidate) for candidate in ranking],
        "text": picture.lines(found, ranking),
    }
