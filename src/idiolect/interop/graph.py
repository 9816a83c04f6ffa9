"""A computation graph as a file: DOT for other programs, SVG to look at.

Nodes are rectangles with the function inside and the variable's name outside; edges are directed and have no labels.
Every variable, parameter (intercepts too), constant and the loss is a node.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from idiolect.adapt.heads import Labelled, frame
from idiolect.errors import UserError
from idiolect.models.graph import Node, trace
from idiolect.report import VARIABLES
from idiolect.tokens.tokenizer import Tokenizer

SWEEPS = 12
"""Times that each layer is put into order and place after its neighbours."""
BOX, LAYER, GAP, MARGIN = 26, 64, 22, 24
"""Height of a box; from one layer to the next; between the things of a layer; around the picture."""
LETTER = 6.6
"""Width of a letter at 12 px, about."""
COLOURS = {"parameter": "--s0", "constant": "--s2", "intermediate": "--soft", "loss": "--s1"}
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:var(--ink)}.name{fill:var(--soft);font-size:11px}"
    "rect{fill:var(--paper);stroke-width:1.4}path{fill:none;stroke:var(--soft);stroke-opacity:.65}"
    "marker path{fill:var(--soft);stroke:none;fill-opacity:.8}"
)


def of_model(model: Any, tokenizer: Tokenizer, text: str | None = None) -> list[Node]:
    """The graph of a model's loss over one text, a mean cross-entropy; without a text, over two tokens.

    A causal model predicts each next token, an encoder and CBOW each token where it stands; a sequence-to-sequence
    model writes the text that it reads, and one with labels gives the first of them. Raises UserError when the text is
    longer than the model's context, or nothing of it is predicted.
    """
    words = np.flatnonzero(tokenizer.content)[:2].tolist() if text is None else tokenizer.encode(text)
    ids, labels, given = [tokenizer.begin_id, *words], [*words, tokenizer.end_id], {}
    if isinstance(model, Labelled):
        ids = frame(model.settings.base, tokenizer, model.before).of(np.array(words, dtype=np.int64)).tolist()
        labels = [0] * (len(ids) if model.settings.each == "word" else 1)
    elif hasattr(model, "encode"):
        features = model.settings.source_features
        given["source"] = torch.tensor([labels]) if features is None else torch.zeros(1, len(labels), features)
        start = getattr(model.settings, "start_id", None)
        ids[0] = ids[0] if start is None else start
    elif model.refusal:
        ids = labels = tokenizer.framed(words) if hasattr(model, "transform") else words
    if not labels:
        raise UserError("there is no token to predict", "give a text with some")
    if model.context is not None and len(ids) > model.context:
        raise UserError(f"{len(ids)} tokens are more than the model's context of {model.context}", "shorten the text")
    given |= {"ids": torch.tensor([ids]), "labels": torch.tensor(labels)}

    def loss() -> Tensor:
        hidden = model.body(given["ids"], given["source"]) if "source" in given else model.body(given["ids"])
        if isinstance(model, Labelled):
            logits = model.logits(hidden)
        else:
            logits = model.head(model.transform(hidden) if hasattr(model, "transform") else hidden)
        return F.cross_entropy(logits.flatten(0, -2), given["labels"])

    return trace(loss, {**dict(model.named_parameters()), **given}, model)


def dot(nodes: Sequence[Node], title: str) -> str:
    """The graph in DOT; what a node is stands in its `class`."""
    lines = [f"digraph {json.dumps(title, ensure_ascii=False)} {{", "  node [shape=box];"]
    for i, node in enumerate(nodes):
        inside, outside = (json.dumps(text, ensure_ascii=False) for text in (node.function, node.name))
        lines.append(f"  n{i} [label={inside}, xlabel={outside}, class={node.kind}];")
    lines += [f"  n{before} -> n{i};" for i, node in enumerate(nodes) for before in dict.fromkeys(node.inputs)]
    return "\n".join([*lines, "}"]) + "\n"


def svg(nodes: Sequence[Node], title: str) -> str:
    """The graph as a picture, from the top down, in layers (Sugiyama et al. 1981)."""
    places = _placed(nodes)
    left = min(place.left for place in places.values()) - MARGIN
    right = max(place.right for place in places.values()) + MARGIN
    bottom = max(place.y for place in places.values()) + BOX / 2 + MARGIN
    key, top, parts = left + MARGIN, -BOX / 2 - 3 * MARGIN, []
    for kind, colour in COLOURS.items():
        parts.append(f'<rect x="{key}" y="{top + 14}" width="14" height="11" rx="2" style="stroke:var({colour})"/>')
        parts.append(f'<text x="{key + 20}" y="{top + 24}">{kind}</text>')
        key += 40 + LETTER * len(kind)
    parts += [_edge(place, other) for place in places.values() for other in place.below]
    for i, node in enumerate(nodes):
        place = places[i, i]
        x, half = place.x - place.box / 2, BOX / 2
        parts.append(
            f'<rect x="{x:.1f}" y="{place.y - half:.1f}" width="{place.box:.1f}" height="{BOX}" rx="3" '
            f'style="stroke:var({COLOURS[node.kind]})"/>'
            f'<text x="{place.x:.1f}" y="{place.y + 4:.1f}" text-anchor="middle">{escape(node.function)}</text>'
            f'<text x="{x + place.box + 5:.1f}" y="{place.y - half + 9:.1f}" class="name">{escape(node.name)}</text>'
        )
    width = max(right, key) - left
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:.0f} {top:.0f} {width:.0f} {bottom - top:.0f}" '
        f'width="{width:.0f}" role="img" aria-label="{escape(title)}"><style>{VARIABLES}{STYLE}</style>'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.8L7.5 4L0 7.2z"/></marker></defs>'
        f'<rect x="{left:.0f}" y="{top:.0f}" width="100%" height="100%" style="stroke:none"/>{"".join(parts)}</svg>\n'
    )


@dataclass
class _Place:
    """Something in a layer: a box with its name beside it or (box 0) the bend of an edge that passes through."""

    y: float
    box: float
    """Width of the box."""
    name: float
    """Width of the name to its right."""
    x: float = 0.0
    """Middle of the box."""
    above: list[_Place] = field(default_factory=list)
    """What leads to it."""
    below: list[_Place] = field(default_factory=list)
    """What it leads to."""

    @property
    def left(self) -> float:
        """Where it begins."""
        return self.x - self.box / 2

    @property
    def right(self) -> float:
        """Where it ends, its name included."""
        return self.x + self.box / 2 + self.name


def layers(nodes: Sequence[Node]) -> list[int]:
    """The layer of each node: below all of its inputs, and right above what first uses it where it has none."""
    out = [0] * len(nodes)
    first = [len(nodes)] * len(nodes)
    for i, node in enumerate(nodes):
        out[i] = max((out[before] + 1 for before in node.inputs), default=0)
        for before in node.inputs:
            first[before] = min(first[before], out[i])
    return [first[i] - 1 if not node.inputs and first[i] < len(nodes) else out[i] for i, node in enumerate(nodes)]


def _placed(nodes: Sequence[Node]) -> dict[tuple[int, int], _Place]:
    """Where everything is: (i, i) for node i, (i, layer + number of nodes) for the bends of edges that leave it.

    An edge that passes layers bends in each; those that leave one node share their bends.
    """
    layer = layers(nodes)
    rows: list[list[_Place]] = [[] for _ in range(max(layer) + 1)]
    found: dict[tuple[int, int], _Place] = {}
    for i, node in enumerate(nodes):
        place = _Place(layer[i] * LAYER, 18 + LETTER * len(node.function), 10 + 0.92 * LETTER * len(node.name))
        found[i, i] = place
        rows[layer[i]].append(place)
        for before in dict.fromkeys(node.inputs):
            last = found[before, before]
            for passed in range(layer[before] + 1, layer[i]):
                bend = (before, passed + len(nodes))
                if bend not in found:
                    found[bend] = _Place(passed * LAYER, 0, 0)
                    rows[passed].append(found[bend])
                    _join(last, found[bend])
                last = found[bend]
            _join(last, place)
    for row in rows:
        _spread(row, [float(i) for i in range(len(row))])
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = [_middle(place, sweep) for place in row]
            if sweep < SWEEPS - 2:  # the order, too
                order = sorted(range(len(row)), key=wanted.__getitem__)
                row[:], wanted = [row[i] for i in order], [wanted[i] for i in order]
            _spread(row, wanted)
    return found


def _join(above: _Place, below: _Place) -> None:
    above.below.append(below)
    below.above.append(above)


def _middle(place: _Place, sweep: int) -> float:
    """Where a place would be best: in the middle of its neighbours, by turns of those above and those below."""
    neighbours = (place.above or place.below) if sweep % 2 == 0 else (place.below or place.above)
    return sum(other.x for other in neighbours) / len(neighbours) if neighbours else place.x


def _spread(row: Sequence[_Place], wanted: Sequence[float]) -> None:
    """Puts a layer's places, in their order, near where they want to be without overlap.

    The mean of two ways that keep every distance: each pushed to the right by the one before, or to the left by the
    one after.
    """
    apart = [0.0]
    for one, other in zip(row, row[1:]):
        apart.append(one.box / 2 + one.name + GAP + other.box / 2)
    rightward, leftward = list(wanted), list(wanted)
    for i in range(1, len(row)):
        rightward[i] = max(rightward[i], rightward[i - 1] + apart[i])
        leftward[-i - 1] = min(leftward[-i - 1], leftward[-i] - apart[-i])
    for place, a, b in zip(row, rightward, leftward):
        place.x = (a + b) / 2


def _edge(above: _Place, below: _Place) -> str:
    """A curve from one place to one of a lower layer, an arrow where that is a box."""
    y, y2 = above.y + (BOX / 2 if above.box else 0), below.y - (BOX / 2 + 1 if below.box else 0)
    half = (y2 - y) / 2
    arrow = ' marker-end="url(#arrow)"' if below.box else ""
    curve = f"C{above.x:.1f} {y + half:.1f} {below.x:.1f} {y2 - half:.1f} {below.x:.1f} {y2:.1f}"
    return f'<path d="M{above.x:.1f} {y:.1f}{curve}"{arrow}/>'
