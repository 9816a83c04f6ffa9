"""Several sources in one run: shares, quotas, and which example stands in which slot."""

import numpy as np
import pytest
import torch

from idiolect.data.batch import IGNORE, Batch
from idiolect.data.examples import POOL, pooled
from idiolect.data.mixture import CYCLE, MixedRows, Mixture, quota, shares


def test_shares_are_proportional_equal_capped_or_given():
    sizes = [100, 300, 4000]
    assert shares(sizes, "proportional") == pytest.approx([100 / 4400, 300 / 4400, 4000 / 4400])
    assert shares(sizes, "equal") == pytest.approx([1 / 3] * 3)
    assert shares(sizes, "capped", 200) == pytest.approx([100 / 500, 200 / 500, 200 / 500])  # min(n, K) over their sum
    assert shares(sizes, (1.0, 2.0, 5.0)) == pytest.approx([0.125, 0.25, 0.625])


def test_the_largest_remainders_get_what_is_left():
    # 10 seats for 4.3, 3.4 and 2.3: 4, 3 and 2 at once, and the last one for the remainder of 0.4
    assert quota([0.43, 0.34, 0.23], 10).tolist() == [4, 4, 2]
    assert quota([1 / 3, 1 / 3, 1 / 3], 11).tolist() == [4, 4, 3]  # the first of equal ones
    assert quota([0.999, 0.001], 100).tolist() == [100, 0]


def test_each_source_goes_through_its_examples_in_epochs_of_its_own():
    mixture = Mixture((7, 5, 11), (0.5, 0.125, 0.375), 3)
    slots = np.arange(2 * CYCLE + 1000)
    found, sources = mixture.examples(slots), mixture.sources(slots)
    assert np.array_equal(mixture.source_of(found), sources)
    for k, (first, size) in enumerate([(0, 7), (7, 5), (12, 11)]):
        own = found[sources == k] - first
        whole = own[: len(own) // size * size].reshape(-1, size)
        assert (np.sort(whole) == np.arange(size)).all()  # every epoch has every example once
        assert len(np.unique(whole, axis=0)) > 1  # in another order
        assert mixture.taken(len(slots))[k] == len(own)
    assert np.array_equal(np.bincount(sources[:CYCLE]), mixture.counts) and mixture.counts.tolist() == [2048, 512, 1536]


def test_any_slot_is_known_without_those_before_it_and_shares_hold_on_every_stretch():
    mixture = Mixture((70, 50), (0.3, 0.7), 3)
    slots = np.arange(3 * CYCLE)
    whole = mixture.examples(slots)
    for slot in (0, 1, CYCLE - 1, CYCLE, 2 * CYCLE + 17):
        assert mixture.examples(np.array([slot]))[0] == whole[slot]
    for start in range(0, 3 * CYCLE - 50, 37):
        assert abs((mixture.sources(slots[start : start + 50]) == 0).sum() - 15) <= 2


class Rows:
    """Rows whose ids say which they are; those of `prompted` learn the second half only."""

    def __init__(self, n, width, base, prompted=False):
        self.n, self.width, self.base, self.prompted = n, width, base, prompted

    def batch(self, rows):
        ids = torch.as_tensor(self.base + rows)[:, None].expand(-1, self.width).clone()
        labels = ids.clone()
        if self.prompted:
            labels[:, : self.width // 2] = IGNORE
        return Batch(ids, labels, None if self.prompted else torch.zeros_like(ids))


def test_rows_of_all_sources_stand_in_one_batch_in_the_order_of_their_slots():
    mixed = MixedRows(
        (Rows(5, 3, 100), Rows(7, 4, 200, prompted=True)), Mixture((5, 7), (0.25, 0.75), 3), 8, 2, pad_id=9
    )
    batches = mixed(5)
    assert [batch.ids.shape for batch in batches] == [(4, 4), (4, 4)]
    examples = mixed.examples(5)
    for row, example in enumerate(examples.tolist()):
        batch, b = batches[row // 4], row % 4
        if example < 5:
            assert batch.ids[b].tolist() == [100 + example] * 3 + [9]
            assert batch.labels[b].tolist() == [100 + example] * 3 + [IGNORE]
            assert batch.segments[b].tolist() == [0, 0, 0, -1]
        else:
            assert batch.ids[b].tolist() == [195 + example] * 4 and batch.segments[b].tolist() == [0] * 4
            assert batch.labels[b].tolist() == [IGNORE] * 2 + [195 + example] * 2
    assert (examples < 5).sum() == 2 and mixed.taken(6).tolist() == [12, 36]


def test_examples_of_about_equal_length_come_from_all_sources():
    lengths = np.arange(1, 41)
    layout = lambda some: Batch(torch.as_tensor(some)[:, None], torch.as_tensor(some)[:, None])  # noqa: E731
    batches = pooled(
        lengths, layout, batch_tokens=100, micro_batches=1, seed=3, mixture=Mixture((10, 30), (0.5, 0.5), 3)
    )
    seen = [batches.examples(step) for step in range(POOL + 7)]
    had = np.bincount(np.concatenate(seen) >= 10)
    assert batches.taken(POOL + 7).tolist() == had.tolist()
    assert batches.taken(POOL).tolist() == [
        POOL * batches.rows // 2 + POOL * batches.rows % 2,
        POOL * batches.rows // 2,
    ]
    assert all((np.diff(lengths[some]) >= 0).all() for some in seen)
