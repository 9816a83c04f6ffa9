"""Filters: what a document must be to be kept. Each is one function and one line in FILTERS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from idiolect.text.document import Drop
from idiolect.text.page import Page
from idiolect.text.settings import CurateSettings

Filter = Callable[[Page], Drop | None]
"""None keeps a document; a Drop says why it is left out."""


class Resources(NamedTuple):
    """What filters need besides their settings; all of it can be sent to another process."""

    folder: Path | None = None
    """Where what was learnt for this curation lies: the classifiers' weights."""
    perplexity: Callable[[str], float] | None = None
    """The perplexity per word of a text under a model."""


FILTERS: dict[str, Callable[[CurateSettings, Resources], Filter]] = {}
"""How each filter is made, by name."""
