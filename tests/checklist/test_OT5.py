"""OT5: the written-out modules match torch autograd to 1e-6, run in reverse topological order."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

LESSONS = Path(__file__).parents[2] / "examples" / "lessons"


@pytest.fixture
def autodiff(monkeypatch):
    monkeypatch.syspath_prepend(LESSONS)
    return importlib.import_module("autodiff")


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def autograd(function, *values):
    """The value of torch's `function`, and the gradients of (its value · a fixed vector), in float64."""
    tensors = [torch.tensor(value, requires_grad=True) for value in values]
    out = function(*tensors)
    upstream = torch.from_numpy(draw(*out.shape, seed=1)) if out.ndim else torch.tensor(-1.7, dtype=torch.float64)
    (out * upstream).sum().backward()
    return out.detach().numpy(), upstream.numpy(), [t.grad.numpy() for t in tensors]


@pytest.mark.parametrize(
    ("name", "function", "values"),
    [
        ("Linear", lambda a, w: w @ a, [draw(5), draw(3, 5)]),
        ("Add", lambda a, c: a + c, [draw(7), draw(7, seed=2)]),
        ("Sigmoid", torch.sigmoid, [draw(11) * 3]),
        ("Softmax", lambda a: torch.softmax(a, 0), [draw(7)]),
        (
            "CrossEntropy",
            lambda a, a_hat: -(a * a_hat.log()).sum(),
            [np.array([0.2, 0.5, 0.3]), np.array([0.1, 0.2, 0.7])],
        ),
    ],
)
def test_OT5_each_module_matches_autograd(autodiff, name, function, values):
    value, upstream, gradients = autograd(function, *values)
    module = getattr(autodiff, name)()
    b = module.forward(*values)
    np.testing.assert_allclose(b, value, atol=1e-6, rtol=0)
    ours = module.backward(*values, b=b, g_b=upstream)
    assert len(ours) == len(gradients)
    for mine, theirs in zip(ours, gradients):
        np.testing.assert_allclose(mine, theirs, atol=1e-6, rtol=0)


def test_OT5_a_whole_network_matches_autograd(autodiff):
    x, y, alpha, beta = draw(5), np.array([0.0, 0.0, 1.0]), draw(7, 5), draw(3, 7)
    a, b = torch.tensor(alpha, requires_grad=True), torch.tensor(beta, requires_grad=True)
    expected = -(torch.from_numpy(y) * torch.softmax(b @ torch.sigmoid(a @ torch.from_numpy(x)), 0).log()).sum()
    expected.backward()

    node = autodiff.Node
    weights = node(alpha), node(beta)
    hidden = autodiff.Sigmoid()(autodiff.Linear()(node(x), weights[0]))
    loss = autodiff.CrossEntropy()(node(y), autodiff.Softmax()(autodiff.Linear()(hidden, weights[1])))
    autodiff.backward(loss)
    assert float(loss.value) == pytest.approx(expected.item(), abs=1e-6)
    np.testing.assert_allclose(weights[0].gradient, a.grad.numpy(), atol=1e-6, rtol=0)
    np.testing.assert_allclose(weights[1].gradient, b.grad.numpy(), atol=1e-6, rtol=0)


def test_OT5_values_used_twice_need_the_reverse_topological_order(autodiff):
    """z reaches the loss by a short and by a long way, and W is used twice: a node may go only after all its users."""
    x, w = draw(3), draw(3, 3)
    tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(w, requires_grad=True)
    tz = torch.sigmoid(tw @ tx)
    (-(torch.softmax(tz, 0) * torch.softmax(tw @ tz, 0).log()).sum()).backward()

    nx, nw = autodiff.Node(x), autodiff.Node(w)
    z = autodiff.Sigmoid()(autodiff.Linear()(nx, nw))
    guess = autodiff.Softmax()(autodiff.Linear()(z, nw))
    loss = autodiff.CrossEntropy()(autodiff.Softmax()(z), guess)
    autodiff.backward(loss)
    np.testing.assert_allclose(nx.gradient, tx.grad.numpy(), atol=1e-6, rtol=0)
    np.testing.assert_allclose(nw.gradient, tw.grad.numpy(), atol=1e-6, rtol=0)

    order = autodiff.topological(loss)
    place = {id(node): i for i, node in enumerate(order)}
    assert len(place) == len(order) == 8  # x, W, Linear, z, Softmax(z), Linear, guess, loss
    assert all(place[id(before)] < place[id(node)] for node in order for before in node.inputs)


def test_OT5_softmax_and_sigmoid_do_not_overflow(autodiff):
    np.testing.assert_allclose(autodiff.Softmax().forward(np.array([1000.0, 0.0])), [1, 0])
    np.testing.assert_allclose(autodiff.Sigmoid().forward(np.array([-1000.0, 1000.0])), [0, 1])
