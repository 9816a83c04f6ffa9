"""What word vectors know: analogies and categories that nobody told them, beside guesses that know less.

The recipe `cbow` (and with model.mode=skipgram) reads all the English text of the data folder that is there
(wikitext-2/valid.txt, tinyshakespeare/input.txt, multi30k/train.en.gz, dialogsum/*.jsonl, gsm8k/train.jsonl,
sst2/train.tsv; at least the first two) and the Python library's documents, some two million words. The questions below
were written by hand, before any model was trained; those with a word that occurs fewer than 20 times are left out. What
is asked of the answers was set after first runs, and the recipe's learning rate was chosen with the answers in sight.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Claim
from idiolect import api, seeds
from idiolect.decode.neighbours import most_similar, unit
from idiolect.interop import folder
from idiolect.recipes import library
from idiolect.tokens.tokenizer import Tokenizer

FORMS = ("cbow", "skipgram")
"""The values of model.mode."""
LEAST = 20
"""Occurrences of a word that is asked about."""
ANALOGIES = {
    "plural": "man men, woman women, boy boys, girl girls, dog dogs, child children, horse horses, car cars, day days, "
    "hour hours, year years, month months, week weeks, book books, apple apples, friend friends, student students, "
    "tree trees, bird birds, player players, word words, kid kids, dollar dollars, game games, file files, line lines, "
    "number numbers, value values, object objects, method methods",
    "past": "go went, come came, take took, give gave, make made, see saw, say said, get got, know knew, find found, "
    "think thought, tell told, buy bought, sell sold, eat ate, leave left, feel felt, become became, begin began",
    "gerund": "run running, walk walking, play playing, sit sitting, stand standing, ride riding, jump jumping, "
    "hold holding, look looking, wear wearing, take taking, make making, eat eating, talk talking, sell selling, "
    "swim swimming, climb climbing, cook cooking, sing singing, dance dancing",
    "third person": "run runs, walk walks, play plays, sit sits, stand stands, ride rides, jump jumps, hold holds, "
    "look looks, wear wears, take takes, make makes, eat eats, talk talks, say says, give gives, need needs, "
    "want wants, return returns",
    "gender": "man woman, boy girl, men women, boys girls, he she, his her, father mother, brother sister, "
    "son daughter, husband wife, king queen, him her, himself herself, uncle aunt",
    "comparative": "good better, bad worse, large larger, high higher, small smaller, old older, young younger, "
    "long longer, low lower, great greater, big bigger, cheap cheaper, fast faster, easy easier, short shorter, "
    "strong stronger, few fewer",
    "ordinal": "one first, two second, three third, four fourth, five fifth, six sixth",
}
"""Pairs of words in the same relation: each two of them make a question, a is to b as c is to …"""
CATEGORIES = {
    "colours": "red blue green yellow black white orange purple pink brown gray",
    "numbers": "two three four five six seven eight nine ten twelve twenty",
    "months": "january february march april june july august september october november december",
    "days": "monday tuesday wednesday thursday friday saturday sunday",
    "animals": "dog dogs cat horse cow bird birds fish sheep horses chickens",
    "family": "mother father brother sister son daughter wife husband uncle cousin",
    "clothes": "shirt jacket hat dress jeans shorts pants coat shoes sweater",
    "body": "head hand hands face arm arms legs hair eyes mouth feet",
    "instruments": "guitar piano drums violin trumpet",
    "sports": "soccer football basketball baseball tennis hockey volleyball",
    "vehicles": "car bus truck train bike bicycle motorcycle boat",
    "food": "bread cake pizza fruit cheese apples oranges cookies eggs chocolate",
    "places": "street beach park restaurant store kitchen school office hospital",
    "saying": "say says said tell tells told ask asked",
}
"""Words that belong together."""


@dataclass(frozen=True)
class Score:
    """Right answers."""

    analogies: Mapping[str, float]
    """Of each relation, and of all questions."""
    categories: float


def texts(data: Path) -> Iterator[str]:
    """Every text of the corpus, on one line each."""
    yield from (data / "wikitext-2/valid.txt").read_text(encoding="utf-8").splitlines()
    yield from (data / "tinyshakespeare/input.txt").read_text(encoding="utf-8").split("\n\n")
    if (path := data / "multi30k/train.en.gz").exists():
        yield from gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    for path, fields in (
        *((data / f"dialogsum/{part}.jsonl", ("dialogue", "summary")) for part in ("dev", "test")),
        (data / "gsm8k/train.jsonl", ("question", "answer")),
    ):
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            row = json.loads(line)
            yield from (row[field] for field in fields if field in row)
    if (path := data / "sst2/train.tsv").exists():
        yield from (line.rpartition("\t")[0] for line in path.read_text(encoding="utf-8").splitlines())
    for document in library.documents():
        yield from document.split("\n\n")


def vectors(data: Path, scratch: Path) -> Iterator[Claim]:
    """Both forms, trained by the recipe, on the same questions."""
    path = scratch / "words.txt"
    path.write_text("\n".join(" ".join(text.split()) for text in texts(data)), encoding="utf-8")
    results, scores = {}, {}
    shared = [f"data.train={path}", "data.document=line", "sample.every=0"]
    for mode in FORMS:
        run = scratch / f"words-{mode}"
        results[mode] = api.train("cbow", [*shared, f"model.mode={mode}"], run)
        loaded = folder.load(run / "model")
        assert loaded.tokenizer is not None
        known, counts = words(loaded.tokenizer, path)
        table = unit(loaded.model.embedding.weight)  # type: ignore[union-attr,arg-type]
        scores[mode] = score(table, loaded.tokenizer, known)
    tokenizer, D = loaded.tokenizer, loaded.settings.width  # type: ignore[attr-defined]
    drawn = torch.randn(tokenizer.size, D, generator=seeds.generator(0, "random vectors"))
    scores["skipgram, c alone"] = score(table, tokenizer, known, offset=0.0)
    scores["random vectors"] = score(unit(drawn), tokenizer, known)
    scores["as frequent"] = by_frequency(tokenizer, counts, known)
    yield from claims(scores, results, known)


def words(tokenizer: Tokenizer, path: Path) -> tuple[dict[str, int], np.ndarray]:
    """The id of each word that occurs LEAST times, and how often each id occurs, [V]."""
    ids = np.concatenate(tokenizer.encode_batch(path.read_text(encoding="utf-8").splitlines()))
    counts = np.where(tokenizer.content, np.bincount(ids, minlength=tokenizer.size), 0)
    often = np.flatnonzero(counts >= LEAST).tolist()
    return dict(zip(tokenizer.pieces(often), often, strict=True)), counts


def questions(known: Mapping[str, int]) -> dict[str, list[tuple[int, int, int, int]]]:
    """Relation → (a, b, c, d): a is to b as c is to d."""
    found: dict[str, list[tuple[int, int, int, int]]] = {}
    for name, text in ANALOGIES.items():
        pairs = [pair.split() for pair in text.split(", ")]
        ids = [(known[a], known[b]) for a, b in pairs if a in known and b in known]
        found[name] = [(*one, *other) for one, other in itertools.permutations(ids, 2) if len({*one, *other}) == 4]
    return found


def members(known: Mapping[str, int]) -> list[tuple[int, str]]:
    """The words of the categories, each with its own."""
    return [(known[word], name) for name, text in CATEGORIES.items() for word in text.split() if word in known]


def score(table: Tensor, tokenizer: Tokenizer, known: Mapping[str, int], offset: float = 1.0) -> Score:
    """How often d is nearest to b - a + c among all words that occur LEAST times, and a word to one of its category.

    table [V, D]: unit vectors; by `idiolect neighbours`' own search. offset 0: nearest to c alone.
    """
    often = torch.zeros_like(table)
    often[list(known.values())] = table[list(known.values())]
    spellings = {id_: word for word, id_ in known.items()}

    def nearest(query: Mapping[int, float]) -> str:
        return most_similar(often, tokenizer, query, 1)[0][0]

    right = {
        name: [nearest({b: offset, a: -offset, c: 1.0}) == spellings[d] for a, b, c, d in asked]
        for name, asked in questions(known).items()
    }
    group = members(known)
    ids = [id_ for id_, _ in group]
    near = table[ids] @ table[ids].T
    near.fill_diagonal_(-2)
    own = [group[i][1] == group[j][1] for i, j in enumerate(near.argmax(1).tolist())]
    return Score(shares(right), float(np.mean(own)))


def by_frequency(tokenizer: Tokenizer, counts: np.ndarray, known: Mapping[str, int]) -> Score:
    """What frequency alone knows: the most frequent word for d, and the word as frequent for the category."""
    order = [id_ for id_ in np.argsort(-counts, kind="stable").tolist() if counts[id_] >= LEAST]
    right = {
        name: [next(id_ for id_ in order if id_ not in (a, b, c)) == d for a, b, c, d in asked]
        for name, asked in questions(known).items()
    }
    group = members(known)
    frequency = np.log([counts[id_] for id_, _ in group])
    apart = np.abs(frequency[:, None] - frequency)
    np.fill_diagonal(apart, np.inf)
    own = [group[i][1] == group[j][1] for i, j in enumerate(apart.argmin(1).tolist())]
    return Score(shares(right), float(np.mean(own)))


def shares(right: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    """The share of right answers of each relation, and of all."""
    every = [one for of in right.values() for one in of]
    return {**{name: float(np.mean(of)) for name, of in right.items()}, "all": float(np.mean(every))}


def claims(scores: Mapping[str, Score], results: Mapping[str, Any], known: Mapping[str, int]) -> Iterator[Claim]:
    """The two figures, each of both forms, beside the guesses."""
    asked, group = questions(known), members(known)
    guesses = {name: scores[name] for name in ("random vectors", "as frequent")}
    per_second = {mode: result["tokens_per_second"] for mode, result in results.items()}
    counts = {**{name: len(of) for name, of in asked.items()}, "all": sum(map(len, asked.values()))}
    rows = [[n, f"{counts[n]:,}", *(f"{one.analogies[n]:.1%}" for one in scores.values())] for n in counts]
    best = max(one.analogies["all"] for one in guesses.values())
    found = {mode: scores[mode].analogies["all"] for mode in results}
    yield Claim(
        f"word vectors: analogies over {len(known):,} words, the first answer right",
        f"≥ 20%, and ≥ 10 × the best guess ({best:.1%})",
        ", ".join(f"{mode} {share:.1%}" for mode, share in found.items()),
        all(share >= max(10 * best, 0.2) for share in found.values()),
        table=[["relation", "questions", *scores], *rows],
        details={"labels_per_second": per_second},
    )
    best = max(one.categories for one in guesses.values())
    found = {mode: scores[mode].categories for mode in results}
    yield Claim(
        f"word vectors: {len(group)} words of {len(CATEGORIES)} categories, the nearest one of its own",
        f"≥ 4 × the best guess ({best:.1%})",
        ", ".join(f"{mode} {share:.1%}" for mode, share in found.items()),
        all(share >= 4 * best for share in found.values()),
        note=", ".join(f"{name} {one.categories:.1%}" for name, one in guesses.items()),
    )


CHECKS = {"word-vectors": vectors}
