"""Filters that learn from the text itself before it is sifted: quality, toxicity and perplexity.

Each has a `learn_…` that writes what it learnt below a folder once, and a maker that reads it again in every process.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from idiolect import files, seeds
from idiolect.errors import UserError
from idiolect.text.document import Drop
from idiolect.text.examples import Examples
from idiolect.text.filtering.classifier import Classifier, draw, train
from idiolect.text.filtering.page import Filter, Page
from idiolect.text.read import read
from idiolect.text.settings import CurateSettings, QualitySettings, ToxicitySettings
from idiolect.text.stream import decoded, lines

HALVES = (0, 1)
QUALITY, TOXICITY, PERPLEXITY = "quality", "toxicity", "perplexity.json"
"""Where each filter's learning lies."""
NO_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Letters of scripts that set no space between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""

WORDS = re.compile(r"\w+|[^\w\s]")
"""Words and marks, however they are joined: a listed word is found in either/or, too."""

Heap = Callable[[], Iterable[str]]
"""Gives texts of the heap, from the first on."""


# Quality


def learn_quality(settings: CurateSettings, folder: Path, heap: Heap) -> dict[str, Any]:
    """Trains classifiers of the good text against the heap and says how well they tell held-out passages apart.

    There are two, each of one half of the heap's documents: a document is judged by the one that did not learn it as
    part of the heap, for a classifier knows again what it learnt, and the heap holds good documents too.
    """
    if not settings.quality.good:
        raise UserError("the filter quality has no good text to compare with", "name some in curate.quality.good")
    both = []
    for half in HALVES:
        good = (document.text for document in read(settings.quality.good))
        found = train(good, (text for text in heap() if _half(text) != half), settings.classifier)
        found.save(folder / QUALITY / str(half))
        both.append(found.about)
    sums = {name: sum(about[name] for about in both) for name in ("bad", "held_out", "auc")}
    return {"good": both[0]["good"], **sums, "auc": sums["auc"] / len(HALVES)}


def _half(text: str) -> int:
    """Which half of the heap a document is of, whatever its place."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) % len(HALVES)


def quality_filter(settings: CurateSettings, folder: Path) -> Filter:
    """The filter of what `learn_quality` learnt."""
    both = tuple(Classifier.load(folder / QUALITY / str(half)) for half in HALVES)
    return partial(quality, classifiers=both, settings=settings.quality)


def quality(page: Page, classifiers: Sequence[Classifier], settings: QualitySettings) -> Drop | None:
    """Drops what is unlike the good text.

    By the rule pareto a document of probability p is kept where a Pareto (Lomax) variable of shape alpha exceeds
    1 - p, which it does with probability (2 - p)^-alpha: Brown et al. 2020, arXiv 2005.14165, appendix A.
    """
    probability = classifiers[_half(page.text)].probability(page.text)
    if settings.rule == "threshold":
        kept = probability >= settings.threshold
    else:
        chance = seeds.uniform(0, "quality", page.document.id)
        kept = chance < (2 - probability) ** -settings.alpha
    return None if kept else Drop("unlike the good text", probability)


# Toxicity


def learn_toxicity(settings: CurateSettings, folder: Path, heap: Heap) -> dict[str, Any]:
    """Trains a classifier of the labelled texts, where there are some, and says how well it tells the labels apart."""
    own = settings.toxicity
    if own.words is None and own.labelled is None:
        raise UserError(
            "the filter toxicity has neither words nor labelled texts to go by",
            "name a file of words in curate.toxicity.words or of labelled texts in curate.toxicity.labelled",
        )
    if own.words is not None:
        Listed(own.words)  # what is wrong with it is said before the work begins
    if own.labelled is None:
        return {}
    rows = Examples((own.labelled,), (own.text_field, own.label_field))

    def texts(flagged: bool) -> Iterator[str]:
        return (row[own.text_field] for row in rows if (row[own.label_field].strip() == own.label) == flagged)

    found = train(texts(True), texts(False), settings.classifier)
    found.save(folder / TOXICITY)
    return found.about


def toxicity_filter(settings: CurateSettings, folder: Path) -> Filter:
    """The filter of the word list and of what `learn_toxicity` learnt."""
    own = settings.toxicity
    listed = None if own.words is None else Listed(own.words)
    classifier = None if own.labelled is None else Classifier.load(folder / TOXICITY)
    return partial(toxicity, listed=listed, classifier=classifier, settings=own)


def toxicity(
    page: Page, listed: Listed | None, classifier: Classifier | None, settings: ToxicitySettings
) -> Drop | None:
    """Drops what holds a listed word or phrase, or is probably of the kind that is dropped."""
    if listed is not None and (word := listed.first(page)) is not None:
        return Drop("listed word", word)
    if classifier is not None and (probability := classifier.probability(page.text)) >= settings.threshold:
        return Drop("toxic", probability)
    return None


class Listed:
    """Words and phrases, looked for as whole words whatever their case; as they stand in scripts without spaces."""

    def __init__(self, path: Path) -> None:
        entries = {line.strip().lower() for line in lines(decoded(path), path)} - {""}
        if not entries:
            raise UserError(f"{path} holds no words", "write one a line")
        self.inside = tuple(sorted(entry for entry in entries if NO_SPACES.search(entry)))
        self.phrases: dict[str, list[tuple[str, ...]]] = {}
        """First word or mark → phrases that begin with it."""
        for entry in sorted(entries.difference(self.inside)):
            phrase = tuple(WORDS.findall(entry))
            self.phrases.setdefault(phrase[0], []).append(phrase)

    def first(self, page: Page) -> str | None:
        """The first of them that is found in a document."""
        words = WORDS.findall(page.text.lower())
        if not self.phrases.keys().isdisjoint(words):
            for place, word in enumerate(words):
                for phrase in self.phrases.get(word, ()):
                    if tuple(words[place : place + len(phrase)]) == phrase:
                        return " ".join(phrase)
        if self.inside:
            lower = page.text.lower()
            return next((entry for entry in self.inside if entry in lower), None)
        return None


# Perplexity

Model = Callable[[str], float]
"""The perplexity per word of a text."""


def learn_perplexity(settings: CurateSettings, folder: Path, heap: Heap, model: Model | None) -> dict[str, Any]:
    """Finds the perplexity below which the asked share of the heap lies."""
    own, ask = settings.perplexity, _given(model)
    about: dict[str, Any] = {"max": own.max}
    if own.keep < 1:
        values = sorted(map(ask, draw(filter(str.strip, heap()), own.documents, own.seed, "perplexity")))
        if not values:
            raise UserError("there is no text to measure the perplexity of", "give files with text in them")
        about = {"max": values[math.ceil(own.keep * len(values)) - 1], "documents": len(values)}
        if own.max is not None:
            about["max"] = min(own.max, about["max"])
        if not math.isfinite(about["max"]):
            raise UserError("the model finds most of the text impossible", "take another model, or keep fewer")
    files.make_folder(folder)
    files.write_json(folder / PERPLEXITY, about)
    return about


def perplexity_filter(settings: CurateSettings, folder: Path, model: Model | None) -> Filter:
    """The filter of what `learn_perplexity` found."""
    most = files.read_json(folder / PERPLEXITY)["max"]
    limits = settings.perplexity.min, math.inf if most is None else most
    return partial(perplexity, model=_given(model), limits=limits)


def _given(model: Model | None) -> Model:
    if model is None:
        raise UserError("the filter perplexity has no model to ask", "name one, such as the run folder of an n-gram")
    return model


def perplexity(page: Page, model: Model, limits: tuple[float, float]) -> Drop | None:
    """Drops what a model finds too plain or too strange: Wenzek et al. 2020 (CCNet), arXiv 1911.00359, section 4.2."""
    value = model(page.text)
    if value < limits[0]:
        return Drop("low perplexity", value)
    if value > limits[1]:
        return Drop("high perplexity", value if math.isfinite(value) else "infinite")
    return None
