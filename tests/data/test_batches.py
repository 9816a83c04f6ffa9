"""Batches as a pure function of (data, seed, step)."""

import random

import numpy as np
import pytest
import torch

from idiolect.data.batch import IGNORE, bits_per_byte
from idiolect.data.batches import held_out, next_token
from idiolect.errors import UserError

IDS = {"begin_id": 300, "end_id": 0, "pad_id": 1}  # begin and end told apart, as some tokenizers do


def texts(count, longest, seed=0):
    draw = random.Random(seed)
    return ["".join(chr(draw.randint(97, 122)) for _ in range(draw.randint(1, longest))) for _ in range(count)]


def pairs(documents):
    """(everything the model may look at, what it is to predict) for each token and end of each document."""
    out = []
    for document in documents:
        ids = [byte + 2 for byte in document.encode()]
        whole = [300, *ids, 0]
        out += [(tuple(whole[: i + 1]), whole[i + 1]) for i in range(len(ids) + 1)]
    return sorted(out)


def visible(batch, context):
    """(the ids of its own segment up to it, label) of each supervised position."""
    out = []
    for row in range(len(batch.ids)):
        for t in (batch.labels[row] != IGNORE).nonzero().flatten().tolist():
            start = 0 if batch.segments is None else int((batch.segments[row] == batch.segments[row, t]).nonzero()[0])
            out.append((tuple(batch.ids[row, start : t + 1].tolist()), int(batch.labels[row, t])))
    return sorted(out)


def epoch_of(batches):
    """All examples of the corpus as one batch."""
    return batches.batch(np.arange(batches.n))


def test_short_documents_share_rows_and_see_only_themselves(encode):
    documents = texts(50, 20)
    batches = next_token(encode(documents), context=23, batch_tokens=23, **IDS)
    batch = epoch_of(batches)
    assert batch.segments is not None
    assert visible(batch, 23) == pairs(documents)
    assert batches.n < 50 * 12 / 23 * 1.3
    padding = batch.segments == -1
    assert (batch.ids[padding] == 1).all() and (batch.labels[padding] == IGNORE).all()
    assert (batch.ids[~padding] != 1).all()


def test_a_long_document_is_cut_and_needs_no_segments(encode):
    (document,) = texts(1, 1, seed=3)
    document = document * 3 + "".join(texts(40, 9))
    shards = encode([document])
    batches = next_token(shards, context=13, batch_tokens=13, **IDS)
    batch = epoch_of(batches)
    assert batch.segments is None
    stream = [300, *(byte + 2 for byte in document.encode()), 0]
    rows = {(stream[i], *stream[i + 1 : i + 14]) for i in range(0, len(stream) - 1, 13)}
    seen = {(int(ids[0]), *labels[labels != IGNORE].tolist()) for ids, labels in zip(batch.ids, batch.labels)}
    assert seen == rows
    assert batch.count == len(stream) - 1


def test_a_stream_is_cut_whatever_it_holds(encode):
    shards = encode(["ab", "c"])  # S = E a b E c E
    batches = next_token(shards, context=2, batch_tokens=2, packing="stream", **IDS)
    batch = epoch_of(batches)
    a, b, c = 99, 100, 101
    assert batch.ids.tolist() == [[300, a], [b, 300], [c, 1]]
    assert batch.labels.tolist() == [[a, b], [0, c], [0, IGNORE]]
    assert batch.segments is None


@pytest.mark.parametrize("packing", ["documents", "stream"])
def test_steps_are_computed_not_walked_to(encode, packing):
    shards = encode(texts(40, 30))
    options = {"context": 11, "batch_tokens": 45, "packing": packing, **IDS}
    batches = next_token(shards, **options)
    forward = [batches(step) for step in range(9)]
    again = next_token(shards, **options)
    for step in (8, 0, 5):
        assert torch.equal(again(step)[0].ids, forward[step][0].ids)
        assert torch.equal(again(step)[0].labels, forward[step][0].labels)
    other = next_token(shards, seed=1, **options)
    assert not torch.equal(other(0)[0].ids, forward[0][0].ids)
    assert batches.rows == 4 and forward[0][0].ids.shape == (4, 11)


def test_micro_batches_are_the_batch_in_parts(encode):
    shards = encode(texts(40, 30))
    whole = next_token(shards, context=11, batch_tokens=66, **IDS)(3)
    parts = next_token(shards, context=11, batch_tokens=66, micro_batches=3, **IDS)(3)
    assert [len(part.ids) for part in parts] == [2, 2, 2]
    for name in ("ids", "labels", "segments"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole[0], name))


def test_a_step_may_hold_several_epochs(encode):
    batches = next_token(encode(["abcd"]), context=2, batch_tokens=14, **IDS)
    assert batches.n == 3 and batches.rows == 7
    examples = np.concatenate([batches.examples(step) for step in range(3)])
    assert [sorted(epoch) for epoch in examples.reshape(7, 3).tolist()] == [[0, 1, 2]] * 7
    assert [batches.epoch(step) for step in range(3)] == [0, 2, 4]


def test_too_little_text_is_refused(encode):
    with pytest.raises(UserError, match="6 tokens, fewer than one context of 7"):
        next_token(encode(["hello"]), context=7, batch_tokens=7, **IDS)
    assert next_token(encode(["hello"]), context=6, batch_tokens=1, **IDS).rows == 1


def test_micro_batches_must_divide_the_rows(encode):
    with pytest.raises(UserError, match="does not divide the 10 rows") as error:
        next_token(encode(["hello world"]), context=5, batch_tokens=50, micro_batches=4, **IDS)
    assert "train.micro_batches=2" in error.value.mend


@pytest.mark.parametrize(("context", "rows"), [(7, 3), (100, 1), (1, 1), (19, 50)])
def test_held_out_scores_every_label_once_in_order(encode, context, rows):
    documents = texts(30, 25)
    shards = encode(documents)
    held = held_out(shards, context=context, rows=rows, **IDS)
    labels = torch.cat([batch.labels[batch.labels != IGNORE] for batch in held]).tolist()
    assert labels == [i for d in documents for i in [*(byte + 2 for byte in d.encode()), 0]]
    assert held.labels == len(labels) == shards.labels
    assert held.bytes(None) == shards.bytes
    for batch in held:
        assert batch.segments is None and batch.ids.numel() <= max(rows, 1) * context
        assert (batch.ids[batch.labels == IGNORE] == 1).all()


def test_held_out_windows_start_with_their_document(encode):
    held = held_out(encode(["abc", "d"]), context=3, rows=9, **IDS)
    (batch,) = held
    a, b, c, d = 99, 100, 101, 102
    assert batch.ids.tolist() == [[300, a, b], [c, 1, 1], [300, d, 1]]
    assert batch.labels.tolist() == [[a, b, c], [0, IGNORE, IGNORE], [d, 0, IGNORE]]


def test_held_out_slides(encode):
    (batch,) = held_out(encode(["abcd"]), context=3, stride=1, rows=9, **IDS)
    a, b, c, d = 99, 100, 101, 102
    assert batch.ids.tolist() == [[300, a, b], [a, b, c], [b, c, d]]
    assert batch.labels.tolist() == [[a, b, c], [IGNORE, IGNORE, d], [IGNORE, IGNORE, 0]]


@pytest.mark.parametrize("limit", range(1, 12))
def test_held_out_stops_at_its_limit(encode, tokenizer, limit):
    shards = encode(["abé", "d", "efg"])  # labels: a b é é E | d E | e f g E
    held = held_out(shards, context=3, rows=2, limit_tokens=limit, **IDS)
    assert sum(batch.count for batch in held) == limit
    assert held.bytes(tokenizer.token_bytes()) == [1, 2, 3, 4, 4, 5, 5, 6, 7, 8, 8][limit - 1]
    assert held.bytes(None) == (held.bytes(tokenizer.token_bytes()) if limit in (5, 7, 11) else None)
    assert [batch.labels.tolist() for batch in held] == [batch.labels.tolist() for batch in held]


def test_nats_to_bits_per_byte():
    assert bits_per_byte(8 * 0.6931471805599453, 4) == pytest.approx(2.0, rel=1e-15)
