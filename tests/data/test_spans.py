"""Spans left out of texts: what was left out comes back exactly, and batches are a pure function of the step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect import seeds
from idiolect.data.batch import IGNORE
from idiolect.data.spans import Corruption, Spans, corrupt, held_out_spans, restore, segments, span_batches
from idiolect.errors import UserError

SENTINELS = np.array([107, 106, 105, 104, 103, 102, 101, 100])
HOW = Corruption(0.15, 3.0, SENTINELS, start_id=0, end_id=1, pad_id=2)


class Documents:
    """S = E d1 E d2 E d3 E with ids 10 … 99, as `shards.Shards` gives it."""

    def __init__(self, *lengths):
        ids = np.arange(sum(lengths)) % 90 + 10
        parts = np.split(ids, np.cumsum(lengths)[:-1])
        self.stream = np.concatenate([[-1], *(np.append(part, -1) for part in parts)])
        self.labels = len(self.stream) - 1

    def at(self, positions, separator):
        found = self.stream[positions]
        return np.where(found < 0, separator, found)


def test_the_figure_of_the_paper():
    """Thank you (for inviting) me to your party (last) week: Raffel et al. 2020, figure 2, but for the target's end."""
    ids = np.arange(10, 20)  # Thank you for inviting me to your party last week
    left_out = np.isin(ids, [12, 13, 18])
    source, target = corrupt(ids, left_out, SENTINELS)
    assert source.tolist() == [10, 11, 107, 14, 15, 16, 17, 106, 19]
    assert target.tolist() == [107, 12, 13, 106, 18]
    assert restore(source, target, SENTINELS).tolist() == ids.tolist()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**40), st.integers(2, 300), st.floats(0.05, 0.9), st.floats(1, 8))
def test_what_was_left_out_comes_back_for_any_seed(seed, N, share, mean_length):
    how = Corruption(share, mean_length, np.arange(1000, 1400), start_id=0, end_id=1, pad_id=2)
    draw = seeds.numpy_generator(seed, "test")
    ids = draw.integers(10, 90, N)
    left_out = how.left_out(N, draw)
    source, target = corrupt(ids, left_out, how.sentinels)
    assert np.array_equal(restore(source, target, how.sentinels), ids)
    tokens, spans = how.counts(N)
    assert left_out.sum() == tokens and not left_out[0] and left_out[-1]
    used = [i for i in source.tolist() if i >= 1000]
    assert used == list(range(1000, 1000 + spans))  # each its own, in order
    assert used == [i for i in target.tolist() if i >= 1000]
    assert (len(source) + 1, len(target) + 1) == how.sizes(N)


def test_counts_are_those_of_t5s_code():
    """A row of 512: 77 tokens in 26 spans (round(0.15 · 512), round(77 / 3))."""
    assert HOW.counts(512) == (77, 26)
    assert HOW.counts(2) == (1, 1)
    assert HOW.sizes(512) == (512 - 77 + 26 + 1, 77 + 26 + 1)
    assert Corruption(0.15, 3.0, np.arange(100), 0, 1, 2).longest(512, 114) == 568  # as t5's random_spans_helper says


def test_every_way_to_cut_is_equally_likely():
    draw = np.random.default_rng(0)
    found = [tuple(segments(5, 3, draw).tolist()) for _ in range(6000)]
    assert set(found) == {(1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1)}
    assert all(880 < found.count(way) < 1120 for way in set(found))
    assert segments(4, 4, draw).tolist() == [1] * 4 and segments(7, 1, draw).tolist() == [7]


def test_a_prediction_that_lacks_or_repeats_sentinels_restores_what_it_can():
    source = np.array([10, 107, 11, 106])
    assert restore(source, np.array([5, 107, 20]), SENTINELS).tolist() == [10, 20, 11]
    assert restore(source, np.array([], dtype=np.int64), SENTINELS).tolist() == [10, 11]
    assert restore(source, np.array([106, 7, 105, 8]), SENTINELS).tolist() == [10, 11, 7]


def test_batches_hold_the_text_once_an_epoch_with_other_spans_each_time():
    text = Documents(31, 2, 68)
    spans = Spans(text, replace(HOW, share=0.4, mean_length=2.0), 17)
    batches = span_batches(spans, batch_tokens=3 * sum(spans.how.sizes(17)), micro_batches=1, seed=7)
    assert batches.rows == 3 and spans.n == 7  # six of 17 and one of 2
    whole = [text.at(1 + np.arange(i * 17, min(104, (i + 1) * 17)), 1).tolist() for i in range(spans.n)]
    seen, sources = [], []
    for step in range(14):  # two epochs of seven windows, three rows a step
        (batch,) = batches(step)
        lengths = batch.source_lengths if batch.source_lengths is not None else [batch.source.shape[1]] * 3
        for row, n in enumerate(lengths):
            source, labels = batch.source[row, : int(n)].numpy(), batch.labels[row]
            target = labels[labels != IGNORE].numpy()
            assert source[-1] == target[-1] == 1
            assert batch.ids[row].tolist()[: len(target)] == [0, *target[:-1]]
            seen.append(whole.index(restore(source[:-1], target[:-1], SENTINELS).tolist()))
            sources.append(tuple(source))
    assert sorted(seen[:7]) == sorted(seen[7:14]) == list(range(7)) and seen[:7] != seen[7:14]
    assert len(set(sources)) > 30


def test_a_step_is_a_pure_function_and_micro_batches_share_it():
    spans = Spans(Documents(300), HOW, 20)
    whole = span_batches(spans, batch_tokens=8 * sum(HOW.sizes(20)), micro_batches=1, seed=3)
    parts = span_batches(spans, batch_tokens=8 * sum(HOW.sizes(20)), micro_batches=4, seed=3)
    assert whole.rows == parts.rows == 8
    for step in (5, 0):
        (one,) = whole(step)
        assert torch.equal(torch.cat([part.source for part in parts(step)]), one.source)
        assert torch.equal(torch.cat([part.labels for part in parts(step)]), one.labels)
    other = span_batches(spans, batch_tokens=8 * sum(HOW.sizes(20)), micro_batches=1, seed=4)
    assert not torch.equal(other(0)[0].source, whole(0)[0].source)


def test_held_out_spans_are_always_the_same():
    spans = Spans(Documents(90), HOW, 20)
    batches = list(held_out_spans(spans, rows=3))
    assert [len(batch.ids) for batch in batches] == [3, 2]
    assert batches[1].source_lengths.tolist() == [HOW.sizes(20)[0], HOW.sizes(11)[0]]
    again = list(held_out_spans(spans, rows=5))[0]
    assert torch.equal(again.source[:3, : batches[0].source.shape[1]], batches[0].source)
    assert sum(len(batch.ids) for batch in held_out_spans(spans, rows=3, limit_tokens=41)) == 2


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(UserError, match="more than the 8 sentinels"):
        HOW.longest(512, 114)
    with pytest.raises(UserError, match="no text fits into a source of 3 and a target of 2 tokens"):
        HOW.longest(3, 2)
    with pytest.raises(UserError, match="shorter than two tokens"):
        span_batches(Spans(Documents(0), HOW, 20), batch_tokens=100, micro_batches=1, seed=0)
