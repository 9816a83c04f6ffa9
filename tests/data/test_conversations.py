"""Conversations as rows: what is predicted of each, how they share rows, and that each comes once an epoch."""

import numpy as np
import pytest

from idiolect.data.batch import IGNORE
from idiolect.data.conversations import Conversations, packed
from idiolect.errors import UserError

ROWS = [
    ([10, 11, 12, 13], [1, 0, 1, 1]),  # what is marked first is never predicted: nothing stands before it
    ([20, 21], [0, 1]),
    ([30, 31, 32, 33, 34, 35, 36], [0, 0, 1, 0, 0, 1, 1]),
    ([40, 41, 42], [0, 0, 1]),
]
MADE = Conversations.of([(np.array(ids), np.array(mask)) for ids, mask in ROWS])


def test_what_is_read_and_predicted_of_each():
    assert [MADE.row(0)[k].tolist() for k in (0, 1)] == [[10, 11, 12], [IGNORE, 12, 13]]
    assert MADE.row(2)[1].tolist() == [IGNORE, 32, IGNORE, IGNORE, 35, 36]
    assert MADE.lengths.tolist() == [3, 1, 6, 2]
    assert MADE.labels.tolist() == [12, 13, 21, 32, 35, 36, 42]


def test_alone_each_has_a_row_filled_up_at_the_right():
    batch = MADE.batch([1, 0], pad_id=7)
    assert batch.ids.tolist() == [[20, 7, 7], [10, 11, 12]]
    assert batch.labels.tolist() == [[21, IGNORE, IGNORE], [IGNORE, 12, 13]]
    assert batch.segments is None and batch.count == 3


def test_packed_rows_hold_several_by_hand():
    made = packed(MADE, context=7, batch_tokens=14, micro_batches=1, seed=3, pad_id=7)
    assert made.width == 7 and made.rows == 2 and made.shared  # 6 + 1 in one row, 3 + 2 in the other
    (batch,) = made(0)
    rows = {tuple(row): n for n, row in enumerate(batch.ids.tolist())}
    first, second = rows[20, 30, 31, 32, 33, 34, 35], rows[10, 11, 12, 40, 41, 7, 7]
    assert batch.segments[first].tolist() == [0] + [1] * 6
    assert batch.segments[second].tolist() == [0, 0, 0, 1, 1, -1, -1]
    assert batch.labels[second].tolist() == [IGNORE, 12, 13, IGNORE, 42, IGNORE, IGNORE]
    assert {tuple(row) for row in made(5)[0].ids.tolist()} == set(rows)


def test_rows_too_long_for_two_have_no_segments_and_micro_batches_share_a_step():
    made = packed(MADE, context=6, batch_tokens=12, micro_batches=2, seed=3, pad_id=7)
    assert made.width == 6 and len(made(0)) == 2 and made.rows == 2
    alone = Conversations.of([(np.array(ids), np.array(mask)) for ids, mask in ROWS[2:3]])
    assert packed(alone, context=6, batch_tokens=6, micro_batches=1, seed=0, pad_id=7)(0)[0].segments is None


def test_no_conversations_are_an_error():
    with pytest.raises(UserError, match="no conversations"):
        packed(Conversations.of([]), context=6, batch_tokens=6, micro_batches=1, seed=0, pad_id=0)
