"""Adapting the model of a recipe: its section `adapt`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from idiolect.adapt.edits import Origin, edit
from idiolect.adapt.heads import KINDS
from idiolect.adapt.report import Report
from idiolect.adapt.settings import FrozenSettings
from idiolect.adapt.vocabulary import fresh_rows
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.models.build import build
from idiolect.models.contract import Network
from idiolect.recipes.prepare import say
from idiolect.recipes.settings import Recipe


def check(recipe: Recipe) -> None:
    """Raises UserError for a recipe that would add to a model that is nowhere: what is added is saved without it."""
    if isinstance(recipe.adapt, FrozenSettings) and recipe.model.from_ is None:
        what = f"adapt.kind={recipe.adapt.kind} adds to a model that was trained before, and none is given"
        raise UserError(what, "add model.from=FOLDER, a model folder or a finished run")


def adapted(model: Any, recipe: Recipe, fingerprints: Mapping[str, str]) -> Any:
    """The model, adapted in place as the recipe says, if it says so; `fingerprints` are the run's."""
    if recipe.adapt is None:
        return model
    source, origin = recipe.model.from_, None
    if source is not None:
        origin = Origin(folder.find(source).resolve(), fingerprints["model.from"])
    report = edit(model, recipe.adapt, seed=recipe.train.seed, origin=origin)
    say(f"{recipe.adapt.kind}: {report.line()}")
    return model


def planned(recipe: Recipe, model: Any, vocabulary: int, grows: bool = False) -> Report | None:
    """What adapting a model of these settings will come to, before anything of its size is made.

    grows: whether it has rows for new tokens, which train too.
    """
    if recipe.adapt is None:
        return None
    made = build(model, vocabulary, device="meta", kinds=KINDS)
    if grows and isinstance(made, Network):
        made.fresh = fresh_rows(made)
    return edit(made, recipe.adapt)
