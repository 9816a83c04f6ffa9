"""The unbounded n-gram against a search through the text by plain Python."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from idiolect.models import ngram_counts, suffix
from idiolect.models.ngram import NGram
from idiolect.models.ngram_counts import Symbols
from idiolect.models.settings import NGramSettings

E, PAD, FIRST = 0, 1, 2
ORDER, STRENGTH = 3, 5.0


def made(count: int, longest: int, seed: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    texts = [generator.integers(FIRST, FIRST + 3, generator.integers(0, longest)).tolist() for _ in range(count)]
    return [*texts, texts[0] + texts[1], texts[2][1:]]  # with repeated passages


def fit(texts: list[list[int]], smoothing: str = "infinite") -> NGram:
    settings = NGramSettings(smoothing=smoothing, order=ORDER, strength=STRENGTH)
    offsets = np.cumsum([0] + [len(text) for text in texts])
    ids = np.array([id_ for text in texts for id_ in text])
    return NGram(settings, FIRST + 3, begin_id=E, end_id=E, pad_id=PAD).fit(SimpleNamespace(ids=ids, offsets=offsets))


def places(wholes: list[list[int]], context: list[int]) -> set[tuple[int, int]]:
    """(text, position after it) of each occurrence of `context` that something follows."""
    n = len(context)
    return {
        (number, at + n)
        for number, whole in enumerate(wholes)
        for at in range(len(whole) - n)
        if whole[at : at + n] == context
    }


def expected(texts: list[list[int]], read: list[int], lower: np.ndarray) -> np.ndarray:
    """The distribution of SuffixTable's docstring after `read`, whose only E is its first token."""
    wholes = [[E, *text, E] for text in texts]
    match: set[tuple[int, int]] = set()
    length = 0
    for end in range(1, len(read) + 1):
        found, depth = set(), 0
        for d in range(1, end + 1):
            at = places(wholes, read[end - d : end])
            if at and d >= ORDER:
                found, depth = at, d
            if len(at) <= 1:
                break
        went_on = {(number, at + 1) for number, at in match if wholes[number][at] == read[end - 1]}
        length = length + 1 if found and found == went_on else depth
        match = found
    if not match:
        return lower
    v = len(match) * (length - ORDER + 1) ** 2
    share = np.bincount([wholes[number][at] for number, at in match], minlength=FIRST + 3) / len(match)
    return (v * share + STRENGTH * lower) / (v + STRENGTH)


@pytest.mark.parametrize("seed", range(3))
def test_the_longest_match_of_any_length(seed):
    texts = made(11, 23, seed)
    model, lower = fit(texts), fit(texts, "kneser-ney")
    generator = np.random.default_rng(seed + 100)
    copied = [E, *texts[4][:7], *generator.integers(FIRST, FIRST + 3, 5), *texts[5]]
    for read in (copied, [E, *texts[0]], [E, *generator.integers(FIRST, FIRST + 3, 31).tolist()]):
        ids = torch.tensor([[int(id_) for id_ in read]])
        logits, _ = model.step(ids, model.init_state(1, len(read)))
        base, _ = lower.step(ids, lower.init_state(1, len(read)))
        for at in range(len(read)):
            want = expected(texts, ids[0, : at + 1].tolist(), base[0, at].exp().numpy())
            assert logits[0, at].exp().tolist() == pytest.approx(want.tolist(), abs=1e-12), (at, read)


@pytest.mark.parametrize("piece", [2, 13, 1000])
def test_rows_are_the_order_of_texts_read_backwards(monkeypatch, piece):
    for room in (ngram_counts, suffix):
        monkeypatch.setattr(room, "PIECE", piece)
    texts = made(7, 17, piece)
    stream = [E] + [id_ for text in texts for id_ in [*text, E]]
    marked = np.array([0 if id_ == E else id_ + 1 for id_ in stream])
    ends = [at for at, id_ in enumerate(stream) if id_ == E]
    names = {ends[-1]: 0} | {at: place for place, at in enumerate(ends[:-1], start=1)}  # every E is a letter of its own

    def backwards(at: int) -> list[tuple[int, int]]:
        begin = max(end for end in ends if end <= at)
        return [(marked[i], 0) for i in range(at, begin, -1)] + [(0, names[begin])]

    order = sorted(range(len(stream)), key=backwards)
    assert np.argsort(suffix.suffix_rows(marked, Symbols(FIRST + 3, E, E, PAD))).tolist() == order


def test_a_copied_passage_becomes_nearly_certain():
    generator = np.random.default_rng(0)
    text = generator.integers(FIRST, FIRST + 3, 400).tolist()
    model = fit([text])
    scores = model.score(torch.tensor([[E, *generator.integers(FIRST, FIRST + 3, 3).tolist(), *text[100:200]]]))[0]
    assert scores[-30:].exp().min() > 0.99
    assert scores[2:6].exp().max() < 0.9


def test_passages_that_occur_several_times_are_followed_no_further_than_the_limit(monkeypatch):
    text = np.random.default_rng(1).integers(FIRST, FIRST + 3, 61).tolist()
    model = fit([text, text])
    whole = model.score(torch.tensor([[E, *text]]))
    monkeypatch.setattr(suffix, "LIMIT", 11)
    cut = model.score(torch.tensor([[E, *text]]))
    assert (cut <= whole + 1e-12).all()
    assert math.exp(cut[0, -1]) > 0.9  # the same places go on, so the match still grows


def test_many_followers_are_gathered_in_parts(monkeypatch):
    texts = made(31, 23, 5)
    model = fit(texts)
    ids = torch.tensor([[E, *text[:5]] for text in texts if len(text) >= 5])
    whole, _ = model.step(ids, model.init_state(len(ids), 6))
    monkeypatch.setattr(suffix, "CHUNK", 2)
    parts, _ = model.step(ids, model.init_state(len(ids), 6))
    assert torch.equal(whole, parts)


def test_the_order_of_the_search_changes_nothing():
    texts = made(29, 23, 7)
    model = fit(texts)
    ids = torch.tensor([[E, *text[:7]] for text in texts if len(text) >= 7])
    scores = model.score(ids)
    assert torch.equal(torch.cat([model.score(row[None]) for row in ids]), scores)


def test_a_vocabulary_of_more_than_16_bits_is_sorted_alike():
    marked = np.random.default_rng(5).integers(0, 1 << 16, 1009)
    short, long = (suffix._by_token(marked, Symbols(size, E, E, PAD)) for size in ((1 << 16) - 2, 1 << 16))
    assert short.tolist() == long.tolist() == sorted(range(1009), key=lambda at: (marked[at], at))
