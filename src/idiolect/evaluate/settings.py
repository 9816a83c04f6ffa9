"""Settings of what is measured besides a run's own task; torch-free."""

from __future__ import annotations

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
