"""Models of all families in one table; torch-free but for what it describes.

Bits per byte over the same text are comparable whatever the tokenizer. Perplexities are a mean over tokens, so those of
different tokenizers are means over different things: the column shows them only while all rows share one tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from idiolect.errors import UserError
from idiolect.evaluate.score import Evaluation, finite

MUST_BEAT = {"unigram": None, "gzip": ("lstm", "decoder")}
"""The families that have to score below a baseline (None: all) before a table of trained models may be believed."""


@dataclass(frozen=True)
class Row:
    """One model, or one baseline."""

    name: str
    """What to call it."""
    family: str
    """The kind of model; of a baseline, its own name."""
    text: str
    """Fingerprint of the text it was scored on."""
    tokenizer: str | None = None
    """Fingerprint of its tokenizer; None when it works on bytes."""
    bits_per_byte: float | None = None
    perplexity: float | None = None
    tokens: int | None = None
    """Labels scored."""
    parameters: int | None = None
    baseline: bool = False
    reason: str | None = None
    """Why a number is missing."""

    @classmethod
    def of(cls, name: str, family: str, text: str, tokenizer: str, evaluation: Evaluation, **more: Any) -> Row:
        """The row of an evaluation."""
        numbers = {key: getattr(evaluation, key) for key in ("bits_per_byte", "perplexity", "tokens", "reason")}
        return cls(name, family, text, tokenizer, **numbers, **more)


def compare(rows: Sequence[Row], *, by: Literal["bits_per_byte", "perplexity"] = "bits_per_byte") -> dict[str, Any]:
    """{"rows": one mapping a row, the best first, "notes": why something is missing}; a missing number is None.

    Raises UserError when the rows were not scored on the same text, and when perplexities of different tokenizers are
    to be compared.
    """
    if not rows:
        raise UserError("there is nothing to compare", "name one or more models")
    stranger = next((row for row in rows if row.text != rows[0].text), None)
    if stranger:
        raise UserError(
            f"{rows[0].name} and {stranger.name} were scored on different texts",
            "score both on one text: `idiolect evaluate MODEL… --on FILE`",
        )
    tokenizers = {row.tokenizer for row in rows if row.perplexity is not None}
    apart = "perplexities of different tokenizers are means over different tokens and cannot be compared"
    if by == "perplexity" and len(tokenizers) > 1:
        raise UserError(apart, "compare bits per byte")
    ranked = sorted(rows, key=lambda row: math.inf if getattr(row, by) is None else getattr(row, by))
    shown = [
        {
            "model": row.name,
            "family": row.family,
            "bits_per_byte": finite(row.bits_per_byte),
            "perplexity": finite(row.perplexity) if len(tokenizers) == 1 else None,
            "tokens": row.tokens,
            "parameters": row.parameters,
        }
        for row in ranked
    ]
    notes = [f"{row.name}: {row.reason}" for row in ranked if row.reason]
    return {"rows": shown, "notes": [*notes, apart] if len(tokenizers) > 1 else notes}


def shortfalls(rows: Sequence[Row]) -> list[str]:
    """What a table of trained models must not show: a model that does not beat a baseline of MUST_BEAT."""
    out = []
    for baseline in rows:
        families = MUST_BEAT.get(baseline.family, ())
        for row in rows:
            if row.baseline or not baseline.baseline or (families is not None and row.family not in families):
                continue
            if row.bits_per_byte is None or baseline.bits_per_byte is None:
                continue
            if not row.bits_per_byte < baseline.bits_per_byte:
                out.append(
                    f"{row.name} needs {row.bits_per_byte:.3f} bits per byte, "
                    f"no fewer than {baseline.name} ({baseline.bits_per_byte:.3f})"
                )
    return out
