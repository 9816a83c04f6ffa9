"""Training some of a model's own parameters and no others: by name, biases, norms, the last blocks."""

from __future__ import annotations

import re

from torch import nn

from idiolect.adapt.edited import core, matching
from idiolect.adapt.settings import SelectiveSettings
from idiolect.errors import UserError

BLOCK = re.compile(r"(.*?)\bblocks\.(\d+)\.")
"""The stack and the number of the block that a parameter lies in."""


def choose(model: nn.Module, settings: SelectiveSettings, *, seed: int = 0) -> list[str]:
    """The names of the parameters that train. Raises UserError when one of the settings finds none.

    Nothing is drawn, so the seed does not matter.
    """
    bare = core(model)
    names = [name for name, _ in bare.named_parameters()]
    chosen = set(matching(names, settings.parameters, "parameter")) if settings.parameters else set()
    norms = [name for name in names if "norm" in name.rpartition(".")[0].rpartition(".")[2]]
    found = {
        "biases": (settings.biases, [name for name in names if name.endswith("bias")]),
        "norms": (settings.norms, norms),
        "last_blocks": (bool(settings.last_blocks), _last(names, settings.last_blocks)),
    }
    for key, (asked, some) in found.items():
        if asked and not some:
            raise UserError(f"the model has no {key.replace('last_', '')}", f"leave adapt.{key} out")
        chosen |= set(some) if asked else set()
    prefix = "" if bare is model else "base."
    return [prefix + name for name in names if name in chosen]


def _last(names: list[str], count: int) -> list[str]:
    """The parameters of the last `count` blocks of every stack."""
    places = {name: (found[1], int(found[2])) for name in names if (found := BLOCK.match(name))}
    ends: dict[str, int] = {}
    for stack, number in places.values():
        ends[stack] = max(ends.get(stack, 0), number + 1)
    return [name for name, (stack, number) in places.items() if number >= ends[stack] - count]
