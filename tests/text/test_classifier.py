"""The classifier of texts: what it learns, that it does so again, and how that is measured."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect.errors import UserError
from idiolect.text.filtering import classifier
from idiolect.text.filtering.classifier import Classifier, auc, draw, passages, train, vector
from idiolect.text.settings import ClassifierSettings

SETTINGS = ClassifierSettings(bits=16, characters=2000)
MENU = ["Home", "About us", "Privacy policy", "Log in", "All rights reserved", "Share", "Read more", "Add to cart"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Passages of the text that every Python carries."""
    from pydoc_data.topics import topics

    found = list(passages((topics[name] for name in sorted(topics)), SETTINGS.characters))
    random.Random(7).shuffle(found)
    return found


def relaid(text: str, words: list[str]) -> str:
    """The words in the place of those of `text`, white space as it was."""
    again = iter(words)
    return re.sub(r"\S+", lambda _: next(again), text)


def shuffled(texts: list[str]) -> list[str]:
    generator = random.Random(1)
    return [relaid(text, generator.sample(text.split(), len(text.split()))) for text in texts]


def boilerplate(texts: list[str]) -> list[str]:
    generator = random.Random(2)
    return ["\n".join(generator.choices(MENU, k=generator.randint(5, 60))) for _ in texts]


def machine_made(texts: list[str]) -> list[str]:
    """A Markov chain: every pair of neighbours is one of the real texts."""
    generator = random.Random(3)
    words = " ".join(texts).split()
    after = defaultdict(list)
    for one, other in zip(words, words[1:]):
        after[one].append(other)
    made = []
    for text in texts:
        chain = [generator.choice(words)]
        for _ in text.split():
            chain.append(generator.choice(after[chain[-1]] or words))
        made.append(relaid(text, chain))
    return made


@pytest.mark.parametrize("junk", [shuffled, boilerplate, machine_made])
def test_it_tells_text_from_junk(texts: list[str], junk: Callable[[list[str]], list[str]]) -> None:
    half = len(texts) // 2
    found = train(texts[:half], junk(texts[half:]), SETTINGS)
    assert found.about["auc"] >= 0.9
    assert found.about["good"] == half and found.about["bad"] == len(texts) - half
    assert found.about["held_out"] == round(half * 0.1) + round((len(texts) - half) * 0.1)


def test_it_tells_text_from_all_of_it(texts: list[str]) -> None:
    half = len(texts) // 2
    third = half // 3
    bad = shuffled(texts[half:][:third]) + boilerplate(texts[:third]) + machine_made(texts[half:])[-third:]
    more = SETTINGS.model_copy(update={"held_out": 0.3})  # of a tenth, 13 texts, the figure hangs on each
    assert train(texts[:half], bad, more).about["auc"] >= 0.9


def test_it_learns_nothing_where_there_is_nothing_to_learn(texts: list[str]) -> None:
    """Held-out texts of one and the same kind are not told apart."""
    half = len(texts) // 2
    found = train(texts[:half], texts[half:], ClassifierSettings(bits=16, characters=2000, held_out=0.5))
    assert 0.35 < found.about["auc"] < 0.65


def test_the_same_texts_teach_the_same(texts: list[str], tmp_path: Path) -> None:
    one, other = (train(texts[:40], boilerplate(texts[:40]), SETTINGS) for _ in range(2))
    assert np.array_equal(one.weights, other.weights) and one.about == other.about
    one.save(tmp_path / "kept")
    again = Classifier.load(tmp_path / "kept")
    assert again.about == one.about
    for text in [*texts[:5], "", "\n", "x" * 10_000]:
        assert again.probability(text) == one.probability(text)
    assert not list((tmp_path / "kept").glob("*.pkl"))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_text_has_a_probability(text: str) -> None:
    weights = np.linspace(-9, 9, (1 << 8) + 1, dtype=np.float32)
    assert 0 <= Classifier(weights, 100, {}).probability(text) <= 1


def test_damage_is_seen(texts: list[str], tmp_path: Path) -> None:
    train(texts[:40], boilerplate(texts[:40]), SETTINGS).save(tmp_path / "kept")
    weights = tmp_path / "kept" / classifier.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="weights"):
        Classifier.load(tmp_path / "kept")


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(UserError, match="9 passages of bad text"):
        train(map(str, range(10)), map(str, range(9)), SETTINGS)


def test_both_kinds_count_alike(texts: list[str]) -> None:
    """What stands in both kinds alike says nothing, however many more there are of one kind."""
    found = train(texts[:20] * 2, texts[:20] * 20, SETTINGS)
    assert abs(np.mean([found.probability(text) for text in texts[:20]]) - 0.5) < 0.1


def test_auc() -> None:
    assert auc([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]) == 1
    assert auc([0.1, 0.2, 0.3, 0.4], [1, 1, 0, 0]) == 0
    assert auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75  # three of four pairs are in order
    assert auc([0.5, 0.5, 0.5], [0, 1, 1]) == 0.5
    assert auc([0.2, 0.5, 0.5, 0.9], [0, 0, 1, 1]) == 0.875  # 0.5 and 0.5 count half


def test_passages() -> None:
    assert list(passages(["abcdefgh", " ", "", "abcdefghij", "abcdefg"], 4)) == [
        *("abcd", "efgh"),
        *("abcd", "efgh"),  # the rest, of two, is too short
        *("abcd", "efg"),
    ]


def test_draws_are_fair() -> None:
    assert draw("abc", 3, 0, "x") == list("abc")
    counts: defaultdict[str, int] = defaultdict(int)
    for seed in range(1000):
        for letter in draw("abcdefg", 3, seed, "x"):
            counts[letter] += 1
    assert sorted(counts) == list("abcdefg")
    assert all(abs(count - 3000 / 7) < 70 for count in counts.values())  # 4.5 standard deviations


def test_vectors_count_words_and_pairs() -> None:
    places, values = vector("a b a b", 16)
    words, shapes = values[:-10], values[-10:]
    # a and b twice, "a b" twice, "b a" once: seven in all
    assert sorted((words**2).tolist()) == pytest.approx([1 / 7, 2 / 7, 2 / 7, 2 / 7])
    assert shapes.reshape(5, 2).sum(1) == pytest.approx(np.full(5, classifier.SHAPE))
    assert len(vector("", 16)[0]) == 0 and places.max() < 1 << 16
