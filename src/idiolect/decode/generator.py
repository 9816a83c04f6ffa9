"""What a program that asks a model for text needs to know: a `Generator`, here or (elsewhere) behind a URL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from idiolect.decode.generate import Completion, Piece, complete, stream
from idiolect.decode.settings import DecodeSettings
from idiolect.decode.stop import Criterion
from idiolect.models.contract import LanguageModel


class Generator(Protocol):
    """A prompt in, text out. Prompting, evaluation of tasks and rollouts know only this."""

    def stream(
        self, prompt: str | Sequence[int], settings: DecodeSettings, request: int = 0, until: Sequence[Criterion] = ()
    ) -> Iterator[Piece]:
        """The continuation as it is generated."""
        ...

    def complete(
        self,
        prompts: Sequence[str | Sequence[int]],
        settings: DecodeSettings,
        requests: Sequence[int] | None = None,
        until: Sequence[Criterion] = (),
    ) -> list[Completion]:
        """The finished continuation of each prompt."""
        ...


@dataclass(frozen=True)
class Local:
    """A model in this process."""

    model: LanguageModel
    tokenizer: Any

    def stream(
        self, prompt: str | Sequence[int], settings: DecodeSettings, request: int = 0, until: Sequence[Criterion] = ()
    ) -> Iterator[Piece]:
        """See `generate.stream`."""
        return stream(self.model, self.tokenizer, prompt, settings, request, until)

    def complete(
        self,
        prompts: Sequence[str | Sequence[int]],
        settings: DecodeSettings,
        requests: Sequence[int] | None = None,
        until: Sequence[Criterion] = (),
    ) -> list[Completion]:
        """See `generate.complete`."""
        return complete(self.model, self.tokenizer, prompts, settings, requests, until)
