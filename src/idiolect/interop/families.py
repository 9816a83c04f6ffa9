"""Models under other people's names: what each Hugging Face model type can express, and what it calls its tensors.

A family is one row of FAMILIES, read both ways: how its config.json spells our settings, and its names for our modules.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from idiolect.config import S, validate
from idiolect.errors import UserError
from idiolect.interop.decoders import DECODERS
from idiolect.interop.encoders import ENCODERS
from idiolect.interop.foreign import RESTORE
from idiolect.interop.labels import LABELLED
from idiolect.interop.rows import Config, Family, Tensors
from idiolect.interop.seq2seq import SEQUENCES
from idiolect.models.settings import FamilySettings

FAMILIES: dict[str, Family] = {**DECODERS, **ENCODERS, **SEQUENCES, **LABELLED}
"""Every model type, and the architectures that give labels; tried in this order when a model is saved."""


def row_of(config: Config) -> str | None:
    """The row of FAMILIES that a config.json means: its architecture's, where that has one, or its model type's."""
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    found = first if isinstance(first, str) and first in LABELLED else config.get("model_type")
    return found if isinstance(found, str) and found in FAMILIES else None


def match(settings: FamilySettings, preferred: str | None = None) -> str | None:
    """The model type that can express the settings, the preferred one if it can; or None."""
    known = [name for name, row in FAMILIES.items() if isinstance(settings, row.settings) and row.fits(settings)]
    return preferred if preferred in known else next(iter(known), None)


def settings_of(config: Config, row: str, source: str) -> FamilySettings:
    """Our settings for a config.json of that row of FAMILIES. Raises UserError for whatever our models do not do."""
    family = FAMILIES[row]
    config = {**family.defaults, **config}
    for key, allowed in family.fixed.items():
        if config.get(key, allowed[0]) not in allowed:
            mend = f"only models with {' or '.join(map(repr, allowed))} there can be loaded"
            raise UserError(f"{source}: {key} = {config[key]!r} is not supported", mend)
    try:
        found = family.read(config)
    except KeyError as error:
        raise UserError(f"{source} lacks the key {error}", RESTORE) from None
    except (TypeError, AttributeError, ValueError, IndexError, ArithmeticError) as error:
        raise UserError(f"{source} is damaged: {error}", RESTORE) from None
    return checked(family.settings, {key: value for key, value in found.items() if value is not None}, source)


def without_absent(settings: FamilySettings, stored: Collection[str], model_type: str) -> FamilySettings:
    """The settings, less the parts that a folder with only the `stored` tensors (by canonical name) has not."""
    changes: dict[str, Any] = {}
    for tensor, said in FAMILIES[model_type].absent.items():
        if tensor not in stored:
            changes |= said
    return settings.model_copy(update=changes)


def checked(kind: type[S], tables: Config, source: str) -> S:
    """Settings from a model folder. Raises UserError with every problem."""
    try:
        return validate(kind, tables, source)
    except UserError as error:
        raise UserError(error.what, RESTORE) from None


def to_theirs(tensors: Tensors, model_type: str) -> Tensors:
    """Our tensors under the family's names, in its layout."""
    family = FAMILIES[model_type]
    return {_translate(name, family.names): tensor for name, tensor in family.to_theirs(tensors).items()}


def to_ours(tensors: Tensors, model_type: str) -> Tensors:
    """The family's tensors under our names, in our layout."""
    family = FAMILIES[model_type]
    names = {theirs: ours for ours, theirs in family.names.items()}
    return family.to_ours({_translate(name, names): tensor for name, tensor in tensors.items()})


def canonical(name: str, model_type: str) -> str | None:
    """The name a stored tensor should have; None for masks and frequencies that old files carry and no model needs."""
    if name.endswith((".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")):
        return None
    return FAMILIES[model_type].canonical(name)


def _translate(name: str, names: Mapping[str, str]) -> str:
    """A tensor's name with its module translated; `blocks.3.mlp.up.weight` is translated from the outside inwards."""
    module, _, kind = name.rpartition(".")
    return f"{_module(module, names)}.{kind}"


def _module(name: str, names: Mapping[str, str]) -> str:
    if name in names:
        return names[name]
    for prefix, translated in names.items():
        if prefix.endswith(".") and name.startswith(prefix):
            number, _, rest = name.removeprefix(prefix).partition(".")
            own = names.get(prefix + rest)  # where blocks of two sorts differ in what lies in them
            return f"{translated}{number}.{_module(rest, names) if own is None else own.removeprefix(translated)}"
    raise KeyError(name)
