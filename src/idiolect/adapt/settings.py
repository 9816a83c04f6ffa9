"""Settings of edits; torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from idiolect.config import Settings
from idiolect.models.settings import (
    DecoderSettings,
    EncoderDecoderSettings,
    EncoderSettings,
    EncoderSideSettings,
    FamilySettings,
    RecurrentSettings,
    SideSettings,
)

Bodies = RecurrentSettings | DecoderSettings | EncoderSettings | EncoderDecoderSettings
"""The families that can carry a head for labels: a body reads one text and nothing else, in the last its encoder."""
Body = Annotated[Bodies, Field(discriminator="kind")]


def reader(settings: EncoderDecoderSettings) -> EncoderSettings | EncoderSideSettings:
    """The settings of the encoder alone."""
    if settings.encoder is not None:
        return settings.encoder
    names = SideSettings.model_fields.keys() - {"kind", "from_"}
    side = {name: getattr(settings, name) for name in names} | {"layers": settings.n_encoder}
    return EncoderSideSettings.model_validate(side)


LABELS = "labels"
"""The kind of a model that gives labels."""


class LabelledSettings(FamilySettings):
    """A body under a head that gives labels instead of tokens."""

    kind: Literal["labels"] = "labels"
    """The family."""
    base: Body
    """The family that the body is of, and its settings."""
    labels: tuple[str, ...] = Field(min_length=1)
    """The name of each label; of a number, its own."""
    each: Literal["text", "word", "number"] = "text"
    """What has a label: a text as a whole, or each of its words; or a text has a number."""
    mean: float = 0.0
    """The number that an output of 0 stands for …"""
    deviation: float = Field(default=1.0, gt=0)
    """… and what an output of 1 adds to it."""
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
        if (len(self.labels) == 1) != (self.each == "number"):
            raise ValueError("labels are two or more, and of a number there is one")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("two labels have the same name")
        return self

    @property
    def reads(self) -> RecurrentSettings | DecoderSettings | EncoderSettings | EncoderSideSettings:
        """The settings of what reads the text: the body, or of an encoder-decoder its encoder."""
        return reader(self.base) if isinstance(self.base, EncoderDecoderSettings) else self.base

    @property
    def layers(self) -> int:
        """Layers of the body."""
        return self.reads.layers

    def matrices(self, vocabulary: int) -> list[int]:
        """As in every family."""
        return [*self.reads.matrices(vocabulary), self.base.width * len(self.labels)]

    def tensors(self) -> int:
        """As in every family."""
        return self.reads.tensors()


class EditSettings(Settings):
    """What every way of adapting a model has: most weights stay as they are, to the bit."""

    kind: str
    """The way."""


class SelectiveSettings(EditSettings):
    """Only some of a model's own parameters train; what is saved is a whole model."""

    kind: Literal["selective"] = "selective"
    """Some of the model's own parameters."""
    parameters: tuple[str, ...] = ()
    """Patterns of names of parameters that train, such as "blocks.3.mlp.*" or "*.query.weight"."""
    biases: bool = False
    """Whether all biases train (BitFit: Ben Zaken et al. 2022)."""
    norms: bool = False
    """Whether the weights and biases of all norms train."""
    last_blocks: int = Field(default=0, ge=0)
    """How many blocks train, the last ones of each stack."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.parameters or self.biases or self.norms or self.last_blocks):
            raise ValueError("nothing is said to train: set parameters, biases, norms or last_blocks")
        return self


class FrozenSettings(EditSettings):
    """What is added to a model whose own weights all stay as they are."""

    base: Literal["stored", "int8", "nf4"] = "stored"
    """What the matrices of frozen blocks are kept in: as they are, or quantised in blocks of 64 numbers, to 8 bits, or
    to 4 bits of a normal distribution (QLoRA: Dettmers et al. 2023)."""
    double_quantised: bool = False
    """Whether the scales of an nf4 base are quantised themselves, to 8 bits."""

    @model_validator(mode="after")
    def _check_base(self) -> Self:
        if self.double_quantised and self.base != "nf4":
            raise ValueError("double_quantised is for base=nf4")
        return self


class LoraSettings(FrozenSettings):
    """Products of two narrow matrices added to linear layers: y = W x + s B A x (Hu et al. 2021, arXiv 2106.09685)."""

    kind: Literal["lora"] = "lora"
    """Low-rank updates of linear layers, and of embeddings."""
    targets: tuple[str, ...] | None = None
    """Patterns of names of layers, such as "attention.query", "blocks.3.mlp.*", "embedding" or "head"; unset: all of
    attention and MLP, but for those of experts."""
    rank: int = Field(default=8, ge=1)
    """Rows of A and columns of B (r)."""
    alpha: float = Field(default=16.0, gt=0)
    """What s is made of: s = alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of what A reads that is dropped while training."""
    rslora: bool = False
    """s = alpha / √rank in place of alpha / rank (Kalajdzievski 2023, arXiv 2312.03732)."""
    dora: bool = False
    """Learn the length of each row of the sum apart from its direction (DoRA: Liu et al. 2024, arXiv 2402.09353)."""

    @property
    def scale(self) -> float:
        """The factor s."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


class AdapterSettings(FrozenSettings):
    """Small networks after attention and MLP: y + U f(D y) (Houlsby et al. 2019, arXiv 1902.00751, section 2)."""

    kind: Literal["adapter"] = "adapter"
    """Bottleneck adapters."""
    width: int = Field(default=32, ge=1)
    """Numbers that are left in between."""
    activation: Literal["gelu", "relu", "swish"] = "gelu"
    """The function f."""
    places: tuple[Literal["attention", "mlp"], ...] = Field(default=("attention", "mlp"), min_length=1)
    """The sublayers that have one after them."""


class SoftPromptSettings(FrozenSettings):
    """Learnt vectors before the embedded input (Lester et al. 2021, arXiv 2104.08691)."""

    kind: Literal["soft-prompt"] = "soft-prompt"
    """A soft prompt."""
    tokens: int = Field(default=20, ge=1)
    """How many vectors; the context left for text is shorter by as many."""
    start: Literal["vocabulary", "random"] = "vocabulary"
    """What they are at first: rows of the embedding, drawn evenly, or numbers as large as those."""


Adapt = SelectiveSettings | LoraSettings | AdapterSettings | SoftPromptSettings
AdaptSettings = Annotated[Adapt, Field(discriminator="kind")]
