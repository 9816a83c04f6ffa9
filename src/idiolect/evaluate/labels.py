"""Figures of labels: accuracy and macro F1 of single ones, F1 over whole entities of tagged words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Entity = tuple[int, int, str]
"""The first word of an entity, the first one after it, and its type."""


def accuracy(truth: Sequence[str], guess: Sequence[str]) -> float:
    """The share of labels that are guessed right."""
    return sum(t == g for t, g in zip(truth, guess, strict=True)) / len(truth)


def macro_f1(truth: Sequence[str], guess: Sequence[str]) -> float:
    """The mean of each label's F1, over the labels that occur in the truth or among the guesses.

    F1 = 2 right / (in the truth + among the guesses), which is 0 for a label never guessed right.
    """
    right = Counter(t for t, g in zip(truth, guess, strict=True) if t == g)
    occurs = Counter(truth) + Counter(guess)
    return sum(2 * right[label] / occurs[label] for label in occurs) / len(occurs)


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities of one sentence's tags: `B-type` begins one, `I-type` goes on with it, anything else is none.

    An `I-type` with no entity of its type before it begins one, too: so the scorer of the CoNLL shared tasks reads
    tags (Tjong Kim Sang and De Meulder 2003), and so does `seqeval` unless told to be strict.
    """
    found: set[Entity] = set()
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        inside = mark in ("B", "I") and name != ""
        if kind and not (mark == "I" and name == kind):
            found.add((start, place, kind))
            kind = ""
        if inside and not kind:
            start, kind = place, name
    return found


def entity_f1(truth: Sequence[Sequence[str]], guess: Sequence[Sequence[str]]) -> dict[str, float]:
    """ "precision", "recall" and "f1" over all sentences; an entity is right when its words and its type are.

    Micro-averaged: all entities count the same. A ratio of nothing to nothing is 0.
    """
    pairs = [(entities(t), entities(g)) for t, g in zip(truth, guess, strict=True)]
    right, there, found = (sum(map(len, some)) for some in zip(*((t & g, t, g) for t, g in pairs)))
    precision, recall = right / found if found else 0.0, right / there if there else 0.0
    return {"precision": precision, "recall": recall, "f1": 2 * right / (there + found) if there + found else 0.0}
