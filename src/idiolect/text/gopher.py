"""The quality and repetition filters of Gopher: Rae et al. 2021, arXiv 2112.11446, appendix A.1.1 and table A1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from idiolect.text.document import Drop
from idiolect.text.page import Page
from idiolect.text.settings import GopherQualitySettings, GopherRepetitionSettings

BULLETS = ("•", "‣", "▶", "■", "□", "-")
"""What a line of a list begins with."""
ELLIPSES = ("...", "…")


def quality(page: Page, settings: GopherQualitySettings) -> Drop | None:
    """Drops what does not read as prose: too few or many words, symbols, lists, no common words."""
    pieces = page.pieces
    words = [piece for piece in pieces if piece.isalnum() or any(map(str.isalnum, piece))]
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

    Only where a run of n words comes again can one of n + 1 do so: each length looks at fewer places.
    """
    limits = [(limit, True) for limit in settings.top_runs] + [(limit, False) for limit in settings.repeated_runs]
    places: Sequence[int] = range(len(words))
    for n, (limit, top) in enumerate(limits, 2):
        runs = list(zip(*(words[i:] for i in range(n)))) if n == 2 else [tuple(words[i : i + n]) for i in places]
        counts = Counter(runs)
        most = max(counts.values(), default=1)
        if most == 1:
            return None
        if top:
            run = next(run for run, count in counts.items() if count == most)
            characters = min(whole, most * (sum(map(len, run)) + n - 1))  # they may overlap
        else:
            characters = _characters_again(runs, places, counts, n)
        if characters > limit * whole:
            return Drop(f"frequent run of {n} words" if top else f"repeated runs of {n} words", characters / whole)
        places = [i for i, run in zip(places, runs) if counts[run] > 1 and i + n < len(words)]
    return None


def _characters_again(
    runs: Sequence[tuple[str, ...]], places: Sequence[int], counts: Counter[tuple[str, ...]], n: int
) -> int:
    """The characters of runs that stood before, none counted twice: the text is walked from run to run."""
    seen: set[tuple[str, ...]] = set()
    characters = free = 0
    for place, run in zip(places, runs):
        if place < free or counts[run] == 1:
            continue
        if run in seen:
            characters += sum(map(len, run))
            free = place + n
        seen.add(run)
    return characters
