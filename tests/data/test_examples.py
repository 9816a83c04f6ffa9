"""Batches over examples of unequal length: each example once an epoch, rows of like length, computed for any step."""

import numpy as np
import pytest
import torch

from idiolect.data.batch import Batch
from idiolect.data.examples import POOL, Ragged, in_order, pooled
from idiolect.errors import UserError

LENGTHS = np.random.default_rng(0).integers(1, 90, size=1009)


def layout(examples):
    ids = torch.from_numpy(examples)[:, None]
    return Batch(ids, ids)


def batches(**more):
    asked = {"batch_tokens": 500, "micro_batches": 1, "seed": 3} | more
    return pooled(LENGTHS, layout, **asked)


def test_rows_are_the_batch_over_the_mean_length():
    assert batches().rows == round(500 / LENGTHS.mean())
    assert batches(micro_batches=3).rows % 3 == 0
    assert batches(batch_tokens=1).rows == 1
    with pytest.raises(UserError, match="no examples"):
        pooled(np.array([], dtype=np.int64), layout, batch_tokens=5, micro_batches=1, seed=0)


def test_pools_that_cover_whole_epochs_visit_every_example_as_often():
    of_rows = pooled(LENGTHS[:640], layout, batch_tokens=1, micro_batches=1, seed=5)
    assert of_rows.rows == 1
    steps = np.concatenate([of_rows.examples(step) for step in range(640)])  # ten pools of 64 rows
    assert np.array_equal(np.sort(steps), np.arange(640))


def test_every_example_comes_once_an_epoch_up_to_the_pool_that_holds_its_end():
    made = batches()
    steps = -(-len(LENGTHS) * 3 // (made.rows * POOL)) * POOL
    seen = np.bincount(np.concatenate([made.examples(step) for step in range(steps)]), minlength=len(LENGTHS))
    assert seen.min() >= 3 and seen.max() - seen.min() <= 1


def test_a_step_is_computed_without_those_before_it():
    late = batches().examples(777)
    assert np.array_equal(late, batches().examples(777))
    assert not np.array_equal(late, batches(seed=4).examples(777))


def test_rows_of_a_batch_are_about_equally_long():
    made = batches()
    padded = sum(LENGTHS[made.examples(step)].max() * made.rows for step in range(POOL))
    real = sum(LENGTHS[made.examples(step)].sum() for step in range(POOL))
    drawn = np.random.default_rng(1).permutation(LENGTHS)[: made.rows * 91].reshape(-1, made.rows)
    assert padded < 1.1 * real < drawn.max(axis=1).sum() * made.rows * real / drawn.sum()


def test_steps_of_a_pool_do_not_go_from_short_to_long():
    means = [LENGTHS[batches().examples(step)].mean() for step in range(POOL)]
    assert abs(np.corrcoef(means, range(POOL))[0, 1]) < 0.4


def test_micro_batches_cut_a_step():
    whole, parts = batches(micro_batches=1, batch_tokens=1), batches(micro_batches=4)
    assert len(whole(0)) == 1 and len(parts(0)) == 4
    ids = torch.cat([part.ids for part in parts(5)]).flatten()
    assert np.array_equal(ids.numpy(), parts.examples(5))


def test_held_out_groups_hold_every_example_once_within_the_positions():
    groups = in_order(LENGTHS, 300)
    assert np.array_equal(np.sort(np.concatenate(groups)), np.arange(len(LENGTHS)))
    assert all(len(group) * LENGTHS[group].max() <= 300 for group in groups)
    assert in_order(np.array([7, 900]), 300)[1].tolist() == [1]  # longer than all: a group of its own


def test_ragged_rows_come_back_as_they_were():
    rows = [np.array([3, 1]), np.array([], dtype=np.int32), np.array([5])]
    ragged = Ragged.of(rows)
    assert len(ragged) == 3 and ragged.lengths.tolist() == [2, 0, 1]
    assert [ragged[i].tolist() for i in range(3)] == [[3, 1], [], [5]]
