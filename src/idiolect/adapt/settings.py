"""Settings of edits; torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from idiolect.models.settings import DecoderSettings, EncoderSettings, FamilySettings, RecurrentSettings

Bodies = RecurrentSettings | DecoderSettings | EncoderSettings
"""The families whose body reads one text and nothing else, so that it can carry a head for labels."""
Body = Annotated[Bodies, Field(discriminator="kind")]


LABELS = "labels"
"""The kind of a model that gives labels."""


class LabelledSettings(FamilySettings):
    """A body under a head that gives labels instead of tokens."""

    kind: Literal["labels"] = "labels"
    """The family."""
    base: Body
    """The family that the body is of, and its settings."""
    labels: tuple[str, ...] = Field(min_length=2)
    """The name of each label."""
    each: Literal["text", "word"] = "text"
    """What has a label: a text as a whole, or each of its words."""
    pool: Literal["first", "last", "mean"] = "first"
    """Where a label is read: the first or the last position of the text (of the word), or the mean over the text."""
    hidden: Literal["none", "tanh", "relu"] = "none"
    """A layer between body and labels, as wide as the body, with this activation; none: labels are read at once."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of activations dropped before the labels while training."""

    @field_validator("base")
    @classmethod
    def _bare(cls, base: Body) -> Body:
        """The body alone: what BERT keeps for its first position is the layer of a head, and has no place in it."""
        without: dict[str, Any] = {"from_": None} | ({"pooler": False} if isinstance(base, EncoderSettings) else {})
        return base.model_copy(update=without)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.each == "word" and self.pool == "mean":
            raise ValueError("a word's label is read at its first or its last token, not at their mean")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("two labels have the same name")
        return self

    @property
    def layers(self) -> int:
        """Layers of the body."""
        return self.base.layers

    def matrices(self, vocabulary: int) -> list[int]:
        """As in every family."""
        return [*self.base.matrices(vocabulary), self.base.width * len(self.labels)]

    def tensors(self) -> int:
        """As in every family."""
        return self.base.tensors()
