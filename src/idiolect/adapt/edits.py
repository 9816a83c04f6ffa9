"""Every way of adapting a model: what is frozen, what is new, and what of it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from idiolect.adapt import bottleneck, lora, prompt, selective
from idiolect.adapt.edited import core, fresh, linears, numbers, replace, within_blocks
from idiolect.adapt.quantised import Quantised
from idiolect.adapt.report import Report
from idiolect.adapt.settings import Adapt, FrozenSettings
from idiolect.errors import UserError

Add = Callable[..., list[str]]
ADD: dict[str, Add] = {
    "selective": selective.choose,
    "lora": lora.add,
    "adapter": bottleneck.add,
    "soft-prompt": prompt.add,
}
"""adapt.kind → what changes a model whose parameters are all frozen: returns the names of those that are to train."""


@dataclass(frozen=True)
class Origin:
    """The model folder that an adapted model goes out from."""

    folder: Path
    fingerprint: str
    """Of its configuration and weights."""


@dataclass(frozen=True)
class Edit:
    """What was made of a model, as the model itself knows it."""

    settings: Adapt
    report: Report
    origin: Origin | None = None
    """None: the weights beside what was added are nowhere else."""


def edit(model: Any, settings: Adapt, *, seed: int = 0, origin: Origin | None = None, add: Add | None = None) -> Report:
    """Adapts a model in place, and says so in `model.edit`.

    All of its parameters stay as they are but those that the settings name or add, and what is new anyway: a head for
    labels, rows for new tokens. New numbers are drawn from (seed, their names) alone. `add` takes the place of what ADD
    has for the kind. Raises UserError for what the model has no place for.
    """
    full = numbers(model.parameters())
    known = fresh(model)
    model.requires_grad_(False)
    saved = 0
    if isinstance(settings, FrozenSettings) and settings.base != "stored":
        saved = quantise(model, settings)
    new = (add or ADD[settings.kind])(model, settings, seed=seed)
    for name in (*known, *new):
        model.get_parameter(name).requires_grad_(True)
    report = Report.of(model, (*dict.fromkeys((*new, *known)),), full=full, saved=saved)
    model.edit = Edit(settings, report, origin)
    return report


def quantise(model: nn.Module, settings: FrozenSettings) -> int:
    """Quantises the linear layers of all blocks; returns the bytes that it saves."""
    assert settings.base != "stored"
    known, saved = linears(model), 0
    for name in within_blocks(known):
        before = known[name].weight.nbytes
        made = Quantised(known[name], settings.base, settings.double_quantised)
        replace(core(model), name, made)
        saved += before - made.nbytes
    return saved


def trained(model: Any) -> dict[str, Tensor]:
    """The tensors of a model that training may change, by name: all, unless it was adapted."""
    tensors: Mapping[str, Tensor] = model.state_dict()
    if getattr(model, "edit", None) is None:
        return dict(tensors)
    moving = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in tensors.items() if name in moving}


def whole(model: Any) -> None:
    """Makes a plain model of an adapted one, in place: updates are added into its matrices, for good.

    Raises UserError for what no plain model can hold.
    """
    if getattr(model, "edit", None) is None:
        return
    check_whole(model.edit.settings.kind)
    lora.fold(model)
    for name, layer in linears(model).items():
        if isinstance(layer, Quantised):
            replace(core(model), name, layer.plain())
    model.requires_grad_(True)
    model.edit = None


def check_whole(kind: str) -> None:
    """Raises UserError for what no plain model can hold."""
    if kind in APART:
        what, why = APART[kind]
        raise UserError(f"a model with {what} is no plain model: {why}", "use it by its adapter folder")


APART = {
    "adapter": ("bottleneck adapters", "they are layers that no family has"),
    "soft-prompt": ("a soft prompt", "what it reads begins with vectors that are no tokens"),
}
"""What a plain model cannot hold, and why."""
