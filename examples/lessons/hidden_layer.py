"""Stochastic gradient descent on a network with one hidden layer; train and test loss are logged after each epoch.

    a = α x + α₀      z = σ(a)      b = β z + β₀      ŷ = softmax(b)      J = −yᵀ log ŷ

The recipe of all machine learning: (1) data, (2) a function with parameters, (3) a loss, (4) small steps against the
gradient. One step a training example, the examples in a new order each epoch, each visited once an epoch. What the
gradients are is told by autodiff.py beside this file.

Run it: python examples/lessons/hidden_layer.py [REPORT.html]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from autodiff import Add, Array, CrossEntropy, Linear, Node, Sigmoid, Softmax, backward

Examples = list[tuple[Array, Array]]
"""(x [M], y [K] one-hot) pairs."""


@dataclass
class Network:
    """The parameters of one hidden layer: M features, D hidden units, K classes."""

    alpha: Array
    """[D, M]."""
    alpha_0: Array
    """[D]."""
    beta: Array
    """[K, D]."""
    beta_0: Array
    """[K]."""

    def parameters(self) -> list[Array]:
        """All of them, in a fixed order."""
        return [self.alpha, self.alpha_0, self.beta, self.beta_0]


@dataclass(frozen=True)
class Epoch:
    """A line of the log: mean cross-entropy in nats."""

    epoch: int
    train: float
    test: float


def new_network(features: int, hidden: int, classes: int, rng: np.random.Generator) -> Network:
    """Small random weights, intercepts 0."""
    alpha = rng.normal(size=(hidden, features)) / np.sqrt(features)
    beta = rng.normal(size=(classes, hidden)) / np.sqrt(hidden)
    return Network(alpha, np.zeros(hidden), beta, np.zeros(classes))


def forward(network: Network, x: Array, y: Array) -> tuple[Node, list[Node]]:
    """The loss of one example, and the nodes of the parameters."""
    alpha, alpha_0, beta, beta_0 = weights = [Node(value) for value in network.parameters()]
    z = Sigmoid()(Add()(Linear()(Node(x), alpha), alpha_0))
    y_hat = Softmax()(Add()(Linear()(z, beta), beta_0))
    return CrossEntropy()(Node(y), y_hat), weights


def mean_loss(network: Network, examples: Examples) -> float:
    """Mean cross-entropy, nats."""
    return sum(float(forward(network, x, y)[0].value) for x, y in examples) / len(examples)


def train(
    network: Network, examples: Examples, test: Examples, epochs: int, rate: float, rng: np.random.Generator
) -> list[Epoch]:
    """SGD, in place; the log starts before the first step (epoch 0)."""
    log = [Epoch(0, mean_loss(network, examples), mean_loss(network, test))]
    for epoch in range(1, epochs + 1):
        for i in rng.permutation(len(examples)):
            loss, weights = forward(network, *examples[i])
            backward(loss)
            for value, node in zip(network.parameters(), weights, strict=True):
                value -= rate * node.gradient
        log.append(Epoch(epoch, mean_loss(network, examples), mean_loss(network, test)))
    return log


def rings(count: int, rng: np.random.Generator) -> Examples:
    """`count` points of the plane in three rings around 0, with noise: no straight line tells the classes apart."""
    examples = []
    for i in range(count):
        radius, angle = 0.5 + i % 3 + rng.normal() * 0.2, rng.uniform(0, 2 * np.pi)
        examples.append((radius * np.array([np.cos(angle), np.sin(angle)]), np.eye(3)[i % 3]))
    return examples


def write_report(path: Path, log: list[Epoch]) -> None:
    """Both curves as a page."""
    from idiolect.report import Report

    curves = {
        "train": [(float(line.epoch), line.train) for line in log],
        "test": [(float(line.epoch), line.test) for line in log],
    }
    Report("One hidden layer, trained by SGD").chart("Mean cross-entropy", curves, "epoch", "nats an example").write(
        path
    )


def main(arguments: list[str]) -> None:
    """Three rings, 16 hidden units, 30 epochs."""
    rng = np.random.default_rng(0)
    examples, test = rings(150, rng), rings(90, rng)
    network = new_network(features=2, hidden=16, classes=3, rng=rng)
    log = train(network, examples, test, epochs=30, rate=0.1, rng=rng)
    print("epoch  train   test")
    for line in log:
        print(f"{line.epoch:5d}  {line.train:.4f}  {line.test:.4f}")
    if arguments:
        write_report(Path(arguments[0]), log)


if __name__ == "__main__":
    main(sys.argv[1:])
