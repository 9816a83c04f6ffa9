"""The documents that a run is trained on, written down before its first step, and kept with its model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from idiolect import files
from idiolect.interop import folder
from idiolect.models.settings import EncoderDecoderSettings
from idiolect.recipes.settings import Recipe
from idiolect.recipes.stage import Stage
from idiolect.runs import Run
from idiolect.text import passport
from idiolect.text.passport import Passport, Section


def file_of(run: Run) -> Path:
    """Where a run keeps them."""
    return run.folder / passport.FILE


def keep(run: Run, stage: Stage, *, more: bool = False) -> None:
    """Writes the documents of the models that a run starts from, and then its own; or adds these to what is there.

    more: the run's text was changed since it began, and it goes on with another.
    """
    path = file_of(run)
    with files.new_file(path) as new, open(new, "wb") as file:
        if more and path.is_file():
            _copy(path, file)
        else:
            for parent in parents(stage.recipe):
                known = folder.documents_of(parent)
                if known is None:
                    passport.write(file, Section(unknown=str(parent)))
                else:
                    _copy(known, file)
        passport.write(file, Section(corpus=stage.fingerprints["data.train"]), stage.corpus.passports())
        file.flush()
        os.fsync(file.fileno())


def _copy(path: Path, file: Any) -> None:
    with files.reading(path), open(path, "rb") as other:
        shutil.copyfileobj(other, file)


def parents(recipe: Recipe) -> list[Path]:
    """The folders of the models that a recipe starts from."""
    model, found = recipe.model, []
    if model.from_ is not None:
        found.append(folder.find(model.from_))
    if isinstance(model, EncoderDecoderSettings) and model.encoder is not None and model.encoder.from_ is not None:
        found.append(folder.find(model.encoder.from_))
    return found


def ancestry(recipe: Recipe) -> list[dict[str, Any]]:
    """Of each model that a recipe starts from its "path", its "fingerprint", and its "lineage" where it has one."""
    out = []
    for parent in parents(recipe):
        path = parent / folder.LINEAGE
        lineage = files.read_json(path) if path.is_file() else None
        out.append({"path": str(parent), "fingerprint": folder.fingerprint(parent), "lineage": lineage})
    return out


def counted(run: Run) -> dict[str, Any]:
    """How many documents a run's file lists, and the file's SHA-256."""
    path = file_of(run)
    count = sum(isinstance(one, Passport) for one in passport.read(path))
    return {"count": count, "sha256": files.sha256(path)}
