"""Recipes by name or file, with overrides from the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from idiolect import config
from idiolect.errors import UserError, nearest
from idiolect.models.presets import PRESETS, VOCABULARY
from idiolect.models.settings import FAMILIES
from idiolect.recipes.settings import Recipe
from idiolect.text.settings import Curation

PRESET_TOKENS = 300_000_000_000
"""Tokens every GPT-3 size was trained on (Brown et al. 2020, section 2.2)."""
FOLDER = Path(__file__).parent
CURATE = "curate"
"""The table that only a recipe for a curation has."""
EXAMPLE_TEXT = "text.txt"
"""What `recipes show` writes for data.train, which no shipped recipe can know."""


GOES_ON = ("continue",)
"""Recipes that are nothing without a model to start from."""


def names() -> dict[str, str]:
    """Every recipe that ships, with the first line of its file as its description."""
    out = {}
    for path in sorted(FOLDER.glob("*.toml")):
        out[path.stem] = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    for preset, (row, _) in PRESETS.items():
        out[preset] = f"{row.name} in the shape of GPT-2, repaired where the printed table cannot be built."
    return out


list_recipes = names


def tables(name: str) -> dict[str, Any]:
    """The TOML tables of a shipped recipe or a file. Raises UserError when there is no such recipe."""
    if name in PRESETS:
        row, model = PRESETS[name]
        train = {
            "steps": PRESET_TOKENS // int(row.batch),
            "batch_tokens": int(row.batch),
            "learning_rate": row.learning_rate,
        }
        return {"tokenizer": {"size": VOCABULARY}, "model": model.model_dump(exclude_none=True), "train": train}
    shipped = FOLDER / f"{name}.toml"
    if shipped.parent == FOLDER and shipped.is_file():
        return tomllib.loads(shipped.read_text(encoding="utf-8"))
    if name.endswith(".toml") or Path(name).exists():
        return config.read_toml(Path(name))
    raise UserError(
        f"there is no recipe {name}{nearest(name, names())}",
        "`idiolect recipes list` prints those that ship; a file of your own ends in .toml",
    )


def load(name: str, overrides: Sequence[str] = (), *, text_needed: bool = True) -> tuple[Recipe, list[str]]:
    """The recipe with its overrides, and notes on keys that the chosen family left out.

    Changing `model.kind` keeps what the new family shares with the recipe's own (layers, width, context, …) and drops
    the rest of the file's model keys, so one key changes the family. `model.from` puts the settings and the tokenizer
    of another model in the place of the recipe's (see `parent.inherit`), `model.encoder.from` those of an encoder.
    Raises UserError with every problem of the recipe at once.
    """
    base = tables(name)
    if CURATE in base:
        mend = f"give it to `idiolect curate FILES --recipe {name} -o DIR`"
        raise UserError(f"{name} is a recipe for a curation", mend)
    merged = config.override(base, overrides, Recipe)
    notes = []
    kind = _kind(merged)
    if _inherited(base, merged, overrides):
        pass
    elif kind != _kind(base) and kind in FAMILIES:
        given = {text.partition("=")[0].strip() for text in overrides}
        known = FAMILIES[kind].model_fields
        dropped = [key for key in merged["model"] if key not in known and f"model.{key}" not in given]
        for key in dropped:
            del merged["model"][key]
        if dropped:
            notes.append(f"model.kind={kind} has no {', '.join(f'model.{key}' for key in dropped)}: left out")
    data = merged.setdefault("data", {})
    if isinstance(data, dict) and "train" not in data:
        if text_needed:
            raise UserError(f"{name}: data.train is not given", "add data.train=FILE, or set it in the recipe's [data]")
        data["train"] = [EXAMPLE_TEXT]
    return config.validate(Recipe, merged, name), notes


def check_parent(name: str, recipe: Recipe) -> None:
    """Raises UserError when a shipped recipe that goes on from a model is given none."""
    if name in GOES_ON and recipe.model.from_ is None:
        raise UserError(f"{name} goes on from a model, and none is given", "add model.from=FOLDER, a model or a run")


def _inherited(base: dict[str, Any], merged: dict[str, Any], overrides: Sequence[str] = ()) -> bool:
    """Whether the recipe starts from a model, whose settings and tokenizer are then put into `merged`.

    Those of an encoder, too; the recipe then says itself what else the model is.
    """
    model = merged.get("model")
    if not isinstance(model, dict):
        return False
    encoder = model.get("encoder")
    whole = isinstance(model.get("from"), str)
    if not whole and not (isinstance(encoder, dict) and isinstance(encoder.get("from"), str)):
        return False
    from idiolect.recipes import parent  # torch, which a recipe that starts from nothing does without

    (parent.inherit if whole else parent.inherit_encoder)(base, merged, overrides)
    return whole


def _kind(recipe: dict[str, Any]) -> Any:
    model = recipe.get("model")
    return model.get("kind") if isinstance(model, dict) else None


def show_recipe(name: str) -> str:
    """A shipped recipe or a file as complete commented TOML, to start one's own from."""
    base = tables(name)
    if CURATE in base:
        return config.dump(config.validate(Curation, base, name), heading=names().get(name, name))
    base.setdefault("data", {}).setdefault("train", [EXAMPLE_TEXT])
    _inherited(base, base)
    return config.dump(config.validate(Recipe, base, name), heading=names().get(name, name))
