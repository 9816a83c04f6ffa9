"""The stage of every task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from idiolect.recipes import chat, frames, labels, masked, neighbours, next_token, numbers, pairs, spans
from idiolect.recipes.settings import Recipe
from idiolect.recipes.stage import Stage

TASKS: dict[str, Callable[[Recipe, Path], Stage]] = {
    "next-token": next_token.prepare,
    "spans": spans.prepare,
    "pairs": pairs.prepare,
    "masked": masked.prepare,
    "labels": labels.prepare,
    "tags": labels.prepare_tags,
    "numbers": numbers.prepare,
    "neighbours": neighbours.prepare,
    "frames": frames.prepare,
    "chat": chat.prepare,
}
"""task.kind → what reads its data, learns its tokenizer into the run folder, and gives its stage."""


def prepare(recipe: Recipe, folder: Path) -> Stage:
    """The stage of the recipe's task. Raises UserError for what is wrong with its data."""
    return TASKS[recipe.doing.kind](recipe, folder)
