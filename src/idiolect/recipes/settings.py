"""A recipe: everything that decides what a run does; torch-free."""

from __future__ import annotations

from idiolect.config import Settings
from idiolect.data.settings import DataSettings
from idiolect.models.settings import ModelSettings
from idiolect.tokens.settings import TokenizerSettings
from idiolect.train.settings import (
    CheckpointSettings,
    Resolved,
    SampleSettings,
    TrackSettings,
    TrainSettings,
    ValidationSettings,
)


class Recipe(Settings):
    """Text, tokenizer, model, and how the one is learnt from the other."""

    data: DataSettings
    """The text."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    """The tokenizer."""
    model: ModelSettings
    """The model."""
    train: TrainSettings = TrainSettings()
    """The fit."""
    validation: ValidationSettings = ValidationSettings()
    """The held-out text."""
    checkpoint: CheckpointSettings = CheckpointSettings()
    """What is saved, and when."""
    sample: SampleSettings = SampleSettings()
    """Text written on the way."""
    track: TrackSettings = TrackSettings()
    """Where metrics go."""
    resolved: Resolved | None = None
    """What was chosen automatically at the start; written by the run, used again by every resume."""
