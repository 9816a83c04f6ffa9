"""What a recipe starts from, a model (`model.from`) or an encoder under a new decoder (`model.encoder.from`)."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idiolect import config, files
from idiolect.adapt import edits
from idiolect.adapt.settings import reader
from idiolect.config import Settings
from idiolect.errors import UserError
from idiolect.interop import folder, peft
from idiolect.models.build import build
from idiolect.models.contract import Network
from idiolect.models.encoder_decoder import EncoderDecoder
from idiolect.models.settings import (
    EncoderDecoderSettings,
    EncoderSettings,
    EncoderSideSettings,
    FamilySettings,
    NGramSettings,
)
from idiolect.recipes.settings import Recipe
from idiolect.runs import Run
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer
from idiolect.train import checkpoint
from idiolect.train.optimisers import Optimizer


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
    settings = folder.describe(path).settings
    _refuse_what_cannot_go_on(settings, path)
    if peft.is_adapter(path):
        edits.check_whole(peft.settings_of(path).kind)
    problems = _put(merged, "model", settings, path, said, "model")
    problems += _put(merged, "tokenizer", _learnt(path), path, said, "tokenizer")
    if problems:
        raise UserError("; ".join(problems), "leave out what the model in model.from decides")


def inherit_encoder(base: Mapping[str, Any], merged: dict[str, Any], overrides: Sequence[str]) -> None:
    """As `inherit`, for the encoder in `model.encoder.from`: its settings, and its tokenizer for source and target."""
    path = folder.find(Path(merged["model"]["encoder"]["from"]))
    said = {text.partition("=")[0].strip() for text in overrides}
    before = base.get("model", {}).get("encoder", {})
    if "from" in before:
        said |= {f"tokenizer.{key}" for key in base.get("tokenizer", {})} | {f"model.encoder.{key}" for key in before}
    settings = _encoder_of(folder.describe(path).settings, path)
    problems = _put(merged["model"], "encoder", settings, path, said, "model.encoder")
    problems += _put(merged, "tokenizer", _learnt(path), path, said, "tokenizer")
    if problems:
        raise UserError("; ".join(problems), "leave out what the encoder in model.encoder.from decides")


def _learnt(path: Path) -> TokenizerSettings:
    tokenizer = Tokenizer.load(path)
    return TokenizerSettings(kind=tokenizer.kind, size=tokenizer.size, from_=path)


def _put(
    tables: dict[str, Any], key: str, theirs: Settings, path: Path, said: Collection[str], table: str
) -> list[str]:
    """Puts `theirs` into tables[key]; returns what was said of that table besides and is not so."""
    inherited = {**theirs.model_dump(mode="json", by_alias=True, exclude_none=True), "from": str(path)}
    ours, free, problems = tables.get(key, {}), getattr(theirs, "free", ()), []
    words = {text.removeprefix(f"{table}.").partition(".")[0] for text in said if text.startswith(f"{table}.")}
    for name in sorted(ours.keys() & words):
        if name in free:
            inherited[name] = ours[name]
        elif name != "from" and not _says(inherited.get(name), ours[name]):
            problems.append(f"{table}.{name} = {ours[name]!r}, but that of {path} is {inherited.get(name)!r}")
    tables[key] = inherited
    return problems


def _says(whole: Any, said: Any) -> bool:
    """Whether a setting is what was said of it: of a table, perhaps only some keys."""
    if isinstance(whole, dict) and isinstance(said, dict):
        return all(_says(whole.get(key), value) for key, value in said.items())
    return bool(whole == said)


def _encoder_of(settings: FamilySettings, path: Path) -> EncoderSettings | EncoderSideSettings:
    """The settings of a model's encoder. Raises UserError when it has none that another decoder could read."""
    if isinstance(settings, EncoderSettings):
        return settings
    if not isinstance(settings, EncoderDecoderSettings):
        what = f"{path} is a model of the kind {settings.kind}, which has no encoder that can be put elsewhere"
        raise UserError(what, "name a model of the kind encoder or encoder-decoder")
    return reader(settings)


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
    edits.whole(parent)
    model = build(settings.model_copy(update={"from_": None}), parent.vocabulary, device="meta")
    assert isinstance(model, Network)
    model.load_state_dict(parent.state_dict(), assign=True)
    model.tie()
    model.model_type = parent.model_type
    return model


def take_optimizer(recipe: Recipe, model: Any, optimizer: Optimizer) -> str:
    """Gives the optimiser what the parent's own run kept of it, where the recipe wants it; returns what was done.

    It belongs to a checkpoint of that run with the very weights that the model starts from. So training on one text
    and then going on with another is one run on the first and then the second, bit for bit.
    """
    if recipe.train.optimizer_from == "fresh":
        return "optimiser: fresh, as train.optimizer_from says"
    assert recipe.model.from_ is not None
    run = Run(folder.find(recipe.model.from_).parent)
    if not run.recipe.is_file() or not run.steps():
        return "optimiser: fresh, for the model comes without the checkpoints of its run"
    kind = config.read_toml(run.recipe).get("train", {}).get("optimizer")
    if kind != recipe.train.optimizer:
        return f"optimiser: fresh, for that of {run.folder} was {kind}"
    ours = model.state_dict()
    for step in reversed(run.steps()):
        try:
            found = checkpoint.peek(run, step)
        except UserError as error:
            return f"optimiser: fresh, for {error.what}"
        if ours.keys() != found.model.keys():
            return "optimiser: fresh, for this model has other parameters than the one it starts from"
        if all(torch.equal(found.model[k], x.cpu()) for k, x in ours.items()):
            optimizer.load_tensors(
                {k: x for k, x in found.optimizer.items() if k.rpartition("/")[0] in optimizer.named}
            )
            return f"optimiser: goes on from what it remembered at step {step} of {run.folder}"
    return f"optimiser: fresh, for no checkpoint of {run.folder} has the weights that this run starts from"


def replay_of(recipe: Recipe) -> str:
    """The setting that mixes general text into a run: the text that the parent learnt from, where it can be found."""
    data = recipe.data
    if data.replay:
        return f"data.replay_share={min(0.9, 2 * data.replay_share):g}, which replays more"
    assert recipe.model.from_ is not None
    lineage = folder.find(recipe.model.from_) / folder.LINEAGE
    paths: list[str] = []
    if lineage.exists():
        with files.understood(lineage):
            paths = tomllib.loads(str(files.read_json(lineage).get("recipe", ""))).get("data", {}).get("train", [])
    there = [path for path in paths if Path(path).exists() and Path(path) not in data.train]
    if not there:
        return "data.replay=FILE, with FILE some general text of which every batch is to have a part"
    shown = there[0] if len(there) == 1 else f"'{config.toml_value(there)}'"
    return f"data.replay={shown} data.replay_share={data.replay_share:g}"


def put_encoder(model: EncoderDecoder, settings: EncoderDecoderSettings) -> None:
    """Puts the encoder of `settings.encoder.from_` into a model, if there is one, and freezes it where asked to.

    Rows of an embedding that one of them has and the other has not are left out, or as they are: no text has their ids.
    """
    if settings.encoder is not None and settings.encoder.from_ is not None:
        parent = folder.load(folder.find(settings.encoder.from_), dtype=torch.float32).model
        edits.whole(parent)
        theirs = encoder_tensors(parent)
        for name, mine in model.encoder.state_dict().items():
            rows = min(len(mine), len(theirs[name])) if name == "embedding.weight" else len(mine)
            mine[:rows] = theirs[name][:rows]
    if settings.freeze_encoder:
        model.encoder.requires_grad_(False)


def encoder_tensors(parent: Any) -> dict[str, Tensor]:
    """The tensors of a model's encoder by the names they have in it, its embedding among them where it reads tokens."""
    tensors = dict(parent.state_dict())
    if not isinstance(parent, EncoderDecoder):
        return tensors
    own = {name.removeprefix("encoder."): x for name, x in tensors.items() if name.startswith("encoder.")}
    return {"embedding.weight": tensors["embedding.weight"], **own}
