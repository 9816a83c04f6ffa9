"""Backpropagation written out: four modules, each with a forward and a backward, run in reverse topological order.

    module         forward             backward, given g_b = dJ/db
    Linear         b = ω a             g_ω = g_b aᵀ          g_a = ωᵀ g_b
    Sigmoid        b = σ(a)            g_a = g_b ⊙ b ⊙ (1 − b)
    Softmax        b = softmax(a)      g_a = g_bᵀ (diag(b) − b bᵀ)
    CrossEntropy   b = −aᵀ log â       g_â = −g_b (a ÷ â)

a, b are vectors, ω a matrix; in CrossEntropy a is the label (a distribution) and â the prediction. The lecture's
listing of CrossEntropy computes g_â but returns a name it never set; here the label's gradient, −g_b log â, is given
too, so a label may itself be computed. Add (b = a + c) holds the intercepts.

Nobody writes down the graph: calling a module makes a node that remembers its inputs, so the program's control flow
makes the graph. `backward` then visits each node after all nodes that use it: reverse topological order. Only then is
its gradient complete.

Run it: python examples/lessons/autodiff.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Node:
    """A value of the computation graph: a constant or parameter, or what a module made of other nodes."""

    def __init__(self, value: Array | float, module: Module | None = None, inputs: tuple[Node, ...] = ()) -> None:
        self.value = np.asarray(value, dtype=np.float64)
        self.module = module
        self.inputs = inputs
        self.gradient = np.zeros_like(self.value)


class Module:
    """A function with its derivative; calling it on nodes makes a node."""

    def __call__(self, *inputs: Node) -> Node:
        """The node of this function of `inputs`."""
        return Node(self.forward(*(node.value for node in inputs)), self, inputs)

    def forward(self, *inputs: Array) -> Array:
        """The value."""
        raise NotImplementedError

    def backward(self, *inputs: Array, b: Array, g_b: Array) -> tuple[Array, ...]:
        """dJ/d(input) for each input, from the value b and its gradient g_b."""
        raise NotImplementedError


class Linear(Module):
    """b = ω a: a [M], ω [N, M] → b [N]."""

    def forward(self, a: Array, w: Array) -> Array:
        """The product."""
        return w @ a

    def backward(self, a: Array, w: Array, *, b: Array, g_b: Array) -> tuple[Array, Array]:
        """g_a [M], g_ω [N, M]."""
        return w.T @ g_b, np.outer(g_b, a)


class Add(Module):
    """b = a + c, all [N]."""

    def forward(self, a: Array, c: Array) -> Array:
        """The sum."""
        return a + c

    def backward(self, a: Array, c: Array, *, b: Array, g_b: Array) -> tuple[Array, Array]:
        """Both get the gradient as it is."""
        return g_b, g_b


class Sigmoid(Module):
    """b = 1 / (1 + e^−a), [N]."""

    def forward(self, a: Array) -> Array:
        """The logistic function, by tanh, which does not overflow."""
        return 0.5 * (1 + np.tanh(a / 2))

    def backward(self, a: Array, *, b: Array, g_b: Array) -> tuple[Array]:
        """g_a [N]."""
        return (g_b * b * (1 - b),)


class Softmax(Module):
    """b_i = e^a_i / Σ_j e^a_j, [N]."""

    def forward(self, a: Array) -> Array:
        """The distribution; the largest a is taken off first, which changes nothing but the overflow."""
        e = np.exp(a - a.max())
        return e / e.sum()

    def backward(self, a: Array, *, b: Array, g_b: Array) -> tuple[Array]:
        """g_a [N]."""
        return (g_b @ (np.diag(b) - np.outer(b, b)),)


class CrossEntropy(Module):
    """b = −aᵀ log â: label a [N], prediction â [N] → a number."""

    def forward(self, a: Array, a_hat: Array) -> Array:
        """Nats."""
        return np.asarray(-a @ np.log(a_hat))

    def backward(self, a: Array, a_hat: Array, *, b: Array, g_b: Array) -> tuple[Array, Array]:
        """g_a [N] and g_â [N]."""
        return -g_b * np.log(a_hat), -g_b * (a / a_hat)


def topological(last: Node) -> list[Node]:
    """Every node that `last` depends on, each after all of its inputs; `last` is the final one."""
    order: list[Node] = []
    seen: set[int] = set()

    def visit(node: Node) -> None:
        if id(node) not in seen:
            seen.add(id(node))
            for before in node.inputs:
                visit(before)
            order.append(node)

    visit(last)
    return order


def backward(loss: Node) -> None:
    """Sets `gradient` of every node that `loss` (a number) depends on."""
    order = topological(loss)
    for node in order:
        node.gradient = np.zeros_like(node.value)
    loss.gradient = np.ones_like(loss.value)
    for node in reversed(order):
        if node.module is None:
            continue
        gradients = node.module.backward(*(i.value for i in node.inputs), b=node.value, g_b=node.gradient)
        for before, gradient in zip(node.inputs, gradients, strict=True):
            before.gradient = before.gradient + gradient


def main() -> None:
    """One hidden layer on one example, and the gradient checked against a small step in the loss."""
    rng = np.random.default_rng(0)
    x, y = Node(rng.normal(size=3)), Node(np.array([0.0, 1.0]))
    alpha, beta = Node(rng.normal(size=(5, 3))), Node(rng.normal(size=(2, 5)))

    def forward() -> Node:
        z = Sigmoid()(Linear()(x, alpha))
        return CrossEntropy()(y, Softmax()(Linear()(z, beta)))

    loss = forward()
    backward(loss)
    print(f"loss {float(loss.value):.6f}")
    order = [type(node.module).__name__ for node in reversed(topological(loss)) if node.module]
    print(f"backward in the order {' → '.join(order)}")
    step = 1e-6
    for name, weight in (("alpha", alpha), ("beta", beta)):
        weight.value[0, 0] += step
        ahead = float(forward().value)
        weight.value[0, 0] -= 2 * step
        behind = float(forward().value)
        weight.value[0, 0] += step
        print(
            f"dJ/d{name}[0,0]: {weight.gradient[0, 0]:+.9f} by backward, {(ahead - behind) / (2 * step):+.9f} by steps"
        )


if __name__ == "__main__":
    main()
