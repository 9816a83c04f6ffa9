"""Settings of generation; torch-free."""

from __future__ import annotations

from pydantic import Field

from idiolect.config import Settings


class DecodeSettings(Settings):
    """How the next token is chosen and when to stop. The defaults are plain ancestral sampling."""

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
    """Divide positive (multiply negative) logits of tokens already in the text (Keskar et al. 2019)."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of every token already generated."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time it was generated."""
    beams: int = Field(default=1, ge=1)
    """Beam search with this many hypotheses; 1 is no beam search."""
    length_penalty: float = Field(default=1.0, ge=0)
    """Beam scores are divided by length to this power; 0 compares plain log-probabilities."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are not part of it."""
    stop_tokens: tuple[int, ...] = ()
    """Ids that end the text, besides end-of-text."""
    seed: int = Field(default=0, ge=0)
    """Seed; each draw is keyed by (seed, request, position)."""
