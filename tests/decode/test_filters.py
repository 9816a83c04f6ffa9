"""Filters against pencil and paper, and against the logits processors of transformers."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from idiolect.decode import filters
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import UserError

INF = float("inf")
transformers = pytest.importorskip("transformers")


def logs(*probabilities):
    return torch.tensor([probabilities], dtype=torch.float64).log()


def kept(logits):
    return [row.nonzero().squeeze(1).tolist() for row in logits > -INF]


rows = st.lists(st.lists(st.integers(-8000, 8000), min_size=7, max_size=7, unique=True), min_size=1, max_size=3).map(
    lambda values: torch.tensor(values, dtype=torch.float64) / 1000  # unequal: among equals they keep all, we the first
)


def test_each_filter_on_numbers_one_can_check_by_hand():
    p = logs(0.1, 0.4, 0.2, 0.3)
    assert kept(filters.top_k(p, 2)) == [[1, 3]]
    assert kept(filters.top_p(p, 0.65)) == [[1, 3]]  # 0.4 + 0.3 reaches 0.65
    assert kept(filters.top_p(p, 0.75)) == [[1, 2, 3]]
    assert kept(filters.min_p(p, 0.6)) == [[1, 3]]  # 0.6 * 0.4 = 0.24
    assert filters.temperature(p, 0.5).softmax(-1)[0].tolist() == pytest.approx([1 / 30, 16 / 30, 4 / 30, 9 / 30])
    u = torch.tensor([[2.0, -2.0, 3.0, 0.0]])
    seen = filters.Seen(torch.tensor([[True, True, False, False]]), torch.tensor([[0, 0, 2, 0]]))
    assert filters.repetition_penalty(u, seen, 2.0).tolist() == [[1.0, -4.0, 1.5, 0.0]]
    assert filters.presence_penalty(u, seen, 0.5).tolist() == [[2.0, -2.0, 2.5, 0.0]]
    assert filters.frequency_penalty(u, seen, 0.5).tolist() == [[2.0, -2.0, 2.0, 0.0]]


def test_equal_logits_leave_the_lowest_ids():
    equal = torch.zeros(2, 5)
    assert kept(filters.top_k(equal, 3)) == [[0, 1, 2]] * 2
    assert kept(filters.top_p(equal, 0.5)) == [[0, 1, 2]] * 2  # 2/5 < 0.5 <= 3/5
    assert kept(filters.temperature(equal, 0)) == [[0]] * 2
    assert kept(filters.min_p(equal, 1.0)) == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 10.0])
@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.97, 1 - 1e-9])
def test_top_p_of_a_large_vocabulary_is_that_of_sorting_it_all(spread, p):
    """The survivors of most distributions are few, of flat ones many; halves of them are equal."""
    V = 5003
    u = (torch.randn(3, V, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * spread * 4).round() / 4
    u[0, 7] += 20.0 * spread
    u[1, ::2] = -INF
    ordered, ids = u.sort(descending=True, stable=True)
    reached = ordered.softmax(-1).cumsum(-1)
    for row, found in enumerate(kept(filters.top_p(u, p))):
        count = 1 + int((reached[row] < p).sum())
        assert found == sorted(id_ for id_ in ids[row, :count].tolist() if u[row, id_] > -INF)


def test_order_is_penalties_temperature_top_k_top_p_min_p():
    # logits ln(8, 4, 2, 1) halved by temperature 2 give 8^.5, 4^.5 …; top-k before top-p: 8 of 8 + 4 = 0.67
    u = torch.tensor([[8.0, 4.0, 2.0, 1.0]], dtype=torch.float64).log()
    assert kept(filters.reshape(u, DecodeSettings(top_k=2, top_p=0.6))) == [[0]]  # top-p alone would keep two (8/15)
    assert kept(filters.reshape(u, DecodeSettings(top_p=0.6))) == [[0, 1]]
    assert kept(filters.reshape(u, DecodeSettings(min_p=0.3))) == [[0, 1]]
    assert kept(filters.reshape(u, DecodeSettings(temperature=2.0, min_p=0.3))) == [[0, 1, 2, 3]]  # 1/8^.5 = 0.35
    seen = filters.Seen(torch.zeros(1, 4, dtype=torch.bool), torch.tensor([[1, 0, 0, 0]]))
    penal = DecodeSettings(presence_penalty=math.log(4), temperature=0.5, top_k=1)
    assert kept(filters.reshape(u, penal, seen)) == [[1]]  # 8/4 < 4


def test_rows_are_independent_and_impossible_tokens_stay_impossible():
    u = torch.tensor([[0.0, -INF, 1.0], [-INF, -INF, -INF], [2.0, 2.0, -INF]], dtype=torch.float64)
    every = DecodeSettings(temperature=0.5, top_k=2, top_p=0.99, min_p=0.01)
    assert kept(filters.reshape(u, every)) == [[0, 2], [], [0, 1]]
    for row in range(3):
        assert torch.equal(filters.reshape(u, every)[row : row + 1], filters.reshape(u[row : row + 1], every))


def test_no_temperature_overflows():
    u = torch.tensor([[1e30, 0.0, -1e30]])
    assert filters.temperature(u, 1e-30).softmax(-1).tolist() == [[1.0, 0.0, 0.0]]
    assert filters.temperature(u, 1e30).softmax(-1)[0].tolist() == pytest.approx([0.665241, 0.244728, 0.090031], 1e-5)


def test_a_draw_is_the_first_id_whose_cumulative_probability_exceeds_the_number():
    p = logs(0.25, 0.0, 0.5, 0.25).expand(6, 4)
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert filters.draw(p, uniform).tolist() == [0, 0, 2, 2, 3, 3]


@given(rows, st.floats(0.1, 3))
@settings(max_examples=50, deadline=None)
def test_temperature_is_that_of_transformers(u, tau):
    theirs = transformers.TemperatureLogitsWarper(tau)(None, u)
    assert torch.allclose(filters.temperature(u, tau).softmax(-1), theirs.softmax(-1), atol=1e-12)


@given(rows, st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_top_k_is_that_of_transformers(u, k):
    assert torch.equal(filters.top_k(u, k), transformers.TopKLogitsWarper(k)(None, u))


@given(rows, st.floats(0.01, 0.99))
@settings(max_examples=50, deadline=None)
def test_top_p_is_that_of_transformers(u, p):
    sums = u.softmax(-1).sort(descending=True).values.cumsum(-1)
    assume(((sums - p).abs() > 1e-9).all())  # they cut from below, at 1 - p
    assert torch.equal(filters.top_p(u, p), transformers.TopPLogitsWarper(p)(None, u))


@given(rows, st.floats(0.001, 1))
@settings(max_examples=50, deadline=None)
def test_min_p_is_that_of_transformers(u, share):
    ratio = u.softmax(-1) / u.softmax(-1).amax(-1, keepdim=True)
    assume(((ratio - share).abs() > 1e-9).all() or share == 1)
    assert torch.equal(filters.min_p(u, share), transformers.MinPLogitsWarper(share)(None, u))


@given(rows, st.floats(0.2, 5), st.data())
@settings(max_examples=50, deadline=None)
def test_repetition_penalty_is_that_of_transformers(u, penalty, data):
    flat = data.draw(st.lists(st.integers(0, 6), min_size=5 * len(u), max_size=5 * len(u)))
    ids = torch.tensor(flat).view(len(u), 5)
    prompt = torch.zeros(u.shape, dtype=torch.bool).scatter(1, ids[:, :2], True)
    seen = filters.Seen(prompt, torch.zeros(u.shape, dtype=torch.int64))
    for t in range(2, 5):
        seen.add(ids[:, t])
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)(ids, u)
    assert torch.allclose(filters.repetition_penalty(u, seen, penalty), theirs, atol=1e-12)


@given(rows, st.floats(0.3, 3), st.integers(1, 7), st.floats(0.05, 0.95), st.floats(0.01, 0.9))
@settings(max_examples=50, deadline=None)
def test_all_together_are_those_of_transformers_in_its_order(u, tau, k, p, share):
    theirs = transformers.LogitsProcessorList(
        [
            transformers.TemperatureLogitsWarper(tau),
            transformers.TopKLogitsWarper(k),
            transformers.TopPLogitsWarper(p),
            transformers.MinPLogitsWarper(share),
        ]
    )(None, u).softmax(-1)
    left = filters.top_k(u / tau, k).softmax(-1).sort(descending=True).values
    assume(((left.cumsum(-1)[:, : k - 1] - p).abs() > 1e-9).all())
    assume(((left / left[:, :1] - share).abs() > 1e-9).all())
    ours = filters.reshape(u, DecodeSettings(temperature=tau, top_k=k, top_p=p, min_p=share)).softmax(-1)
    assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"beams": 2, "temperature": 0.5},
        {"beams": 2, "temperature": 0.0},
        {"beams": 3, "top_k": 5},
        {"beams": 3, "top_p": 0.5},
        {"beams": 3, "min_p": 0.5},
        {"beams": 3, "repetition_penalty": 1.5},
        {"beams": 3, "presence_penalty": 1.0, "frequency_penalty": 1.0},
        {"length_penalty": 0.5},
        {"stop": ("x", "")},
    ],
)
def test_options_that_exclude_each_other_are_refused_by_name(options):
    with pytest.raises(UserError) as caught:
        DecodeSettings(**options)
    assert all(name in caught.value.what for name in options if name != "stop")
