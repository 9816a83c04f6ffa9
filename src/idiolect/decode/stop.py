"""When a text ends, and what of it may be shown already.

A criterion is any function (ids generated so far, their text so far) → a finish reason, or None to go on. Those the
settings ask for are made here; callers may add their own, so stopping is open to anything a program can decide.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

Criterion = Callable[[Sequence[int], str], str | None]

STOP, LENGTH, UNSEEN = "stop", "length", "unseen_context"
"""Finish reasons: an end-of-text, stop token or stop string; no room left; a context the model knows nothing about."""


def longest(tokens: int) -> Criterion:
    """Ends a text at this many tokens."""
    return lambda ids, text: LENGTH if len(ids) >= tokens else None


class StopStrings:
    """Passes text on up to the first stop string, which may arrive in any number of parts.

    Text is held back while it could still be the beginning of a stop string. The stop string that is complete first
    counts (of two complete at once, the longer), so the parts the text arrives in make no difference.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = strings
        self.held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that may be shown now, and whether a stop string has ended it."""
        self.held += text
        found = [(at + len(s), at) for s in self.strings if (at := self.held.find(s)) >= 0]
        if found:
            shown, self.held = self.held[: min(found)[1]], ""
            return shown, True
        cut = len(self.held) - self._open()
        shown, self.held = self.held[:cut], self.held[cut:]
        return shown, False

    def flush(self) -> str:
        """What was held back: the text has ended and no stop string came of it."""
        shown, self.held = self.held, ""
        return shown

    def _open(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        most = max((len(s) - 1 for s in self.strings), default=0)
        for length in range(min(most, len(self.held)), 0, -1):
            if any(s.startswith(self.held[-length:]) for s in self.strings):
                return length
        return 0


class Writer:
    """One text in the making: ids in, whole characters out, until an id, a stop string or a criterion ends it.

    Args:
        tokenizer: its `stream()` turns ids into text.
        prompt: ids the text goes on from (spaces between words, characters split across tokens); not shown again.
        ends: ids that end the text and are not part of it.
        strings: stop strings.
        criteria: asked in this order after each token.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: Sequence[int],
        ends: Collection[int] = (),
        strings: Sequence[str] = (),
        criteria: Sequence[Criterion] = (),
    ) -> None:
        self.ids: list[int] = []
        self.text = ""
        """All that was shown."""
        self._stream = tokenizer.stream()
        for id_ in prompt:
            self._stream.push(id_)
        self._ends = ends
        self._strings = StopStrings(strings)
        self._criteria = criteria

    def push(self, id_: int) -> tuple[str, str | None]:
        """Takes one id; returns the text to show now and, when the text ends here, the finish reason."""
        self.ids.append(id_)
        if id_ in self._ends:
            return self.end(), STOP
        shown, stopped = self._show(self._stream.push(id_))
        if stopped:
            return shown, STOP
        for criterion in self._criteria:
            reason = criterion(self.ids, self.text + self._strings.held)
            if reason is not None:
                return shown + self.end(), reason
        return shown, None

    def end(self) -> str:
        """The rest of the text, when it ends for a reason other than a stop string."""
        shown, stopped = self._show(self._stream.flush())
        if not stopped:
            rest = self._strings.flush()
            self.text += rest
            shown += rest
        return shown

    def _show(self, text: str) -> tuple[str, bool]:
        shown, stopped = self._strings.push(text)
        self.text += shown
        return shown, stopped
