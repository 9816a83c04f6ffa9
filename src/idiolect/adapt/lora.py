"""Low-rank updates of a model: in which layers, several of them by name, one at a time or none.

Hu et al. 2021, arXiv 2106.09685, section 4.1.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from idiolect import seeds
from idiolect.adapt.edited import core, fits, linears, matching, replace
from idiolect.adapt.settings import LoraSettings
from idiolect.adapt.updates import Lora, Pair, Rows, Updated
from idiolect.errors import UserError, nearest

DEFAULT = ("attention.*", "cross.*", "mlp.gate", "mlp.up", "mlp.down")
"""The layers that are updated when nothing is said: all of attention and MLP."""
NAME = "default"
"""What an adapter is called that has no name, here as in `peft`."""


def layers(model: nn.Module) -> dict[str, Updated]:
    """The layers with updates, by their names in the model without a head for labels."""
    return {name: module for name, module in core(model).named_modules() if isinstance(module, Updated)}


def embeddings(model: nn.Module) -> list[str]:
    """The embeddings of tokens, by their names in the model without a head for labels."""
    named = core(model).named_modules()
    return [name for name, module in named if _leaf(name) == "embedding" and isinstance(module, (nn.Embedding, Rows))]


def sharing(model: nn.Module, name: str) -> list[str]:
    """The layers that share the matrix of the module of that name, as a head may an embedding's."""
    bare: Any = core(model)
    known = bare.shared() if hasattr(bare, "shared") else {}
    others = [other.rpartition(".")[0] for other, of in known.items() if of == f"{name}.weight"]
    there = dict(bare.named_modules())
    return [other for other in others if other in there]


def targets(model: nn.Module, patterns: tuple[str, ...] | None) -> list[str]:
    """The layers to update; a head that shares the embedding's matrix is updated as the embedding.

    Raises UserError where a pattern fits none, or there are none at all.
    """
    names = [name.removesuffix(".linear") for name in linears(model)]
    if patterns is not None:
        tables = embeddings(model)
        same = {other: name for name in tables for other in sharing(model, name)}
        chosen = matching([*tables, *names, *same], patterns, "layer")
        return list(dict.fromkeys(same.get(name, name) for name in chosen))
    found = [name for name in names if any(fits(name, pattern) for pattern in DEFAULT)]
    if not found:
        raise UserError("the model has no linear layers of attention or MLP", "name some in adapt.targets")
    return found


def add(model: nn.Module, settings: LoraSettings, *, seed: int = 0, name: str = NAME) -> list[str]:
    """Gives layers an update of that name, which becomes the active one; returns the names of what is new.

    Its numbers are drawn from (seed, their names) alone. Raises UserError for a name that cannot be, or is there, and
    for layers that cannot have such an update.
    """
    return put(model, dict.fromkeys(targets(model, settings.targets), settings), name, seed)


def put(model: nn.Module, chosen: Mapping[str, LoraSettings], name: str, seed: int = 0) -> list[str]:
    """As `add`, for layers that each have settings of their own."""
    if not re.fullmatch(r"\w[\w-]*", name) or hasattr(nn.ModuleDict, name):
        raise UserError(f"{name!r} is no name for an adapter", "use letters, digits, - and _")
    if name in names(model):
        raise UserError(f"the model has an adapter called {name} already", "choose another name")
    unmerge(model)
    bare, new = core(model), []
    prefix = "" if bare is model else "base."
    for at, settings in chosen.items():
        module = _updated(bare, at, settings)
        pair = Pair(module.linear.weight, settings)
        if pair.A.device.type != "meta":
            pair.draw(module.linear.weight, seeds.generator(seed, "weights", f"{at}.{name}"))
        module.pairs[name] = pair.train(module.training)
        new += [f"{prefix}{at}.pairs.{name}.{part}" for part, _ in pair.named_parameters()]
    use(model, name)
    return new


def _updated(bare: Any, at: str, settings: LoraSettings) -> Updated:
    """The layer of that name, made one that can have updates; so is what shares its matrix, and has the same ones."""
    module = bare.get_submodule(at)
    if isinstance(module, (nn.Embedding, Rows)):
        if settings.dora:
            raise UserError("adapt.dora is of linear layers, and adapt.targets has an embedding", "leave out one")
        if f"{at}.weight" in getattr(bare, "fresh", ()):
            what = f"all of {at} trains, for it has rows for new tokens, and adapt.targets has it, too"
            raise UserError(what, f"leave {at} out of adapt.targets")
    if isinstance(module, Updated):
        return module
    made = Rows(module) if isinstance(module, nn.Embedding) else Lora(module)
    for other in sharing(bare, at):
        replace(bare, other, Lora(bare.get_submodule(other), made.pairs))
    replace(bare, at, made)
    return made


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def names(model: nn.Module) -> list[str]:
    """The adapters of a model."""
    return list(dict.fromkeys(name for lora in layers(model).values() for name in lora.pairs))


def active(model: nn.Module) -> str | None:
    """The adapter that acts; None when the base alone does."""
    return next((lora.active for lora in layers(model).values()), None)


def use(model: nn.Module, name: str | None) -> None:
    """Makes one adapter act, or with None the base alone. Raises UserError for one that is not there."""
    known = names(model)
    if name is not None and name not in known:
        there = ", ".join(known) or "none"
        raise UserError(f"the model has no adapter {name}{nearest(name, known)}", f"it has {there}")
    unmerge(model)
    for lora in layers(model).values():
        lora.active = name


@contextlib.contextmanager
def off(model: nn.Module) -> Iterator[None]:
    """Inside, the base alone acts."""
    before = active(model)
    use(model, None)
    try:
        yield
    finally:
        use(model, before)


def merge(model: nn.Module) -> None:
    """Puts the active updates into their layers: as fast as the base, and no gradients for them until `unmerge`."""
    updated = layers(model)
    for lora in updated.values():
        lora.merge()
    for name, lora in updated.items():
        for other in sharing(model, name):
            updated[other].linear.weight = lora.linear.weight


def unmerge(model: nn.Module) -> None:
    """Takes all updates out again; every layer is what it was, to the bit."""
    for lora in layers(model).values():
        lora.unmerge()


def fold(model: nn.Module) -> None:
    """Makes a plain model of one with updates: the active ones are in its matrices for good."""
    bare, updated = core(model), layers(model)
    for name, lora in updated.items():
        lora.unmerge()
        replace(bare, name, lora.folded())
    for name in updated:
        for other in sharing(model, name):
            bare.get_submodule(other).weight = bare.get_submodule(name).weight
