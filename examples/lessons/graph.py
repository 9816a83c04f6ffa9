"""The computation graph of a network with one hidden layer, drawn by the lecture's rules.

    a = α x + α₀      z = σ(a)      b = β z + β₀      J = −log softmax(b)[y]

Nodes are rectangles, with the function that is computed inside and the name of the variable outside. There is one for
every intermediate variable, every parameter (α, β), every intercept (α₀, β₀), every constant (x, y), and the loss J.
Edges are directed and have no labels: which input is which, the function says.

Nobody writes the graph down: the program is run, and what it does is noted.

Run it: python examples/lessons/graph.py [GRAPH.svg or GRAPH.dot]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from idiolect.interop.graph import dot, svg
from idiolect.models.graph import Node, trace


def one_hidden_layer() -> list[Node]:
    """The graph for three features, five hidden units and two classes."""
    x, y = torch.rand(3), torch.tensor(1)
    alpha, alpha_0 = torch.rand(5, 3, requires_grad=True), torch.zeros(5, requires_grad=True)
    beta, beta_0 = torch.rand(2, 5, requires_grad=True), torch.zeros(2, requires_grad=True)

    def forward() -> dict[str, Any]:
        a = F.linear(x, alpha, alpha_0)
        z = torch.sigmoid(a)
        b = F.linear(z, beta, beta_0)
        J = F.cross_entropy(b, y)
        return {"a": a, "z": z, "b": b, "J": J}

    return trace(forward, {"x": x, "y": y, "α": alpha, "α₀": alpha_0, "β": beta, "β₀": beta_0})


def main(arguments: list[str]) -> None:
    """Prints the nodes, or writes the picture."""
    nodes = one_hidden_layer()
    for node in nodes:
        reads = f" of {', '.join(nodes[i].name for i in node.inputs)}" if node.inputs else ""
        print(f"{node.name:3} {node.kind:13} {node.function}{reads}")
    for name in arguments:
        draw = svg if name.endswith(".svg") else dot
        Path(name).write_text(draw(nodes, "one hidden layer"), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
