"""LM13: Bahdanau attention, a sum over the encoder's states with weights from the decoder's state and theirs.

At least 4 BLEU above LM12 on the longest quarter of real pairs, with its interval: `benchmarks/translation.py`.
"""

import math

import pytest
import torch

from idiolect.models.build import build
from idiolect.models.settings import Seq2SeqSettings


@torch.no_grad()
def test_LM13_the_weights_and_the_context_by_hand():
    """One unit: s = 0.5; h = 1, 0, -1; W_a = 2, U_a = 3, v = 1.

    e_j = tanh(2 · 0.5 + 3 h_j) = tanh 4, tanh 1, tanh -2; α = exp(e) / Σ exp(e); c = α_1 - α_3.
    """
    model = build(Seq2SeqSettings(cell="rnn", width=1, bidirectional=False), 5)
    model.attention.query.weight.fill_(2.0)
    model.attention.key.weight.fill_(3.0)
    model.attention.energy.weight.fill_(1.0)
    memory = model.remember(torch.tensor([[[1.0], [0.0], [-1.0]]]), torch.tensor([3]))
    _, weights = model.attend(model.embedding(torch.tensor([[0]])), torch.tensor([[[0.5]]]), memory)
    raised = [math.exp(math.tanh(x)) for x in (4, 1, -2)]
    expected = [value / sum(raised) for value in raised]
    assert weights[0, 0].tolist() == pytest.approx(expected, abs=1e-6)
    context = weights @ memory.annotations
    assert float(context) == pytest.approx(expected[0] - expected[2], abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_LM13_the_weights_sum_to_one_and_padding_has_none(cell):
    model = build(Seq2SeqSettings(cell=cell, width=7, layers=2), 23).eval()
    source, lengths = torch.arange(33).view(3, 11) % 23, torch.tensor([11, 1, 6])
    memory = model.encode(source, lengths)
    y = model.embedding(torch.arange(15).view(3, 5))
    _, weights = model.attend(y, memory.start[:, 0].transpose(0, 1).contiguous(), memory)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 5))
    for b, n in enumerate(lengths):
        assert (weights[b, :, n:] == 0).all() and (weights[b, :, :n] > 0).all()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_LM13_exact_answers_do_not_fall_with_the_length_of_the_source(reversal):
    _, shares = reversal(
        "seq2seq", "model.width=64", "train.batch_tokens=3000", "train.steps=450", "train.learning_rate=5e-3"
    )
    print(shares)
    assert min(shares) >= 0.95
