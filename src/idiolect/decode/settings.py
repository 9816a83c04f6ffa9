"""Settings of generation; torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from idiolect.config import Settings
from idiolect.errors import UserError

Precision = Literal["stored", "fp32", "bf16"]
"""What a network's weights, and what it remembers, are kept in; bf16 is half the memory to read for each token."""


Pool = Literal["mean", "cls", "last"]
"""What becomes the vector of a text: the mean over its tokens, its first token's vector, or its last one's."""


class DecodeSettings(Settings):
    """How the next token is chosen and when to stop. The defaults are plain ancestral sampling.

    Order: repetition, presence and frequency penalties, then temperature, top_k, top_p, min_p, each on what the one
    before has left, renormalised.
    """

    max_tokens: int = Field(default=200, ge=1)
    """Most tokens generated."""
    temperature: float = Field(default=1.0, ge=0)
    """Logits are divided by it; 0 is greedy."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k most probable tokens; 0 keeps all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the smallest set of tokens whose probability reaches p."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Keep tokens of at least this share of the most probable one's probability."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Divide positive (multiply negative) logits of tokens already in prompt or text (Keskar et al. 2019)."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of every token already generated."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time it was generated."""
    beams: int = Field(default=1, ge=1, le=1024)
    """Beam search with this many hypotheses; 1 is no beam search."""
    length_penalty: float = Field(default=1.0, ge=0)
    """Beam scores are divided by length to this power; 0 compares plain log-probabilities."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are not part of it."""
    stop_tokens: tuple[int, ...] = ()
    """Ids that end the text, besides end-of-text; they are not part of the text."""
    seed: int = Field(default=0, ge=0)
    """Seed; each draw is keyed by (seed, request, position)."""

    @model_validator(mode="after")
    def _check(self) -> DecodeSettings:
        """Raises UserError (not ValueError, so that Python callers get the line that mends it too)."""
        sampling = [name for name in SAMPLING if getattr(self, name) != type(self).model_fields[name].default]
        if self.beams > 1 and sampling:
            raise UserError(
                f"beams ({self.beams}) and {', '.join(sampling)} exclude each other: beam search draws nothing and "
                "looks for the text most probable under the model itself",
                f"leave out beams, or {', '.join(sampling)}",
            )
        if self.beams == 1 and self.length_penalty != type(self).model_fields["length_penalty"].default:
            raise UserError("length_penalty has no effect without beam search", "give beams too, or leave it out")
        if "" in self.stop:
            raise UserError("a stop string is empty, it would stop before the first token", "leave it out")
        return self


class AnswerSettings(DecodeSettings):
    """The same for answers, which are looked for rather than drawn: greedy, unless told otherwise."""

    temperature: float = Field(default=0.0, ge=0)
    """Logits are divided by it; 0 is greedy."""


class ChatSettings(DecodeSettings):
    """The same for the answers of a conversation: drawn, but not of the least likely tokens."""

    max_tokens: int = Field(default=512, ge=1)
    """Most tokens of an answer."""
    temperature: float = Field(default=0.7, ge=0)
    """Logits are divided by it; 0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Keep the smallest set of tokens whose probability reaches p."""


SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
"""The settings that reshape the distribution of a draw."""
