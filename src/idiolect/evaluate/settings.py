"""Settings of what is measured besides a run's own task; torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from idiolect.config import Settings


class ForgettingSettings(Settings):
    """What a model must not lose by being tuned, in a run that starts from one (model.from)."""

    own: bool = True
    """Measure the probes that ship: English prose, reference documentation, program text."""
    tolerance: float = Field(default=0.05, ge=0)
    """What is still no loss: bits per byte (or nats) that grow by this share, an accuracy lower by this much."""
    tokens: int = Field(default=4096, ge=1)
    """Tokens of each probe that are measured, the first ones."""


class TaskEvaluation(Settings):
    """A task with known answers on which models are compared."""

    task: Literal["labels", "pairs"] | None = None
    """Measure the models on a task instead of on text: labels of texts, or answers (pairs of source and target)."""
    shots: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    """How many examples are shown before each question, a row of the table each."""
    examples: Path | None = None
    """The file the examples that are shown come from."""
    fields: tuple[str, str] | None = None
    """The fields or columns of an example; unset: text and label, or source and target."""
    chat: bool = True
    """Whether a model that has a chat template is asked by it, the examples as earlier turns."""
    template: str | None = None
    """How an example is written: {text} and {label}, or {source} and {target}."""
    by: Literal["sum", "token", "byte"] = "sum"
    """What is compared of labels: the probability of the whole name, or the mean of its log over tokens or bytes."""
    metrics: tuple[Literal["exact_match", "rouge", "bleu", "chrf"], ...] = ("exact_match", "rouge")
    """What is measured of answers."""
    answer_tokens: int = Field(default=64, ge=1)
    """Tokens after which an answer is cut off."""
    limit: int | None = Field(default=None, ge=1)
    """Test examples, the first ones, that are asked; unset: all."""
    seed: int = Field(default=0, ge=0)
    """Seed of which examples are shown."""
