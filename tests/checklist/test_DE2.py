"""DE2: greedy search is linear and a heuristic; search along more hypotheses, and where even that goes wrong.

Nodes are partial texts, an edge weighs -log p, and the best path has the lowest sum.
"""

import itertools
import math

import pytest
import torch

from idiolect.decode.beam import beam_search
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.testing import TableModel, WordTokenizer

A, B = 2, 3
V, L = 4, 4
TOKENIZER = WordTokenizer(["a", "b"])
PLAIN = {"length_penalty": 0.0, "max_tokens": L}

# greedy goes a a (0.6 · 0.4 · 1) and misses b b (0.4 · 0.9 · 1)
TREE = {
    (0,): {A: 0.6, B: 0.4},
    (A,): {A: 0.4, B: 0.3, 0: 0.3},
    (B,): {B: 0.9, 0: 0.1},
    (A, A): {0: 1.0},
    (B, B): {0: 1.0},
}
TREE |= {(A, B): {0: 1.0}}


def model(table=TREE):
    return TableModel(V, table)


def exhaustive(table):
    """(weight, ids) of the lowest path, by weighing every text of at most L tokens with the model's own `score`."""
    best = (math.inf, ())
    for length in range(1, L + 1):
        for ids in itertools.product((0, A, B), repeat=length):
            whole = ids[-1] == 0 or length == L
            if whole and 0 not in ids[:-1]:
                weight = -float(model(table).score(torch.tensor([[0, *ids]])).sum())
                best = min(best, (weight, ids))
    return best


def greedy(table):
    (found,) = complete(model(table), TOKENIZER, [""], DecodeSettings(temperature=0, max_tokens=L))
    return found


def random_tree(seed):
    """Probabilities for every prefix shorter than L."""
    generator = torch.Generator().manual_seed(seed)
    prefixes = [p for length in range(L) for p in itertools.product((A, B), repeat=length)]
    return {(0, *p): dict(zip((0, A, B), torch.rand(3, generator=generator).softmax(-1).tolist())) for p in prefixes}


def test_DE2_greedy_misses_the_best_path_that_exhaustive_search_finds():
    weight, best = exhaustive(TREE)
    assert best == (B, B, 0)
    assert weight == pytest.approx(-math.log(0.4 * 0.9))
    found = greedy(TREE)
    assert found.ids == (A, A, 0)
    assert -sum(found.logprobs) == pytest.approx(-math.log(0.6 * 0.4))
    assert sum(found.logprobs) < -weight


def test_DE2_one_beam_is_greedy():
    for seed in range(20):
        (one,) = beam_search(model(random_tree(seed)), TOKENIZER, "", DecodeSettings(max_tokens=L))
        assert one.ids == greedy(random_tree(seed)).ids
    (one,) = beam_search(model(), TOKENIZER, "", DecodeSettings(max_tokens=L))
    assert one.text == "a a"


def test_DE2_as_many_beams_as_prefixes_are_exhaustive():
    worse = 0
    for table in [TREE, *(random_tree(seed) for seed in range(20))]:
        weight, best = exhaustive(table)
        found = beam_search(model(table), TOKENIZER, "", DecodeSettings(beams=V ** (L - 1), **PLAIN))[0]
        assert found.ids == best
        assert -found.score == pytest.approx(weight)
        worse += greedy(table).ids != best
    assert worse > 1  # the trees are no easy ones


def test_DE2_two_beams_may_be_worse_than_greedy():
    # b a and b b (0.20 each) push a a (0.5 · 0.36 = 0.18) out of the two beams; a a ends for sure, they do not
    table = {
        (0,): {A: 0.5, B: 0.4, 0: 0.1},
        (0, A): {A: 0.36, B: 0.32, 0: 0.32},
        (0, A, A): {0: 1.0},
        (0, B): {A: 0.5, B: 0.5},
        (0, B, A): {A: 0.34, B: 0.33, 0: 0.33},
        (0, B, B): {A: 0.34, B: 0.33, 0: 0.33},
        (): {0: 1.0},
    }
    assert greedy(table).ids == exhaustive(table)[1] == (A, A, 0)
    assert sum(greedy(table).logprobs) == pytest.approx(math.log(0.18))
    two = beam_search(model(table), TOKENIZER, "", DecodeSettings(beams=2, **PLAIN))[0]
    assert two.ids == (B, A, A, 0)
    assert two.score == pytest.approx(math.log(0.4 * 0.5 * 0.34))
    assert two.score < sum(greedy(table).logprobs)


def test_DE2_greedy_calls_the_model_once_a_token():
    for length in range(1, 8):
        chain = {(0, *[A] * i): {A: 1.0} for i in range(length - 1)} | {(0, *[A] * (length - 1)): {0: 1.0}}
        chained = model(chain)
        (found,) = complete(chained, TOKENIZER, [""], DecodeSettings(temperature=0))
        assert len(found.ids) == len(chained.calls) == length
