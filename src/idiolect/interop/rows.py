"""What one row of the table of Hugging Face families says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from idiolect.models.settings import FamilySettings

Config = dict[str, Any]
Tensors = dict[str, Tensor]
Check = Callable[[Path], Config]
"""Reads what was written before it gets its name; returns what to say of it, or raises."""


def unchecked(path: Path) -> Config:
    """For what nobody checks."""
    return {}


def same(tensors: Tensors) -> Tensors:
    """Tensors that need no other layout."""
    return tensors


@dataclass(frozen=True)
class Family:
    """One Hugging Face model type."""

    settings: type[FamilySettings]
    """The settings of our family that computes it."""
    architecture: str
    """The class of `transformers` that opens it."""
    fits: Callable[[Any], bool]
    """Whether the model type can express the settings, which are of the type above."""
    write: Callable[[Any], Config]
    """Settings → the keys of config.json that say the same."""
    read: Callable[[Config], Config]
    """config.json → our settings, by name; None stands for a setting's default."""
    fixed: Mapping[str, tuple[Any, ...]]
    """Keys that must be absent or hold one of these values: our model does nothing else."""
    names: Mapping[str, str]
    """Our modules → theirs. What ends with a point (`blocks.`) comes before a number; what lies behind that is named
    without it, or where blocks of two sorts differ, with it: `decoder.blocks.mlp.up`."""
    to_theirs: Callable[[Tensors], Tensors] = same
    """Our tensors, under our names, in their layout: fused or transposed matrices."""
    to_ours: Callable[[Tensors], Tensors] = same
    """Their tensors, under our names, in our layout; undoes `to_theirs`."""
    canonical: Callable[[str], str | None] = str
    """The name a stored tensor should have, for files that leave a prefix out; None for one that no model needs."""
    absent: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Tensors that some folders lack, and the settings that say so of such a one."""
    model_type: str = ""
    """What config.json calls it, where that is not the row's own name: several rows can share one."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What transformers takes for keys that a config.json lacks."""
    bare: tuple[str, str] | None = None
    """The prefix of the body's tensors, which files of the body alone leave out, and the class that opens those."""
