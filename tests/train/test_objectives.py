from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from idiolect.data.batch import IGNORE, Batch
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings
from idiolect.testing import TinyModel
from idiolect.train import objectives


def certain(vocabulary: int, rate: float) -> TinyModel:
    """After id i the model gives id i + 1 e^rate times the weight of each other id."""
    model = TinyModel(vocabulary, width=vocabulary)
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(vocabulary).roll(1, 1) * rate)
        model.head.weight.copy_(torch.eye(vocabulary))
        model.head.bias.zero_()
    return model


def test_sum_and_count_by_hand() -> None:
    # weights 3, 1, 1, 1, 1 after each id: the right one costs ln(7/3), a wrong one ln 7
    ids, labels = torch.tensor([[0, 1, 2], [4, 0, 0]]), torch.tensor([[1, 2, 0], [0, IGNORE, IGNORE]])
    loss = objectives.next_token(certain(5, math.log(3)), Batch(ids, labels))
    assert loss.count == 4
    assert loss.total.item() == pytest.approx(3 * math.log(7 / 3) + math.log(7), rel=1e-6)
    assert loss.total.shape == ()
    assert loss.logs == {}


def test_bytes_of_the_supervised_labels_are_counted() -> None:
    ids, labels = torch.tensor([[0, 1, 2]]), torch.tensor([[1, 2, IGNORE]])
    token_bytes = torch.tensor([100, 3, 4, 100, 100])
    loss = objectives.next_token(certain(5, 1.0), Batch(ids, labels), token_bytes=token_bytes)
    assert float(loss.logs["bytes"]) == 7


def test_a_head_that_is_not_a_plain_linear_layer_is_called() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    model, other = certain(5, 1.0), certain(5, 2.0)
    doubled = Doubled(5, 5)
    doubled.load_state_dict(model.head.state_dict())
    model.head = doubled
    batch = Batch(torch.tensor([[0, 1, 2]]), torch.tensor([[1, 2, 4]]))
    torch.testing.assert_close(objectives.next_token(model, batch).total, objectives.next_token(other, batch).total)


def test_gradients_reach_every_parameter() -> None:
    model = TinyModel(11, width=3)
    ids = torch.arange(11)[None]
    objectives.next_token(model, Batch(ids, ids.roll(-1, 1))).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


class Fixed:
    """A model of labels whose logits are given."""

    def __init__(self, logits: list[object]) -> None:
        self.given = torch.tensor(logits, dtype=torch.float32).log()

    def body(self, ids: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        return ids

    def logits(self, hidden: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        return self.given


def test_labels_of_rows_by_hand() -> None:
    batch = Batch(torch.zeros(3, 2, dtype=torch.int64), torch.tensor([0, 1, 1]), lengths=torch.tensor([2, 1, 2]))
    loss = objectives.labels(Fixed([[3, 1], [3, 1], [2, 6]]), batch)
    assert loss.count == 3
    assert loss.total.item() == pytest.approx(math.log(4 / 3) + math.log(4) + math.log(8 / 6), rel=1e-6)
    assert float(loss.logs["right"]) == 2


def test_labels_of_tokens_count_only_where_there_is_one() -> None:
    batch = Batch(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[IGNORE, 1, IGNORE]]))
    loss = objectives.labels(Fixed([[[5, 1], [1, 4], [5, 1]]]), batch)
    assert (loss.count, float(loss.logs["right"])) == (1, 1)
    assert loss.total.item() == pytest.approx(math.log(5 / 4), rel=1e-6)


def test_a_capped_head_gives_the_loss_of_capped_logits() -> None:
    settings = DecoderSettings(layers=1, heads=1, width=6, context=5, tied=False, logit_softcap=0.3)
    model = build(settings, 11, seed=1)
    with torch.no_grad():
        model.head.weight.mul_(50)
    ids, labels = torch.tensor([[0, 1, 2], [4, 0, 9]]), torch.tensor([[1, 2, 0], [0, IGNORE, 7]])
    logits = model.head(model.body(ids))
    assert 0.2 < logits.abs().max() <= 0.3
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    got = objectives.next_token(model, Batch(ids, labels)).total
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    got.backward()
    gradient = model.head.weight.grad.clone()
    model.head.weight.grad = None
    expected.backward()
    torch.testing.assert_close(gradient, model.head.weight.grad)
