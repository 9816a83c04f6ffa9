"""Windows over documents, packing, padding: every label once, nothing wasted that need not be."""

import random

import numpy as np
import pytest
import torch

from idiolect import files
from idiolect.data import packing, windows
from idiolect.data.batch import IGNORE
from idiolect.data.packing import Packing, fill
from idiolect.data.padding import pad, shifted


def all_windows(ends, context, stride=None):
    blocks = list(windows.windows(np.array(ends), context, stride))
    return [tuple(np.concatenate(columns).tolist()) for columns in zip(*blocks, strict=True)]


def test_windows_by_hand():
    # documents of 7 and 2 labels; windows of 3
    assert all_windows([0, 7, 9], 3) == [(0, 3, 6, 7), (3, 3, 1, 2), (0, 0, 0, 0)]
    # sliding by 2: positions 0-2, 2-4, 4-6 make the seventh label; the overlap of one is seen
    assert all_windows([0, 7, 9], 3, 2) == [(0, 2, 4, 7), (3, 3, 3, 2), (0, 1, 1, 0)]


@pytest.mark.parametrize("block", [1, 3, 1 << 20])
@pytest.mark.parametrize(("context", "stride"), [(5, 5), (5, 3), (5, 1), (1, 1), (97, 97)])
def test_every_label_is_predicted_once(context, stride, block, monkeypatch):
    monkeypatch.setattr(windows, "BLOCK", block)
    draw = random.Random(context)
    ends = np.cumsum([0, *(draw.randint(2, 23) for _ in range(31))])
    predicted = []
    for start, length, seen in zip(*all_windows(ends, context, stride), strict=True):
        assert 1 <= length <= context and seen < length
        inside = np.searchsorted(ends, start, side="right")
        assert start + length <= ends[inside]  # no window reaches into the next document
        predicted += range(start + seen + 1, start + length + 1)
    assert sorted(predicted) == list(range(1, ends[-1] + 1))


def test_fill_by_hand():
    # 7 | 5+2 | 4+3: the 3 goes to the row of the 4 (room 3), not to that of the 5 (room 2); the 2 fills the latter
    assert fill(np.array([5, 2, 7, 4, 3]), 7).tolist() == [1, 1, 0, 2, 2]


@pytest.mark.parametrize("seed", range(5))
def test_fill_never_overflows_and_wastes_little(seed):
    draw = np.random.default_rng(seed)
    lengths = np.minimum(draw.geometric(0.03, size=2000), 101)
    row = fill(lengths, 101)
    sums = np.bincount(row, weights=lengths)
    assert sums.max() <= 101 and sums.min() >= 1
    least = -(-lengths.sum() // 101)
    assert len(sums) <= 1.01 * least + 1


def test_packing_is_kept_and_checked(encode, monkeypatch):
    shards = encode([("x" * n) for n in (3, 11, 4, 1, 1, 5, 2)])
    first = packing.packing(shards, 7)
    row, starts, lengths = first.pieces(np.arange(len(first)))
    pieces = list(zip(starts.tolist(), lengths.tolist(), strict=True))
    assert sorted(pieces) == list(zip(*all_windows(shards.ends, 7)[:2], strict=True))
    assert np.bincount(row, weights=lengths).max() <= 7 and len(np.unique(row)) == len(first)
    assert first.shared
    row, starts, lengths = first.pieces(np.array([2, 0]))
    assert row.tolist() == [0] * (first.rows[3] - first.rows[2]) + [1] * first.rows[1]
    assert list(zip(starts.tolist(), lengths.tolist()))[-first.rows[1] :] == pieces[: first.rows[1]]

    starts_of_all = first.starts.tolist()
    monkeypatch.setattr(packing, "fill", lambda *_: pytest.fail("packed a second time"))
    assert packing.packing(shards, 7).starts.tolist() == starts_of_all
    monkeypatch.undo()

    path = shards.folder / "packing-7" / "lengths.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(files.Damaged, match=r"lengths\.bin"):
        Packing(shards.folder / "packing-7")
    assert packing.packing(shards, 7).starts.tolist() == starts_of_all


def test_pad_fills_up_at_the_right():
    ids, lengths = pad([[5], [2, 3, 4], []], 9)
    assert ids.tolist() == [[5, 9, 9], [2, 3, 4], [9, 9, 9]]
    assert lengths.tolist() == [1, 3, 0]
    assert ids.dtype == lengths.dtype == torch.int64


def test_shifted_predicts_the_next_id_and_never_padding():
    batch = shifted([[7, 8], [1, 2, 3, 4]], pad_id=6)
    assert batch.ids.tolist() == [[7, 6, 6], [1, 2, 3]]
    assert batch.labels.tolist() == [[8, IGNORE, IGNORE], [2, 3, 4]]
    assert batch.count == 4
