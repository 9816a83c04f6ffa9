"""OT6: SGD on a network with one hidden layer, which logs train and test mean cross-entropy after each epoch."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

LESSONS = Path(__file__).parents[2] / "examples" / "lessons"


@pytest.fixture
def lesson(monkeypatch):
    monkeypatch.syspath_prepend(LESSONS)
    return importlib.import_module("hidden_layer")


def as_tensors(examples):
    x, y = (torch.tensor(np.stack(column)) for column in zip(*examples))
    return x, y.argmax(1)


def test_OT6_the_log_is_that_of_torch_doing_the_same_steps(lesson):
    rng = np.random.default_rng(3)
    examples, test = lesson.rings(17, rng), lesson.rings(11, rng)
    network = lesson.new_network(features=2, hidden=5, classes=3, rng=rng)
    values = [torch.tensor(value) for value in network.parameters()]
    model = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Sigmoid(), torch.nn.Linear(5, 3)).double()
    for parameter, value in zip(model.parameters(), values):
        parameter.data.copy_(value)

    log = lesson.train(network, examples, test, epochs=3, rate=0.3, rng=np.random.default_rng(5))

    orders, optimizer = np.random.default_rng(5), torch.optim.SGD(model.parameters(), lr=0.3)
    (x, y), held_out = as_tensors(examples), as_tensors(test)
    loss = torch.nn.functional.cross_entropy
    expected = []
    for epoch in range(4):
        for i in orders.permutation(17) if epoch else []:
            optimizer.zero_grad()
            loss(model(x[i : i + 1]), y[i : i + 1]).backward()
            optimizer.step()
        expected.append((epoch, loss(model(x), y).item(), loss(model(held_out[0]), held_out[1]).item()))
    assert [line.epoch for line in log] == [0, 1, 2, 3]
    np.testing.assert_allclose([(line.epoch, line.train, line.test) for line in log], expected, atol=1e-9)
    for parameter, value in zip(model.parameters(), network.parameters()):
        np.testing.assert_allclose(value, parameter.detach().numpy(), atol=1e-9)


def test_OT6_both_curves_fall_and_are_written(lesson, tmp_path):
    rng = np.random.default_rng(0)
    examples, test = lesson.rings(90, rng), lesson.rings(60, rng)
    network = lesson.new_network(2, 16, 3, rng)
    log = lesson.train(network, examples, test, epochs=25, rate=0.1, rng=rng)
    assert log[0].train == pytest.approx(math.log(3), abs=0.5)  # three classes, nothing learnt
    assert log[-1].train < 0.7 * log[0].train and log[-1].test < 0.7 * log[0].test
    lesson.write_report(tmp_path / "report.html", log)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<title>train: ") == page.count("<title>test: ") == 26
