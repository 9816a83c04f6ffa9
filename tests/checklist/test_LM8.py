"""LM8: a character network: one-hot in, softmax out; one word is a handful of labelled pairs."""

import torch
import torch.nn.functional as F

from idiolect.data.batch import Batch
from idiolect.models.build import build
from idiolect.models.settings import RecurrentSettings

LETTERS = "ehlo"
"""Ids are places in this alphabet."""


def hello():
    """The word as one batch: position t of ids predicts position t of labels."""
    ids = torch.tensor([[LETTERS.index(letter) for letter in "hello"]])
    return Batch(ids[:, :-1], ids[:, 1:])


def test_LM8_hello_is_four_labelled_pairs():
    batch = hello()
    pairs = [(LETTERS[x], LETTERS[y]) for x, y in zip(batch.ids[0], batch.labels[0])]
    assert pairs == [("h", "e"), ("e", "l"), ("l", "l"), ("l", "o")]
    assert batch.count == 4


def test_LM8_the_embedding_is_a_product_with_one_hot_vectors():
    model = build(RecurrentSettings(kind="rnn", width=11), len(LETTERS))
    one_hot = F.one_hot(hello().ids, len(LETTERS)).float()
    assert torch.equal(model.embedding(hello().ids), one_hot @ model.embedding.weight)


def test_LM8_overfits_and_writes_the_word_again():
    model = build(RecurrentSettings(kind="rnn", width=11), len(LETTERS), seed=1)
    batch = hello()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03, weight_decay=0.0)
    for _ in range(150):
        logits = model.head(model.body(batch.ids))
        loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss.detach()) < 0.05
    probabilities = model.head(model.body(batch.ids)).softmax(-1)
    assert torch.allclose(probabilities.sum(-1), torch.ones(1, 4))

    written, state = "h", model.init_state(1, 5)
    for _ in range(4):
        logits, state = model.step(torch.tensor([[LETTERS.index(written[-1])]]), state)
        written += LETTERS[int(logits[0, -1].argmax())]
    assert written == "hello"  # the two l's are told apart by what came before them
