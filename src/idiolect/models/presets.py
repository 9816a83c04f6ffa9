"""The eight sizes of GPT-3 (Brown et al. 2020, arXiv 2005.14165, table 2.1): as printed, checked, and repaired.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from statistics import linear_regression

from idiolect.models.settings import DecoderSettings

VOCABULARY = 50257
CONTEXT = 2048


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    parameters: float
    layers: int
    width: int
    heads: int
    head_width: int
    batch: float
    """Tokens an optimiser step."""
    learning_rate: float


GPT3 = (
    Row("GPT-3 Small", 125e6, 12, 768, 12, 64, 0.5e6, 6.0e-4),
    Row("GPT-3 Medium", 350e6, 24, 1024, 16, 64, 0.5e6, 3.0e-4),
    Row("GPT-3 Large", 760e6, 24, 1536, 16, 96, 0.5e6, 2.5e-4),
    Row("GPT-3 XL", 1.3e9, 24, 2048, 24, 128, 1e6, 2.0e-4),
    Row("GPT-3 2.7B", 2.7e9, 32, 2560, 32, 80, 1e6, 1.6e-4),
    Row("GPT-3 6.7B", 6.7e9, 32, 4096, 32, 128, 2e6, 1.2e-4),
    Row("GPT-3 13B", 13.0e9, 40, 5140, 40, 128, 2e6, 1.0e-4),
    Row("GPT-3 175B", 175.0e9, 96, 12288, 96, 128, 3.2e6, 0.6e-4),
)
"""The rows as printed."""


def repair(row: Row) -> DecoderSettings:
    """Settings that can be built: heads x head width made equal to the width, in the shape of GPT-2.

    Heads of the printed width that fill the printed width exactly are preferred; when none do, the width gives way.
    """
    fits = row.width % row.head_width == 0
    return DecoderSettings(
        layers=row.layers,
        width=row.width if fits else row.heads * row.head_width,
        heads=row.width // row.head_width if fits else row.heads,
        context=CONTEXT,
        norm="layer",
        position="learned",
        mlp="gelu",
        attention_bias="all",
        mlp_bias=True,
    )


PRESETS = {
    f"gpt3-{name}": (row, repair(row))
    for name, row in zip(("small", "medium", "large", "xl", "2.7b", "6.7b", "13b", "175b"), GPT3)
}
"""Each size by name: the printed row (with its batch and learning rate) and what to build."""


def check_table(rows: Sequence[Row]) -> dict[str, list[str]]:
    """What is wrong with each row, by its name; rows without fault are absent. Rows go from small to large.

    Within a row: heads x head width = width; layers and width share out evenly among accelerators (section 2.1: the
    shapes are "chosen based on computational efficiency and load-balancing in the layout of models across GPU's");
    the printed parameters are those of the shape. Across rows: the batch grows and the learning rate falls with size,
    each within a factor 2 of the power law through the other rows. Batch and rate follow from nothing else in a row:
    an altered one that still fits among the others cannot be noticed, one that does not may name its neighbours too.
    """
    problems = {row.name: _shape(row) for row in rows}
    for small, large in pairwise(rows):
        if small.batch > large.batch or small.learning_rate <= large.learning_rate:
            for row in (small, large):
                problems[row.name].append(f"from {small.name} to {large.name} the batch falls or the rate does not")
    for row in rows:
        others = [other for other in rows if other is not row]
        for what in ("batch", "learning_rate"):
            expected = _power_law(others, what, row.parameters)
            if abs(log(getattr(row, what) / expected)) > log(2):
                problems[row.name].append(f"{what} {getattr(row, what):g}; the other rows suggest {expected:.2g}")
    return {name: found for name, found in problems.items() if found}


def _power_law(rows: Sequence[Row], what: str, parameters: float) -> float:
    """The value of field `what` at a size, by the least-squares line through the logarithms of the rows."""
    sizes = [log(row.parameters) for row in rows]
    line = linear_regression(sizes, [log(getattr(row, what)) for row in rows])
    return exp(line.intercept + line.slope * log(parameters))


def _shape(row: Row) -> list[str]:
    problems = []
    if row.heads * row.head_width != row.width:
        filled = row.heads * row.head_width
        problems.append(f"{row.heads} heads x {row.head_width} = {filled}, not the width {row.width}")
    if row.layers % 4 or row.width % 64:
        problems.append(f"{row.layers} layers of width {row.width} do not share out evenly (by 4 and by 64)")
    counted = 12 * row.layers * row.width**2 + (VOCABULARY + CONTEXT) * row.width  # biases and norms are under 0.1%
    if abs(counted / row.parameters - 1) > 0.02:
        problems.append(f"the shape has {counted:.4g} parameters, not {row.parameters:.4g}")
    return problems
