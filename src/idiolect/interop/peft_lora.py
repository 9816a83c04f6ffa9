"""LoRA in the layout of the library `peft`: its names for our layers, its tensors and configuration, both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idiolect.adapt import lora
from idiolect.adapt.edited import core, fresh, linears
from idiolect.adapt.edits import Origin, edit
from idiolect.adapt.heads import Labelled
from idiolect.adapt.settings import LoraSettings
from idiolect.adapt.updates import Pair
from idiolect.errors import UserError
from idiolect.interop import families
from idiolect.interop.foreign import RESTORE
from idiolect.models.contract import Network
from idiolect.models.decoder import Decoder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What `peft` puts before the name of every module."""
PARTS = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
"""The tensors of a LoRA, here and there …"""
ROWS = {"A": "lora_embedding_B", "B": "lora_embedding_A"}
"""… and those of an embedding's, which lie the other way round there."""
TIED = "ensure_weight_tying"
"""The key that makes `peft` update a head with the embedding whose matrix it shares."""


@dataclass(frozen=True)
class Part:
    """Rows of one of their matrices that are one of ours."""

    name: str
    """Our module."""
    rows: int


def places(model: Network, row: str) -> dict[str, list[Part]]:
    """Their modules, by name, and which of our layers each is made of, row after row.

    Found by sending numbered rows through the family's own table, so that it knows all that loading and saving do.
    """
    prefix = "base." if isinstance(model, Labelled) else ""
    sizes = {name.removesuffix(".linear"): layer.out_features for name, layer in linears(model).items()}
    if isinstance(model, Decoder):  # the embedding of others, or their head, is several modules there
        sizes |= dict.fromkeys(lora.embeddings(model), model.vocabulary)
    marks, begins, start = {}, {}, 0
    for name, rows in sizes.items():
        if (".blocks." in f".{name}" and ".experts." not in name) or name in ("embedding", "head"):
            marks[f"{prefix}{name}.weight"] = torch.arange(start, start + rows, dtype=torch.float64)[:, None]
            begins[start], start = name, start + rows
    found: dict[str, list[Part]] = {}
    for theirs, mark in families.to_theirs(marks, row).items():
        first, parts = mark.flatten().long().tolist(), []
        while first:
            name = begins[first[0]]
            parts.append(Part(name, sizes[name]))
            first = first[sizes[name] :]
        found[theirs.removesuffix(".weight")] = parts
    return found


def to_theirs(
    model: Network, row: str, settings: LoraSettings, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Where several of our matrices are one of theirs, so are their updates: A below A, B in blocks."""
    adapted = {at: layer.pair() for at, layer in lora.layers(model).items()}
    chosen = {at: pair for at, pair in adapted.items() if pair is not None}
    out: dict[str, Tensor] = {}
    shapes: dict[str, int] = {}
    tied: list[str] = []
    for theirs, parts in places(model, row).items():
        pairs = {part.name: chosen.pop(part.name) for part in parts if part.name in chosen}
        if not pairs:
            continue
        if parts[0].name in lora.embeddings(model):
            ((at, pair),) = pairs.items()
            out |= {f"{PREFIX}{theirs}.{ROWS[part]}": getattr(pair, part).detach().t() for part in ROWS}
            shapes[theirs] = len(pair.A)
            for other in lora.sharing(model, at):
                tied.append(_named(f"{other}.weight", row))
                out |= {f"{PREFIX}{tied[-1]}.{PARTS[part]}": getattr(pair, part).detach().clone() for part in ROWS}
                del chosen[other]
            continue
        ranks = {at: len(pair.A) for at, pair in pairs.items()}
        up = torch.zeros(sum(part.rows for part in parts), sum(ranks.values()))
        magnitudes, top, left = [], 0, 0
        for part in parts:
            if part.name in pairs:
                pair = pairs[part.name]
                up[top : top + part.rows, left : left + ranks[part.name]] = pair.B.detach()
                left += ranks[part.name]
            if settings.dora:
                magnitudes.append(_magnitude(model, part.name, pairs.get(part.name)))
            top += part.rows
        at = f"{PREFIX}{theirs}."
        out[at + PARTS["A"]] = torch.cat([pair.A.detach() for pair in pairs.values()])
        out[at + PARTS["B"]] = up
        if magnitudes:
            out[at + PARTS["magnitude"]] = torch.cat(magnitudes)
        shapes[theirs] = left
    if chosen:  # what is no module of its own there
        return None
    alphas = {at: settings.scale * (rank**0.5 if settings.rslora else rank) for at, rank in shapes.items()}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "fan_in_fan_out": row == "gpt2",
        "bias": "none",
        "target_modules": sorted([*shapes, *tied]),
        TIED: bool(tied),
        "rank_pattern": {at: rank for at, rank in shapes.items() if rank != settings.rank},
        "alpha_pattern": {at: alpha for at, alpha in alphas.items() if shapes[at] != settings.rank},
    }
    known = fresh(model)
    extra = {key: tensors[key] for key in known}
    for name, other in model.shared().items():
        extra |= {name: extra[other].clone()} if other in extra else {}  # there it is two modules to save
    if extra:
        named = families.to_theirs(extra, row)
        out |= {PREFIX + key: tensor for key, tensor in named.items()}
        tops = {key.rpartition(".")[0] for key in named}
        config["modules_to_save"] = sorted({"classifier" if top.startswith("classifier.") else top for top in tops})
    return config, out


def _named(name: str, row: str) -> str:
    """Their module of our tensor."""
    (found,) = families.to_theirs({name: torch.empty(0, 0)}, row)
    return found.rpartition(".")[0]


def _magnitude(model: Network, name: str, pair: Pair | None) -> Tensor:
    """Of a layer without an update in a matrix that has some: the lengths of its rows, so that it stays as it is."""
    if pair is not None and pair.magnitude is not None:
        return pair.magnitude.detach()
    weight: Any = core(model).get_submodule(name).weight
    return torch.linalg.vector_norm(weight.detach(), dim=1)


def to_ours(
    model: Network,
    row: str,
    folder: Path,
    settings: LoraSettings,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    origin: Origin,
    known: bool,
) -> dict[str, Tensor]:
    """Gives the layers their updates; returns the tensors of these, and of a head, by our names.

    known: whether the settings are our own, which say what is updated.

    An update of several layers as one is one for each, less what does nothing there (columns of B that are all 0).
    """
    rest = dict(tensors)
    found: dict[str, Tensor] = {}
    pairs: dict[str, LoraSettings] = {}
    mine = lora.targets(model, settings.targets) if known else None
    prefix = "base." if isinstance(model, Labelled) else ""
    for theirs, parts in places(model, row).items():
        held = {ours: rest.pop(f"{PREFIX}{theirs}.{name}", None) for ours, name in PARTS.items()}
        if parts[0].name in lora.embeddings(model):
            held |= _rows_to_ours(model, row, theirs, parts[0].name, rest, folder)
        A, B, magnitude = held.values()
        if A is None or B is None:
            continue
        rows = sum(part.rows for part in parts)
        if A.dim() != 2 or B.shape != (rows, len(A)) or (magnitude is None) == settings.dora:
            raise UserError(f"{folder / WEIGHTS}: the update of {theirs} does not fit its layer", RESTORE)
        alpha = _pattern(config, "alpha_pattern", theirs, settings.alpha, folder)
        scale = alpha / (len(A) ** 0.5 if settings.rslora else len(A))
        top = 0
        for part in parts:
            own, top = B[top : top + part.rows], top + part.rows
            if mine is not None and part.name not in mine:  # 0 in a matrix that is fused with others
                continue
            used = own.abs().sum(0).nonzero().flatten() if len(parts) > 1 else torch.arange(len(A))
            used = used if len(used) else torch.arange(min(settings.rank, len(A)))
            rank = len(used)
            pairs[part.name] = settings.model_copy(
                update={"rank": rank, "alpha": scale * (rank**0.5 if settings.rslora else rank)}
            )
            at = f"{prefix}{part.name}.pairs.{lora.NAME}."
            found |= {f"{at}A": A[used], f"{at}B": own[:, used].contiguous()}
            if magnitude is not None:
                found[f"{at}magnitude"] = magnitude[top - part.rows : top]
    if fresh(model):
        named = {key.removeprefix(PREFIX): tensor for key, tensor in rest.items()}
        names = set(families.FAMILIES[row].names.values())
        if all(name.rpartition(".")[0] in names for name in named):
            found, rest = found | families.to_ours(named, row), {}
            found = {name: tensor for name, tensor in found.items() if name not in model.shared()}
    if rest:
        raise UserError(f"{folder / WEIGHTS} has a tensor that is not known: {min(rest)}", RESTORE)
    edit(model, settings, origin=origin, add=lambda model, settings, seed: lora.put(model, pairs, lora.NAME))
    return found


def _rows_to_ours(
    model: Network, row: str, theirs: str, at: str, rest: dict[str, Tensor], folder: Path
) -> dict[str, Tensor]:
    """A and B of an embedding, taken from the `rest`; empty where it has none.

    Raises UserError unless a head that shares its matrix has the same: no model of ours has two of one matrix.
    """
    found = {ours: rest.pop(f"{PREFIX}{theirs}.{name}", None) for ours, name in ROWS.items()}
    held = {ours: x.t().contiguous() for ours, x in found.items() if x is not None and x.dim() == 2}
    for other in lora.sharing(model, at):
        module = _named(f"{other}.weight", row)
        head = {ours: rest.pop(f"{PREFIX}{module}.{PARTS[ours]}", None) for ours in ROWS}
        theirs_too = {ours: x for ours, x in head.items() if x is not None}
        if held.keys() != theirs_too.keys() or not all(torch.equal(held[ours], theirs_too[ours]) for ours in held):
            what = f"{folder} updates {theirs} and {module} apart, which have one matrix"
            raise UserError(what, f"train it anew, by {TIED}=True or here")
    return held


def _pattern(config: Mapping[str, Any], key: str, name: str, otherwise: float, folder: Path) -> float:
    """What a pattern of a configuration says of a module. Raises UserError for a pattern that is not just a name."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise UserError(f"{folder / CONFIG}: {key} is damaged", RESTORE)
    for pattern, value in patterns.items():
        if not re.fullmatch(r"[\w.]+", pattern):
            what = f"{folder / CONFIG}: {key} has {pattern!r}, which is a regular expression"
            raise UserError(what, "write the names of the modules there")
        if name == pattern or name.endswith(f".{pattern}"):
            if type(value) not in (int, float) or not 0 < value < 2**40:
                raise UserError(f"{folder / CONFIG}: {key} has {value!r} for {pattern}", RESTORE)
            return float(value)
    return otherwise
