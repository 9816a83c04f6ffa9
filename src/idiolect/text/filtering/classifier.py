"""A linear classifier of texts over hashed words and pairs of words, trained on the spot.

The idea is fastText's (Joulin et al. 2016, arXiv 1607.01759) without its hidden layer, so that the loss is convex: a
text is a vector of the square roots of how often each word and each pair of neighbours occurs, of length 1, and the
logistic loss is brought down by stochastic steps whose size falls to 0.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idiolect import files, seeds
from idiolect.errors import UserError
from idiolect.text.filtering.language import sample
from idiolect.text.filtering.page import PIECES
from idiolect.text.settings import ClassifierSettings

WEIGHTS, ABOUT = "weights.npy", "classifier.json"
FEWEST = 10
"""Passages of each kind without which nothing is learnt."""
PAIR, SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
"""Odd multipliers that spread a hash over 64 bits."""
BINS, SHAPE = 8, 0.2
"""Bins of a figure about the shape of a text, and how much one weighs."""
Vector = tuple[np.ndarray, np.ndarray]
"""The places and the values of what is not 0: int64 [N], float32 [N]."""


@dataclass(frozen=True)
class Classifier:
    """How probable it is that a text is of the good kind."""

    weights: np.ndarray
    """float32 [2^bits + 1]; the last is the bias."""
    characters: int
    """Characters of a text that are looked at."""
    about: dict[str, Any]
    """What it was trained on and how well it tells the held-out texts apart."""

    def probability(self, text: str) -> float:
        """The probability that `text` is of the good kind, were both kinds as frequent."""
        return _sigmoid(self._logit(vector(sample(text, self.characters), _bits(self.weights))))

    def _logit(self, features: Vector) -> float:
        places, values = features
        return float(self.weights[places] @ values + self.weights[-1])

    def save(self, folder: Path) -> None:
        """Writes the weights and what is known of them. Raises UserError (exit 4) when the disk refuses."""
        with files.new_folder(folder) as new:
            np.save(new / WEIGHTS, self.weights, allow_pickle=False)
            files.write_json(new / ABOUT, {"characters": self.characters, **self.about})

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        """What `save` wrote. Raises UserError when it is missing or damaged."""
        files.verify(folder)
        with files.understood(folder / ABOUT):
            about = files.read_json(folder / ABOUT)
            return cls(np.load(folder / WEIGHTS, allow_pickle=False), int(about.pop("characters")), about)


def train(good: Iterable[str], bad: Iterable[str], settings: ClassifierSettings) -> Classifier:
    """A classifier of the texts that are like `good`, not like `bad`.

    Both are cut into passages, of which at most `settings.passages` of each kind are drawn. One in `held_out` is not
    trained on but measured: `about` holds "auc", the probability that a good passage has the higher value of two,
    beside "good", "bad" and "held_out", how many passages there were.

    Raises UserError when there are fewer than FEWEST passages of a kind.
    """
    kinds = []
    for name, texts in (("good", good), ("bad", bad)):
        drawn = draw(passages(texts, settings.characters), settings.passages, settings.seed, name)
        if len(drawn) < FEWEST:
            raise UserError(
                f"a classifier cannot learn from {len(drawn)} passages of {name} text", f"give at least {FEWEST}"
            )
        kinds.append([vector(text, settings.bits) for text in drawn])
    rows, labels = kinds[0] + kinds[1], np.repeat([1.0, 0.0], [len(kinds[0]), len(kinds[1])])
    order = seeds.numpy_generator(settings.seed, "held out").permutation(len(rows))
    held = _held_out(order, labels, settings.held_out)
    trained = [i for i in order.tolist() if i not in held]
    weights = _fit(rows, labels, trained, settings)
    about = {"good": len(kinds[0]), "bad": len(kinds[1]), "held_out": len(held)}
    found = Classifier(weights, settings.characters, about)
    places = sorted(held)
    return Classifier(
        weights,
        settings.characters,
        {**about, "auc": auc([found._logit(rows[i]) for i in places], labels[places].tolist())},
    )


def passages(texts: Iterable[str], characters: int) -> Iterator[str]:
    """The texts, long ones cut into pieces of that many characters, blank ones left out."""
    for text in texts:
        for start in range(0, len(text), characters):
            passage = text[start : start + characters]
            if passage.strip() and (start == 0 or len(passage) > characters // 2):
                yield passage


def draw(texts: Iterable[str], most: int, seed: int, purpose: str) -> list[str]:
    """At most that many of the texts, each as probable as the others: Vitter 1985, algorithm R."""
    generator = seeds.numpy_generator(seed, "passages", purpose)
    drawn: list[str] = []
    for number, text in enumerate(texts):
        if number < most:
            drawn.append(text)
        elif (place := int(generator.integers(number + 1))) < most:
            drawn[place] = text
    return drawn


def vector(text: str, bits: int) -> Vector:
    """The words and pairs of words of a text, hashed into 2^bits places, as a vector of length 1; and its shapes."""
    words = PIECES.findall(text)
    if not words:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    hashes = np.fromiter(map(_hash, words), np.uint64, len(words))
    pairs = hashes[:-1] * PAIR + hashes[1:]
    places, counts = np.unique(_places(np.concatenate([hashes, pairs]), bits), return_counts=True)
    values = np.sqrt(counts / counts.sum())
    more, shares = _shapes(text, words)
    return np.concatenate([places, _places(more, bits)]), np.concatenate([values, shares]).astype(np.float32)


def _places(hashes: np.ndarray, bits: int) -> np.ndarray:
    return (hashes * SPREAD >> np.uint64(64 - bits)).astype(np.int64)


def _shapes(text: str, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes and values that say how often a text says things again, and how long its sentences and lines are.

    Text from a Markov chain has the words and pairs of real text, but real text comes back to what it speaks of. Each
    figure, from 0 to 1, is shared out between the two nearest of BINS bins.
    """
    long = [word for word in words if len(word) > 6]
    sentences = sum(map(words.count, ".!?")) + 1
    figures = (
        len(set(words)) / len(words),
        len(set(zip(words, words[1:]))) / len(words),
        len(set(long)) / max(1, len(long)),
        min(1.0, math.log2(len(words) / sentences + 1) / 8),
        min(1.0, math.log2(len(text) / (text.count("\n") + 1) + 1) / 12),
    )
    hashes, values = [], []
    for name, figure in enumerate(figures):
        low = min(int(figure * (BINS - 1)), BINS - 2)
        above = figure * (BINS - 1) - low
        hashes += [_hash(f"{name} {low}"), _hash(f"{name} {low + 1}")]
        values += [SHAPE * (1 - above), SHAPE * above]
    return np.array(hashes, np.uint64), np.array(values)


@functools.lru_cache(maxsize=1 << 16)
def _hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def _bits(weights: np.ndarray) -> int:
    return (len(weights) - 1).bit_length() - 1


def _held_out(order: np.ndarray, labels: np.ndarray, share: float) -> set[int]:
    """The first of each kind in `order`: that share of it, at least one."""
    held: set[int] = set()
    for kind in (0.0, 1.0):
        own = order[labels[order] == kind]
        held.update(own[: max(1, round(share * len(own)))].tolist())
    return held


def _fit(
    rows: Sequence[Vector], labels: np.ndarray, trained: Sequence[int], settings: ClassifierSettings
) -> np.ndarray:
    """The weights, float32 [2^bits + 1], after `epochs` passes in an order of their own each.

    Both kinds count alike, however many there are of each.
    """
    weights = np.zeros((1 << settings.bits) + 1, np.float32)
    share = np.bincount(labels[list(trained)].astype(np.int64), minlength=2) / len(trained)
    steps, step = settings.epochs * len(trained), 0
    for epoch in range(settings.epochs):
        for i in seeds.numpy_generator(settings.seed, "epoch", epoch).permutation(trained).tolist():
            places, values = rows[i]
            label = labels[i]
            error = label - _sigmoid(float(weights[places] @ values + weights[-1]))
            pace = settings.learning_rate * (1 - step / steps) * error / (2 * share[int(label)])
            weights[places] += np.float32(pace) * values
            weights[-1] += pace / 10
            step += 1
    return weights


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def auc(values: Sequence[float], labels: Sequence[float]) -> float:
    """The area under the receiver's curve: how often one of label 1 has a higher value than one of label 0.

    Equal values count half: the Mann-Whitney statistic over the number of pairs.
    """
    value, label = np.asarray(values), np.asarray(labels)
    _, rank, counts = np.unique(value, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    ranks = (below + (counts + 1) / 2)[rank]
    good = int(label.sum())
    return float((ranks[label == 1].sum() - good * (good + 1) / 2) / (good * (len(label) - good)))
