"""The language of a text, by py3langid (Lui and Baldwin 2012), whose model lies in its package."""

from __future__ import annotations

import functools
from typing import Any

from idiolect.errors import missing_extra

SAMPLE = 900
"""Characters of a long text that are looked at."""


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise missing_extra("data", "py3langid", "telling languages apart") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language_of(text: str) -> tuple[str, float]:
    """The ISO 639-1 code of the language of `text` and its probability among the languages that are known.

    A text without letters has the language "und" (undetermined, ISO 639-2). Raises UserError without py3langid.
    """
    seen = sample(text, SAMPLE)
    if not any(map(str.isalpha, seen)):
        return "und", 1.0
    code, probability = _identifier().classify(seen)
    return str(code), float(probability)


def sample(text: str, characters: int) -> str:
    """The whole of a short text, else a third of that many characters each from its beginning, middle and end."""
    if len(text) <= characters:
        return text
    third, middle = characters // 3, len(text) // 2
    return f"{text[:third]}\n{text[middle - third // 2 : middle + third // 2]}\n{text[-third:]}"
