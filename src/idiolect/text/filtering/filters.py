"""Filters: what a document must be to be kept. Each is one function and one line in FILTERS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from idiolect.text.document import Drop
from idiolect.text.filtering import consent, decontaminate, gopher, learnt, web_rules
from idiolect.text.filtering.page import Cleaner, Filter, Page
from idiolect.text.settings import CurateSettings, LanguageSettings, LengthSettings


class Resources(NamedTuple):
    """What filters need besides their settings; all of it can be sent to another process."""

    folder: Path | None = None
    """Where what was learnt for this curation lies: the classifiers' weights."""
    perplexity: Callable[[str], float] | None = None
    """The perplexity per word of a text under a model."""

    @property
    def learnt(self) -> Path:
        """The folder, where there must be one."""
        assert self.folder is not None, "a filter that learns needs a folder"
        return self.folder


def length(page: Page, settings: LengthSettings) -> Drop | None:
    """Drops what is too short or too long."""
    characters, words = len(page.text), len(page.words)
    if characters < settings.min_characters:
        return Drop("few characters", characters)
    if characters > settings.max_characters:
        return Drop("many characters", characters)
    if words < settings.min_words:
        return Drop("few words", words)
    if words > settings.max_words:
        return Drop("many words", words)
    return None


def language(page: Page, settings: LanguageSettings) -> Drop | None:
    """Drops what is not surely in one of the languages that are kept."""
    if not settings.keep:
        return None
    code, probability = page.language
    if code not in settings.keep:
        return Drop("other language", code)
    if probability < settings.min_probability:
        return Drop("uncertain language", probability)
    return None


FILTERS: dict[str, Callable[[CurateSettings, Resources], Filter]] = {
    "length": lambda settings, _: partial(length, settings=settings.length),
    "language": lambda settings, _: partial(language, settings=settings.language),
    "gopher_quality": lambda settings, _: partial(gopher.quality, settings=settings.gopher_quality),
    "gopher_repetition": lambda settings, _: partial(gopher.repetition, settings=settings.gopher_repetition),
    "c4": lambda settings, _: partial(web_rules.c4, settings=settings.c4),
    "fineweb": lambda settings, _: partial(web_rules.fineweb, settings=settings.fineweb),
    "sites": lambda settings, _: consent.sites(settings.consent),
    "robots": lambda settings, _: consent.honour(settings.consent),
    "licence": lambda settings, _: consent.licence(settings.consent),
    "removed": lambda settings, _: consent.removed(settings.consent),
    "symbols": lambda settings, _: partial(web_rules.symbols, settings=settings.symbols),
    "quality": lambda settings, given: learnt.quality_filter(settings, given.learnt),
    "toxicity": lambda settings, given: learnt.toxicity_filter(settings, given.learnt),
    "perplexity": lambda settings, given: learnt.perplexity_filter(settings, given.learnt, given.perplexity),
    "decontaminate": lambda settings, _: decontaminate.decontaminate(settings),
}
"""How each filter is made, by name."""

LEARN: dict[str, Callable[[CurateSettings, Resources, learnt.Heap], dict[str, Any]]] = {
    "quality": lambda settings, given, heap: learnt.learn_quality(settings, given.learnt, heap),
    "toxicity": lambda settings, given, heap: learnt.learn_toxicity(settings, given.learnt, heap),
    "perplexity": lambda settings, given, heap: learnt.learn_perplexity(settings, given.learnt, heap, given.perplexity),
}
"""What must be done once, before these filters are made: with texts of the heap, into the folder. Returns what is worth
knowing, such as the "auc" of a classifier."""

NEED_SLICES = frozenset({"toxicity"})
"""Filters that must not drop anything before the rate of their flags was seen by slice."""

CLEANERS: dict[str, Callable[[CurateSettings], Cleaner]] = {
    "c4": lambda settings: partial(web_rules.c4_lines, settings=settings.c4),
}
"""How each step is made that takes lines out of a text, by name."""
