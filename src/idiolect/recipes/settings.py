"""A recipe: everything that decides what a run does; torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import model_validator

from idiolect.adapt.settings import AdaptSettings, SelectiveSettings, SoftPromptSettings
from idiolect.config import Settings
from idiolect.data.settings import (
    ChatTask,
    DataSettings,
    FramesTask,
    LabelsTask,
    MaskedTask,
    NeighboursTask,
    NextTokenTask,
    NumbersTask,
    PairsTask,
    SpansTask,
    TagsTask,
    Task,
    TaskSettings,
)
from idiolect.evaluate.settings import ForgettingSettings
from idiolect.models.settings import FAMILIES, EncoderDecoderSettings, ModelSettings, NetworkSettings, NGramSettings
from idiolect.tokens.settings import TokenizerSettings
from idiolect.train.settings import (
    CheckpointSettings,
    Resolved,
    SampleSettings,
    TrackSettings,
    TrainSettings,
    ValidationSettings,
)

CAUSAL = ("ngram", "rnn", "lstm", "gru", "decoder")
MODELS: dict[type[Task], tuple[str, ...]] = {
    NextTokenTask: CAUSAL,
    SpansTask: ("encoder-decoder",),
    PairsTask: ("seq2seq", "encoder-decoder"),
    MaskedTask: ("encoder",),
    LabelsTask: ("encoder", *CAUSAL[1:], "encoder-decoder"),
    TagsTask: ("encoder", *CAUSAL[1:], "encoder-decoder"),
    NumbersTask: ("encoder", *CAUSAL[1:], "encoder-decoder"),
    NeighboursTask: ("cbow",),
    FramesTask: ("seq2seq", "encoder-decoder"),
    ChatTask: CAUSAL[1:],
}
"""The model kinds that learn each task; the first task that lists a kind is what it learns unless told otherwise."""


ADAPTED = {False: ("decoder", "encoder", "encoder-decoder"), True: tuple(kind for kind in FAMILIES if kind != "ngram")}
"""The model kinds that can be adapted, and of which parts of their own can be trained (True)."""

MIXED = {
    "weights": (NextTokenTask, MaskedTask, LabelsTask, TagsTask, NumbersTask, PairsTask, ChatTask),
    "replay": (NextTokenTask, MaskedTask, ChatTask),
}
"""The tasks that learn from several sources by weights, and those into which general text can be mixed."""


class Recipe(Settings):
    """Text, tokenizer, model, and how the one is learnt from the other."""

    probes: dict[str, Path] = {}
    """Files whose figures are watched in a run that starts from a model, by names of yours: text, or rows with text
    and label."""
    data: DataSettings
    """The text."""
    task: TaskSettings | None = None
    """What is learnt from it; unset: what the family of the model is for."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    """The tokenizer."""
    model: ModelSettings
    """The model."""
    adapt: AdaptSettings | None = None
    """What of the model in model.from trains, or what is added to it; unset: all of it trains."""
    train: TrainSettings = TrainSettings()
    """The fit."""
    validation: ValidationSettings = ValidationSettings()
    """The held-out text."""
    forgetting: ForgettingSettings = ForgettingSettings()
    """What a model that is tuned must not lose."""
    checkpoint: CheckpointSettings = CheckpointSettings()
    """What is saved, and when."""
    sample: SampleSettings = SampleSettings()
    """Text written on the way."""
    track: TrackSettings = TrackSettings()
    """Where metrics go."""
    resolved: Resolved | None = None
    """What was chosen automatically at the start; written by the run, used again by every resume."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = MODELS[type(self.doing)]
        if self.model.kind not in kinds:
            what, of = f"task.kind={self.doing.kind}", ", ".join(kinds)
            raise ValueError(f"{what} is not for model.kind={self.model.kind}; it takes one of {of}")
        if self.source_features is not None and not isinstance(self.doing, FramesTask):
            raise ValueError(f"task.kind={self.doing.kind} reads text; model.source_features is for task.kind=frames")
        if self.adapt is not None and self.model.kind not in ADAPTED[isinstance(self.adapt, SelectiveSettings)]:
            raise ValueError(f"adapt.kind={self.adapt.kind} is not for model.kind={self.model.kind}")
        if isinstance(self.adapt, SoftPromptSettings) and isinstance(self.doing, MaskedTask):
            raise ValueError("adapt.kind=soft-prompt is not for task.kind=masked, whose rows hold several texts")
        if self.adapt is not None and getattr(self.doing, "freeze_base", False):
            raise ValueError("task.freeze_base has no effect beside adapt, which freezes the base itself")
        most = getattr(self.model, "longest_source", None) or getattr(self.model, "context", None)
        if self.prompt and most is not None and self.prompt >= most:
            raise ValueError(f"adapt.tokens={self.prompt} leaves no room for text in a context of {most}")
        if isinstance(self.doing, ChatTask) and len(sets := self.doing.templates) > 1:
            if len(sets) != len(self.data.train):
                raise ValueError(f"task.templates has {len(sets)} sets for the {len(self.data.train)} of data.train")
            if not isinstance(self.data.validation, float):
                raise ValueError("with several task.templates, data.validation is a share of each of data.train")
        for key, tasks in MIXED.items():
            if getattr(self.data, key) not in (None, ()) and not isinstance(self.doing, tasks):
                raise ValueError(f"data.{key} is not for task.kind={self.doing.kind}")
            if getattr(self.data, key) not in (None, ()) and self.model.kind == "ngram":
                raise ValueError(f"data.{key} is not for an n-gram, which counts all of its text once")
        return self

    @property
    def doing(self) -> Task:
        """The task, given or not."""
        if self.task is not None:
            return self.task
        if self.source_features is not None:
            return FramesTask()
        return next(task() for task, kinds in MODELS.items() if self.model.kind in kinds)

    @property
    def reads(self) -> NetworkSettings:
        """The model's settings, with the context that is left for text: that of a soft prompt is not."""
        model = self.model
        assert not isinstance(model, NGramSettings)
        if not isinstance(model, EncoderDecoderSettings):
            return model.model_copy(update={"context": model.context - self.prompt}) if self.prompt else model
        most = model.longest_source
        return model if most is None else model.model_copy(update={"source_context": most - self.prompt})

    @property
    def prompt(self) -> int:
        """Positions that a soft prompt takes."""
        return self.adapt.tokens if isinstance(self.adapt, SoftPromptSettings) else 0

    @property
    def source_features(self) -> int | None:
        """Numbers in a frame of what the model reads; None: it reads text."""
        return getattr(getattr(self.model, "encoder", None) or self.model, "source_features", None)
