"""Personal data in a text, found and replaced by what kind of it was there."""

from __future__ import annotations

import bisect
import functools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from idiolect.errors import UserError
from idiolect.text.personal import detectors
from idiolect.text.personal.detectors import Detector, Spans, Stretch
from idiolect.text.personal.phones import Phones
from idiolect.text.settings import PrivacySettings

KINDS: dict[str, Callable[[PrivacySettings], Detector]] = {
    "key": lambda settings: detectors.keys,
    "iban": lambda settings: detectors.ibans,
    "email": lambda settings: detectors.emails,
    "card": lambda settings: _in_digits(detectors.cards),
    "id": lambda settings: _in_digits(detectors.national),
    "ip": lambda settings: detectors.addresses(settings.every_address),
    "phone": lambda settings: _in_digits(Phones(settings.regions)),
}
"""How each kind is found; of two finds that overlap, the kind that comes first here is the surer one."""


def _in_digits(stretch: Stretch) -> Detector:
    def find(text: str) -> Spans:
        for start, end in _islands(text):
            yield from stretch(text, start, end)

    return find


_islands = functools.lru_cache(maxsize=1)(detectors.islands)  # three kinds ask for those of one text


ROUNDS = 10
"""Times that a text is gone through at most; one without finds is once, others mostly twice."""


class Span(NamedTuple):
    """Where something is."""

    start: int
    end: int
    kind: str


class Redactor:
    """Finds personal data of some kinds; calling it replaces each find by a placeholder.

    What a call returns holds nothing that another call would find, but for a text made so that each find hides the
    next, of which no more than ROUNDS are followed. It is built in each process that uses it.
    """

    def __init__(self, settings: PrivacySettings) -> None:
        """Raises UserError for phone numbers without the package or of an unknown region, and for a bad placeholder."""
        self.detectors = {kind: KINDS[kind](settings) for kind in KINDS if kind in settings.redact}
        try:
            self.placeholders = {kind: settings.placeholder.format(kind=kind.upper()) for kind in KINDS}
        except (LookupError, ValueError):
            raise _bad_placeholder(settings.placeholder, "cannot be filled in") from None
        self.shown = frozenset(self.placeholders.values())
        if any(map(self.find, self.shown)):
            raise _bad_placeholder(settings.placeholder, "looks like personal data itself")

    def __call__(self, text: str) -> tuple[str, Counter[str]]:
        """The text with placeholders, and how often each kind was there."""
        total: Counter[str] = Counter()
        for _ in range(ROUNDS):  # a find may have hidden another
            found = self.find(text)
            if not found:
                break
            pieces, at = [], 0
            for span in found:
                pieces += [text[at : span.start], self.placeholders[span.kind]]
                at = span.end
            text = "".join([*pieces, text[at:]])
            total.update(span.kind for span in found)
        return text, total

    def find(self, text: str) -> list[Span]:
        """All finds in order; none overlaps another."""
        found: list[tuple[int, int, Span]] = []
        for rank, (kind, detector) in enumerate(self.detectors.items()):
            for start, end in detector(text):
                if text[start:end] not in self.shown:
                    found.append((rank, start - end, Span(start, end, kind)))
        if len(found) > 1:
            return _apart(span for *_, span in sorted(found))
        return [span for *_, span in found]


def _bad_placeholder(placeholder: str, why: str) -> UserError:
    return UserError(f"the placeholder {placeholder!r} {why}", "write one with {kind} in it, such as <{kind}>")


def _apart(spans: Iterable[Span]) -> list[Span]:
    """Those that overlap none before them, in the order of the text."""
    taken: list[Span] = []
    for span in spans:
        at = bisect.bisect(taken, span)
        if at and taken[at - 1].end > span.start or at < len(taken) and taken[at].start < span.end:
            continue
        taken.insert(at, span)
    return taken


class Labelled(NamedTuple):
    """A text, and all that is personal in it."""

    text: str
    spans: tuple[Span, ...]


class Score(NamedTuple):
    """How well a kind is found."""

    found: int
    """Spans that are right: the same place and kind, to the character."""
    missed: int
    wrong: int
    """Finds that are none, or lie elsewhere."""

    @property
    def recall(self) -> float:
        """Of what was there, the share that was found."""
        return self.found / max(1, self.found + self.missed)

    @property
    def precision(self) -> float:
        """Of what was found, the share that was there."""
        return self.found / max(1, self.found + self.wrong)


def evaluate(redactor: Redactor, labelled: Iterable[Labelled]) -> dict[str, Score]:
    """How well each kind is found in texts of which one knows what they hold."""
    counts: dict[str, list[int]] = {kind: [0, 0, 0] for kind in redactor.detectors}
    for text, spans in labelled:
        found, true = set(redactor.find(text)), {span for span in spans if span.kind in counts}
        for place, some in enumerate((found & true, true - found, found - true)):
            for span in some:
                counts[span.kind][place] += 1
    return {kind: Score(*of) for kind, of in counts.items()}
