"""Tables within a decoder's settings: how rotary positions are scaled, and its experts; torch-free."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from idiolect.config import Settings


class LinearRope(Settings):
    """Every frequency is divided by a factor (Chen et al. 2023, arXiv 2306.15595, eq. 4)."""

    kind: Literal["linear"]
    """The scaling."""
    factor: float = Field(gt=0)
    """How many times as long a text is to look as long as before."""


class Llama3Rope(Settings):
    """Low frequencies are divided by a factor, high ones kept, those between blended (Llama 3.1's own code)."""

    kind: Literal["llama3"]
    """The scaling."""
    factor: float = Field(default=8.0, gt=0)
    """What low frequencies are divided by."""
    low_frequency_factor: float = Field(default=1.0, gt=0)
    """Low: those that turn less than this many times within `original_context`."""
    high_frequency_factor: float = Field(default=4.0, gt=0)
    """High: those that turn more than this many times within `original_context`."""
    original_context: int = Field(ge=1)
    """Longest sequence before the scaling, in tokens."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.high_frequency_factor <= self.low_frequency_factor:
            raise ValueError("high_frequency_factor must be above low_frequency_factor")
        return self


class YarnRope(Settings):
    """YaRN: frequencies blended by how often they turn, scores sharpened (Peng et al. 2023, arXiv 2309.00071)."""

    kind: Literal["yarn"]
    """The scaling."""
    factor: float = Field(gt=0)
    """What the frequencies of components that turn slowly are divided by (the paper's s)."""
    original_context: int = Field(ge=1)
    """Longest sequence before the scaling, in tokens."""
    fast: float = Field(default=32.0, gt=0)
    """Components that turn more often than this within `original_context` are kept (the paper's beta)."""
    slow: float = Field(default=1.0, gt=0)
    """Components that turn less often are divided by the factor (the paper's alpha)."""
    truncate: bool = True
    """Whether the bounds between components are rounded outwards to whole ones."""
    attention_factor: float | None = Field(default=None, gt=0)
    """Multiplies queries and keys; unset: 0.1 ln(factor) + 1 (the paper's eq. 22), 1 for factors up to 1."""


class LongRope(Settings):
    """LongRoPE: a factor for each component, others once a text is long (Ding et al. 2024, arXiv 2402.13753; Phi-3).

    A token's distribution is that of the text up to it: the factors change when the text outgrows `original_context`.
    """

    kind: Literal["longrope"]
    """The scaling."""
    short: tuple[Annotated[float, Field(gt=0)], ...]
    """What the frequencies are divided by in texts up to `original_context`; one number for each pair of components."""
    long: tuple[Annotated[float, Field(gt=0)], ...]
    """The same in longer texts."""
    original_context: int = Field(ge=2)
    """Longest sequence before the scaling, in tokens."""
    attention_factor: float | None = Field(default=None, gt=0)
    """Multiplies queries and keys; unset: sqrt(1 + ln(context / original_context) / ln(original_context)), at least
    1."""


RopeScaling = Annotated[LinearRope | Llama3Rope | YarnRope | LongRope, Field(discriminator="kind")]


class ExpertSettings(Settings):
    """A mixture of experts in the place of a layer's MLP: each token is sent to a few of many."""

    count: int = Field(default=8, ge=2)
    """Experts a layer."""
    per_token: int = Field(default=2, ge=1)
    """Experts that each token is sent to."""
    width: int | None = Field(default=None, ge=1)
    """Hidden width of an expert; unset: that of the MLP."""
    shared_width: int | None = Field(default=None, ge=1)
    """Hidden width of one more expert that every token is sent to, behind a sigmoid gate (Qwen2-MoE); unset: none."""
    normalised: bool = True
    """Whether the weights of a token's experts sum to 1 (Mixtral); else they are their shares among all experts."""
    dense_layers: tuple[int, ...] = ()
    """Layers, from 0, that keep the plain MLP."""
    balance: float = Field(default=0.01, ge=0)
    """Weight of the loss that keeps the load of the experts even; 0 leaves it out."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.per_token > self.count:
            raise ValueError(f"per_token ({self.per_token}) must be at most count ({self.count})")
        return self
