"""Counting is maximum likelihood: gradient descent on a trigram model finds the count table.

A trigram model gives p(w | u, v). With one free number θ[c, w] for each context c = (u, v) and word w, and
p(w | c) = softmax(θ[c])_w, nothing constrains θ: the softmax keeps every row a distribution. Its likelihood is highest
where the gradient, Σ_w count(c, w) · (p − onehot(w)), is 0, that is at p(w | c) = count(c, w) / count(c).

The textbook way is to constrain Σ_w p_w = 1 by a multiplier λ: count_w / p_w = λ for every word w, so λ is the sum of
the counts. Both are checked here on eleven lines about cows, where count("cows eat") = 11.

For a neural network there is no such formula for the best parameters, but the gradient is still there to follow.

Run it: python examples/lessons/counting.py
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import torch
from torch import Tensor

LINES = (
    "the cows eat grass",
    "our cows eat hay daily",
    "factory-farm cows eat corn",
    "on an organic farm, cows eat hay and",
    "do your cows eat grass or corn?",
    "what do cows eat if they have",
    "cows eat corn when there is no",
    "which cows eat which foods depends",
    "if cows eat grass",
    "when cows eat corn their stomachs",
    "should we let cows eat corn?",
)

Context = tuple[str, str]


def count(lines: tuple[str, ...]) -> dict[Context, Counter[str]]:
    """count(u, v, w) for every trigram within a line."""
    table: dict[Context, Counter[str]] = {}
    for line in lines:
        words = re.findall(r"[\w-]+", line.lower())
        for u, v, w in zip(words, words[1:], words[2:], strict=False):
            table.setdefault((u, v), Counter())[w] += 1
    return table


def as_matrix(table: dict[Context, Counter[str]]) -> tuple[Tensor, list[Context], list[str]]:
    """The counts as float64 [C contexts, V words], with the names of both axes."""
    contexts, words = sorted(table), sorted({w for row in table.values() for w in row})
    counts = [[float(table[context][word]) for word in words] for context in contexts]
    return torch.tensor(counts, dtype=torch.float64), contexts, words


def fit(counts: Tensor, steps: int = 4000, rate: float = 3.0) -> Tensor:
    """p(w | c) [C, V] by plain gradient descent on the mean negative log-likelihood of each row, from θ = 0.

    The words never seen in a context go to 0 only as 1 / (rate · steps): their θ moves away forever.
    """
    theta = torch.zeros_like(counts, requires_grad=True)
    target = counts / counts.sum(1, keepdim=True)
    for _ in range(steps):
        loss = -(target * torch.log_softmax(theta, dim=1)).sum()
        (gradient,) = torch.autograd.grad(loss, theta)
        with torch.no_grad():
            theta -= rate * gradient
    return torch.softmax(theta, dim=1).detach()


def main() -> None:
    """The row "cows eat", counted and fitted, and the largest difference over the whole table."""
    counts, contexts, words = as_matrix(count(LINES))
    fitted = fit(counts)
    row = contexts.index(("cows", "eat"))
    print("after “cows eat”  count  count/11   fitted  count/fitted")
    for i in np.argsort(-counts[row].numpy(), kind="stable"):
        if counts[row, i]:
            n, p = int(counts[row, i]), float(fitted[row, i])
            print(f"{words[i]:>16}  {n:5d}  {n / 11:8.4f} {p:8.4f}  {n / p:12.3f}")
    gap = (fitted - counts / counts.sum(1, keepdim=True)).abs().max()
    print(f"largest difference over {len(contexts)} contexts × {len(words)} words: {float(gap):.1e}")


if __name__ == "__main__":
    main()
