"""A small text of known shape for the tests of the loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from idiolect.data.batch import IGNORE, Batch

VOCABULARY = 13


@pytest.fixture
def batches() -> Callable[..., Callable[[int], list[Batch]]]:
    """`batches(micro)` → batch_at: eight rows of 7 positions a step, cut into `micro` parts, some labels ignored."""

    def make(micro: int = 1, rows: int = 8, length: int = 7) -> Callable[[int], list[Batch]]:
        def batch_at(step: int) -> list[Batch]:
            draw = torch.Generator().manual_seed(step)
            ids = torch.randint(0, VOCABULARY, (rows, length + 1), generator=draw)
            ids[:, 1::2] = (ids[:, 0:-1:2] + 1) % VOCABULARY  # half of the text can be learnt
            labels = ids[:, 1:].clone()
            for row in range(rows):
                labels[row, length - row % 5 :] = IGNORE  # rows with unequal counts: a mean of means would differ
            parts = zip(ids[:, :-1].chunk(micro), labels.chunk(micro))
            return [Batch(i, y) for i, y in parts]

        return batch_at

    return make
