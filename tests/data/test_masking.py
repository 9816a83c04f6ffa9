"""Hidden tokens: how many, which, what stands in their place, and that all of it follows from (data, seed, step)."""

import numpy as np
import pytest
import torch

from idiolect import seeds
from idiolect.data.batch import IGNORE, Batch
from idiolect.data.batches import held_out, next_token
from idiolect.data.masking import Masked, Masking, choose, held_out_masks, hide, masking
from idiolect.errors import UserError
from idiolect.testing import ByteTokenizer
from idiolect.tokens.learn import from_vocabulary
from idiolect.tokens.settings import TokenizerSettings

IDS = {"begin_id": 0, "end_id": 0, "pad_id": 1}
V, MASK = 259, 258
CONTENT = np.array([False, False, *[True] * 256, False])
BYTES = Masking(MASK, 0.15, CONTENT, None)
TEXTS = ["abcdefghij" * 3, "klmnopqrst" * 2, "uvwxyz" * 7, "a", "", "bc" * 40]


def draw(seed=0):
    return seeds.numpy_generator(seed, "test")


def batches(encode, context=29, rows=4, **options):
    return Masked(next_token(encode(TEXTS), context=context, batch_tokens=context * rows, **IDS, **options), BYTES)


def test_each_row_has_its_share_and_at_least_one():
    """0.15 of 40, 7, 3 and 1 tokens is 6, 1.05, 0.45 and 0.15; of a row without tokens nothing."""
    ids = np.zeros((5, 40), dtype=np.int64)
    for row, length in enumerate((40, 7, 3, 1, 0)):
        ids[row, :length] = 5
    assert choose(ids, None, BYTES, draw()).sum(1).tolist() == [6, 1, 1, 1, 0]


def test_control_tokens_are_never_chosen_and_every_other_is_at_some_time():
    ids = np.array([[0, 5, 7, 0, 9, MASK, 11, 1, 1]])
    counts = sum(choose(ids, None, BYTES, draw(seed)).astype(int) for seed in range(400))
    assert counts[0, [0, 3, 5, 7, 8]].tolist() == [0] * 5
    assert counts.sum() == 400 and all(70 < count < 130 for count in counts[0, [1, 2, 4, 6]])  # 100 each, deviation 9


WORDS = from_vocabulary(
    ["un", "##hash", "##able", "key", "is"], TokenizerSettings(kind="wordpiece", size=8)
).with_mask()


def test_whole_words_are_chosen_whole():
    """Ids 3 … 7: `un ##hash ##able key is`. A word of another document does not go on this one."""
    how = masking(WORDS, 0.3, True)
    ids = np.array([[0, 3, 4, 5, 6, 7, 6, 3, 5, 1]])
    words = [[1, 2, 3], [4], [5], [6], [7, 8]]
    seen = set()
    for seed in range(60):
        chosen = set(np.flatnonzero(choose(ids, None, how, draw(seed))[0]).tolist())
        taken = tuple(i for i, word in enumerate(words) if chosen >= set(word))
        assert chosen == {t for i in taken for t in words[i]}
        # 0.3 of 8 tokens are 2.4, so 2: one long word, or words until there are two tokens
        assert sum(len(words[i]) for i in taken) >= 2
        seen.add(taken)
    assert {(0,), (4,), (1, 2)} <= seen
    apart = np.array([[0, 0, 0, 0, 0, 0, 1, 1, 1, -1]])
    ids[0, 6] = 4  # goes on `is`, but for the document that begins there
    alone = [choose(ids, apart, how, draw(seed))[0, 5:7].tolist() for seed in range(60)]
    joined = [choose(ids, None, how, draw(seed))[0, 5:7].tolist() for seed in range(60)]
    assert [True, False] in alone and all(a == b for a, b in joined)


def test_what_stands_in_the_place_of_the_chosen():
    """80% the mask, 10% another token, 10% themselves: of 6,000 chosen within five deviations; of the rest all."""
    ids = torch.full((10, 4000), 77)
    hidden = hide(Batch(ids, ids), BYTES, draw())
    chosen = hidden.labels != IGNORE
    assert int(chosen.sum()) == hidden.count == 10 * 600
    assert (hidden.labels[chosen] == 77).all() and (hidden.ids[~chosen] == 77).all()
    shown = hidden.ids[chosen]
    assert 0.774 < float((shown == MASK).float().mean()) < 0.826
    others = shown[(shown != MASK) & (shown != 77)]
    assert 0.08 < len(others) / 6000 < 0.12 and len(set(others.tolist())) > 200
    assert set(others.tolist()) <= set(range(2, 258))


def test_a_step_follows_from_data_seed_and_step_alone(encode):
    masked, again = batches(encode), batches(encode)
    (once,), (twice,) = masked(5), again(5)
    assert torch.equal(once.ids, twice.ids) and torch.equal(once.labels, twice.labels)
    assert not torch.equal(once.labels, masked(5 + masked.rows.n)[0].labels)
    (other,) = batches(encode, seed=1)(5)
    assert not torch.equal(once.ids, other.ids)


def test_an_epoch_hides_anew(encode):
    """The same example in two epochs has other tokens hidden."""
    masked = batches(encode, rows=1)
    n = masked.rows.n
    labels = {}
    for step in range(2 * n):
        (batch,) = masked(step)
        labels.setdefault(int(masked.rows.examples(step)[0]), []).append(batch.labels)
    assert len(labels) == n and all(len(found) == 2 for found in labels.values())
    assert sum(not torch.equal(*found) for found in labels.values()) > n / 2


def test_micro_batches_are_the_batch_in_pieces(encode):
    (whole,), pieces = batches(encode)(3), batches(encode, micro_batches=2)(3)
    assert torch.equal(torch.cat([p.ids for p in pieces]), whole.ids)
    assert torch.equal(torch.cat([p.labels for p in pieces]), whole.labels)
    assert torch.equal(torch.cat([p.segments for p in pieces]), whole.segments)
    with pytest.raises(ValueError, match="not 3 equal parts"):
        whole.split(3)


def test_rows_that_are_not_full_say_how_long_they_are(encode):
    stream = Masked(next_token(encode(TEXTS), context=29, batch_tokens=29 * 7, packing="stream", **IDS), BYTES)
    (batch,) = stream(0)
    assert batch.segments is None and batch.lengths is not None
    real = (batch.ids != 1).sum(1)
    assert batch.lengths.tolist() == real.tolist() and real.min() < 29


def test_full_rows_do_not(encode):
    full = Masked(next_token(encode(["abc" * 29]), context=11, batch_tokens=22, packing="stream", **IDS), BYTES)
    assert full(0)[0].lengths is None


def test_held_out_masks_are_always_the_same(encode):
    held = held_out(encode(TEXTS), context=13, rows=3, **IDS)
    first, second = list(held_out_masks(held, BYTES)), list(held_out_masks(held, BYTES))
    assert len(first) == len(second) > 2
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.ids, b.ids) and torch.equal(a.labels, b.labels)
        assert a.count and (a.lengths is None or a.lengths.tolist() == (a.ids != 1).sum(1).tolist())


def test_a_tokenizer_without_a_mask_is_refused():
    tokenizer = ByteTokenizer()
    tokenizer.mask_id = None
    with pytest.raises(UserError, match="no mask token"):
        masking(tokenizer, 0.15, False)
