"""The quality and repetition filters of Gopher: Rae et al. 2021, arXiv 2112.11446, appendix A.1.1 and table A1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

from idiolect.text.document import Drop
from idiolect.text.filtering.page import Page
from idiolect.text.settings import GopherQualitySettings, GopherRepetitionSettings

BULLETS = ("•", "‣", "▶", "■", "□", "-")
"""What a line of a list begins with."""
ELLIPSES = ("...", "…")
Run = tuple[Any, str]
"""Words in a row: all but the last, and the last."""


def quality(page: Page, settings: GopherQualitySettings) -> Drop | None:
    """Drops what does not read as prose: too few or many words, symbols, lists, no common words."""
    pieces = page.pieces
    words = [piece for piece in pieces if piece.isalnum() or (len(piece) > 1 and any(map(str.isalnum, piece)))]
    if len(words) < settings.min_words or not words:
        return Drop("few words", len(words))
    if len(words) > settings.max_words:
        return Drop("many words", len(words))
    length = sum(map(len, words)) / len(words)
    if length < settings.min_word_length:
        return Drop("short words", length)
    if length > settings.max_word_length:
        return Drop("long words", length)
    hashes = page.text.count("#") / len(pieces)
    if hashes > settings.max_symbols:
        return Drop("many hashes", hashes)
    ellipses = sum(map(page.text.count, ELLIPSES)) / len(pieces)
    if ellipses > settings.max_symbols:
        return Drop("many ellipses", ellipses)
    lines = page.full_lines
    bullets = sum(line.lstrip().startswith(BULLETS) for line in lines) / len(lines)
    if bullets > settings.max_bullet_lines:
        return Drop("many bullet points", bullets)
    trailing = sum(line.rstrip().endswith(ELLIPSES) for line in lines) / len(lines)
    if trailing > settings.max_ellipsis_lines:
        return Drop("many lines end in an ellipsis", trailing)
    letters = sum(word.isalpha() or any(map(str.isalpha, word)) for word in words) / len(pieces)
    if letters < settings.min_with_letters:
        return Drop("few words with letters", letters)
    common = len(set(settings.common_words).intersection(words))
    if common < settings.min_common_words:
        return Drop("few common words", common)
    return None


def repetition(page: Page, settings: GopherRepetitionSettings) -> Drop | None:
    """Drops what says the same again and again: paragraphs, lines, or runs of words."""
    whole = len(page.text)
    for name, parts, most, most_characters in (
        ("paragraphs", page.paragraphs, settings.paragraphs, settings.paragraph_characters),
        ("lines", page.full_lines, settings.lines, settings.line_characters),
    ):
        again = repeated(parts)
        if len(again) > most * len(parts):
            return Drop(f"repeated {name}", len(again) / len(parts))
        if (share := sum(map(len, again))) > most_characters * whole:
            return Drop(f"characters in repeated {name}", share / whole)
    return _repeated_runs(page.pieces, whole, settings)


def repeated(parts: Sequence[str]) -> list[str]:
    """Those of `parts` that stood before."""
    seen: set[str] = set()
    if len(set(parts)) == len(parts):
        return []
    return [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]


def _repeated_runs(words: Sequence[str], whole: int, settings: GopherRepetitionSettings) -> Drop | None:
    """The most frequent runs of 2, 3, … words and, from the next length on, all runs that stood before.

    Only where a run of n words comes again can one of n + 1 do so: each length looks at fewer places. A run of n + 1
    words is a pair: that of its first n, and its last word.
    """
    limits = [(limit, True) for limit in settings.top_runs] + [(limit, False) for limit in settings.repeated_runs]
    lowest = min(settings.repeated_runs, default=1.0)
    places: Sequence[int] = range(len(words) - 1)
    runs: list[Run] = list(zip(words, words[1:]))
    for n, (limit, top) in enumerate(limits, 2):
        counts = Counter(runs)
        if len(counts) == len(runs):
            return None
        again = list(map((1).__lt__, map(counts.__getitem__, runs)))
        places, runs = list(compress(places, again)), list(compress(runs, again))
        if top:
            characters = _most_frequent(words, places, runs, counts, n)
        else:
            if n == len(settings.top_runs) + 2 and _again(words, places, runs, n, 1) <= lowest * whole:
                return None  # longer runs lie within these
            characters = _again(words, places, runs, n, n)
        share = min(1.0, characters / whole)  # a frequent run may overlap itself
        if share > limit:
            return Drop(f"frequent run of {n} words" if top else f"repeated runs of {n} words", share)
        if places[-1] + n == len(words):
            del places[-1], runs[-1]
        runs = list(zip(runs, [words[place + n] for place in places]))
    return None


def _most_frequent(
    words: Sequence[str], places: Sequence[int], runs: Sequence[Run], counts: Mapping[Run, int], n: int
) -> int:
    """The characters of the most frequent run, its words set apart by a space, times how often it comes."""
    most = max(counts.values())
    place = next(place for place, run in zip(places, runs) if counts[run] == most)
    return most * (sum(map(len, words[place : place + n])) + n - 1)


def _again(words: Sequence[str], places: Sequence[int], runs: Sequence[Run], n: int, step: int) -> int:
    """The characters of runs that stood before, none counted twice.

    The text is walked from each such run to the word that lies `step` after its first: with n from run to run, as the
    rule has it; with 1 through all of them, which is the most that any walk finds, of longer runs too.
    """
    seen: set[Run] = set()
    characters = next_place = counted = 0
    for place, run in zip(places, runs):
        if place < next_place:
            continue
        if run in seen:
            characters += sum(map(len, words[max(place, counted) : place + n]))
            counted, next_place = place + n, place + step
        seen.add(run)
    return characters
