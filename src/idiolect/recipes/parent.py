"""The model that a recipe starts from (`model.from`): its settings, its tokenizer and its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from idiolect import files
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.models.build import build
from idiolect.models.contract import Network
from idiolect.models.settings import FamilySettings, NGramSettings
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer


def inherit(base: Mapping[str, Any], merged: dict[str, Any], overrides: Sequence[str]) -> None:
    """Puts the settings and the tokenizer of `model.from` into a recipe's tables, `merged`, in place.

    base: the recipe without its overrides. Where `model.from` is an override, it takes the place of all that the
    recipe says of model and tokenizer. Raises UserError when what is said beside it, in the file or by an override, is
    not so: but for settings that no weight depends on, which may be others.
    """
    path = folder.find(Path(merged["model"]["from"]))
    said = {text.partition("=")[0].strip() for text in overrides}
    if "from" in base.get("model", {}):
        said |= {f"{table}.{key}" for table in ("model", "tokenizer") for key in base.get(table, {})}
    settings, tokenizer = folder.describe(path).settings, Tokenizer.load(path)
    _refuse_what_cannot_go_on(settings, path)
    learnt = TokenizerSettings(kind=tokenizer.kind, size=tokenizer.size, from_=path)
    problems = []
    for table, theirs, free in (("model", settings, settings.free), ("tokenizer", learnt, ())):
        inherited = {**theirs.model_dump(mode="json", by_alias=True, exclude_none=True), "from": str(path)}
        ours = merged.get(table, {})
        for key in sorted(key for key in ours if f"{table}.{key}" in said):
            if key in free:
                inherited[key] = ours[key]
            elif key != "from" and ours[key] != getattr(theirs, key, None):
                problems.append(f"{table}.{key} = {ours[key]!r}, but that of {path} is {getattr(theirs, key, None)!r}")
        merged[table] = inherited
    if problems:
        raise UserError("; ".join(problems), "leave out what the model in model.from decides")


def _refuse_what_cannot_go_on(settings: FamilySettings, path: Path) -> None:
    """Raises UserError for a model that no recipe can start from."""
    if isinstance(settings, NGramSettings):
        raise UserError(f"{path} is an n-gram model, which is counted anew", "count all of the text at once")
    if settings.kind == "labels":
        raise UserError(f"{path} is a model of labels already", "name the model that it was made from")


def weights(settings: FamilySettings) -> Network:
    """The model in `settings.from_` with its weights in float32, under these settings. Raises UserError as `load`."""
    assert settings.from_ is not None
    parent = folder.load(folder.find(settings.from_), dtype=torch.float32).model
    assert isinstance(parent, Network)
    model = build(settings.model_copy(update={"from_": None}), parent.vocabulary, device="meta")
    assert isinstance(model, Network)
    model.load_state_dict(parent.state_dict(), assign=True)
    model.tie()
    return model


def fingerprint(path: Path) -> str:
    """SHA-256 over the configuration and the weights of a model folder."""
    path = folder.find(path)
    parts = sorted([path / folder.CONFIG, *path.glob("*.safetensors")])
    text = "\n".join(f"{part.name} {files.sha256(part)}" for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()
