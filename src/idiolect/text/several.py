"""Corpora, or examples, one after another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from idiolect.text.passport import Passport


@dataclass(frozen=True)
class Several:
    """What is read of each part, the parts in their order."""

    parts: tuple[Any, ...]
    """Each has a fingerprint and passports, and can be read again and again."""

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.parts)

    def passports(self) -> Iterator[Passport]:
        """Those of each part's documents."""
        return chain.from_iterable(part.passports() for part in self.parts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over those of the parts; of one part, its own."""
        prints = [str(part.fingerprint) for part in self.parts]
        return prints[0] if len(prints) == 1 else hashlib.sha256("\n".join(prints).encode("ascii")).hexdigest()
