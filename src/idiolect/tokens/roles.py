"""The control tokens: what ends, begins and fills a text, and what stands for unknown words."""

from __future__ import annotations

from dataclasses import dataclass

END, PAD, UNKNOWN = "<|endoftext|>", "<|pad|>", "<|unknown|>"
"""Our control tokens: ids 0 and 1, and 2 for the kinds that can meet words they do not know."""
MASK = "<|mask|>"
"""Hides a token from a model that is to fill it in; where it is wanted, the last id."""
SENTINEL = "<extra_id_{}>"
"""Each stands for one span that was left out of a text, as T5 calls them; where they are wanted, the last ids."""


@dataclass(frozen=True)
class Roles:
    """Which tokens steer a model, by their text."""

    end: str = END
    begin: str = END
    pad: str = PAD
    unknown: str | None = None
    mask: str | None = None
