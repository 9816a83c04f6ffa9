"""OT4: stochastic gradient descent, one example or a mini-batch at a time.

"⋂ I_b = ∅", as a source prints it, does not make batches disjoint in pairs; a partition of the examples is meant, drawn
anew each epoch, and that is what is tested.
"""

import copy

import numpy as np
import pytest
import torch

from idiolect.data.batch import IGNORE
from idiolect.data.batches import next_token
from idiolect.data.shards import encode
from idiolect.testing import ByteTokenizer, TinyModel
from idiolect.text.corpus import Corpus
from idiolect.train import objectives

IDS = {"begin_id": 0, "end_id": 0, "pad_id": 1}
CONTEXT = 7


@pytest.fixture
def shards(tmp_path):
    lines = ["".join(chr(97 + (i * 7 + j * j) % 26) for j in range(1 + i * 5 % 17)) for i in range(41)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    return encode(Corpus([tmp_path / "text.txt"], "line"), ByteTokenizer(), cache=tmp_path / "cache")


def batches_of(shards, rows, **more):
    return next_token(shards, context=CONTEXT, batch_tokens=rows * CONTEXT, **IDS, **more)


def order(batches, slots):
    steps = -(-slots // batches.rows)
    return np.concatenate([batches.examples(step) for step in range(steps)])[:slots]


@pytest.mark.parametrize("packing", ["documents", "stream"])
@pytest.mark.parametrize("rows", [1, 3, 5])
def test_OT4_each_epoch_visits_every_example_exactly_once(shards, rows, packing):
    batches = batches_of(shards, rows, packing=packing, seed=4)
    n = batches.n
    assert n > 20
    epochs = order(batches, 5 * n).reshape(5, n)
    assert (np.sort(epochs, axis=1) == np.arange(n)).all()
    assert len({epoch.tobytes() for epoch in epochs}) == 5  # in an order drawn anew
    assert [batches.epoch(step) for step in (0, (n - 1) // rows, -(-n // rows))] == [0, 0, 1]


def test_OT4_the_batches_of_an_epoch_are_a_partition(shards):
    """Disjoint in pairs, together everything: by the labels that are trained on, not by the numbers of examples."""
    batches = batches_of(shards, 1)
    rows = next(rows for rows in (2, 3, 5, 7) if batches.n % rows == 0 or rows == 7)
    batches = batches_of(shards, rows)
    sets = [set(batches.examples(step).tolist()) for step in range(batches.n // rows)]
    assert sum(map(len, sets)) == len(set().union(*sets)) == batches.n // rows * rows
    everything = batches.batch(np.arange(batches.n))
    assert everything.count == shards.labels
    expected = np.bincount(shards.ids[:], minlength=258)
    expected[0] += shards.documents
    found = torch.bincount(everything.labels[everything.labels != IGNORE], minlength=258)
    assert found.tolist() == expected.tolist()


def test_OT4_the_order_of_examples_does_not_depend_on_the_batch(shards):
    one, many = batches_of(shards, 1), batches_of(shards, 5)
    assert order(one, 200).tolist() == order(many, 200).tolist()


def gradient(model, batches):
    """The gradient of the mean loss over some micro-batches: summed, divided once by the count."""
    model.zero_grad()
    losses = [objectives.next_token(model, batch) for batch in batches]
    for loss in losses:
        loss.total.backward()
    count = sum(loss.count for loss in losses)
    return {name: p.grad / count for name, p in model.named_parameters()}


def test_OT4_batches_of_one_are_plain_sgd(shards):
    """θ ← θ - η ∇ℓ_i(θ), i in the order of the epoch; the gradient is taken at the θ it is subtracted from."""
    rate, batches = 0.5, batches_of(shards, 1, seed=2)
    model = TinyModel(seed=1)
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for step in range(batches.n):
        for (name, p), slope in zip(model.named_parameters(), gradient(model, batches(step)).values()):
            p.grad = slope
        optimizer.step()
    for example in order(batches, batches.n).tolist():
        batch = batches.batch(np.array([example]))
        logits = plain.head(plain.embedding(batch.ids))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE)
        slopes = torch.autograd.grad(loss, list(plain.parameters()))
        with torch.no_grad():
            for p, slope in zip(plain.parameters(), slopes):
                p -= rate * slope
    for p, q in zip(model.parameters(), plain.parameters()):
        assert (p - q).abs().max() <= 1e-5


@pytest.mark.parametrize("k", [2, 3, 6])
def test_OT4_k_micro_batches_of_m_are_one_batch_of_k_times_m(shards, k):
    """Although their rows hold unlike numbers of labels: the loop divides once, by all of them."""
    model = TinyModel(seed=1)
    whole, parts = batches_of(shards, 6), batches_of(shards, 6, micro_batches=k)
    step = next(step for step in range(99) if len({part.count for part in parts(step)}) > 1)
    assert len(parts(step)) == k
    one, many = gradient(model, whole(step)), gradient(model, parts(step))
    for name, slope in one.items():
        assert (slope - many[name]).abs().max() <= 1e-6 * slope.abs().max(), name


def test_OT4_the_loss_of_an_epoch_is_the_mean_over_its_labels(shards):
    """Per-epoch average loss: sums and counts of its batches, whatever the batches are."""
    model = TinyModel(seed=1)
    means = []
    for rows in (1, 5):
        batches = batches_of(shards, rows)
        slots = np.array_split(order(batches, batches.n), max(1, batches.n // rows))
        with torch.no_grad():
            losses = [objectives.next_token(model, batches.batch(examples)) for examples in slots]
        means.append(sum(loss.total.item() for loss in losses) / sum(loss.count for loss in losses))
        assert sum(loss.count for loss in losses) == shards.labels
    assert means[0] == pytest.approx(means[1], rel=1e-6)
