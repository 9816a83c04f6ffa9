"""The verb `plan`, and the check before every run that it will fit."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from idiolect import devices
from idiolect.data.mixture import epochs, factor
from idiolect.data.settings import LabelsTask, MaskedTask, NumbersTask, TagsTask
from idiolect.interop import families
from idiolect.models.settings import DecoderSettings, NGramSettings
from idiolect.plan.flops import flops_per_token
from idiolect.plan.memory import check_fits, training_memory
from idiolect.plan.parameters import count, idle
from idiolect.recipes import adapting, labels, load
from idiolect.recipes.prepare import names_of
from idiolect.recipes.settings import Recipe
from idiolect.recipes.stage import Stage


def plan(recipe: str | Recipe, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Parameters, peak memory and operations of a recipe, before anything runs and before any text is read.

    The vocabulary is the one the recipe asks for. What an n-gram will hold is bounded by its text, of which a token
    takes at least a byte; without a text, only by the vocabulary.
    """
    notes: list[str] = []
    if not isinstance(recipe, Recipe):
        recipe, notes = load.load(recipe, overrides, text_needed=False)
    tokens = 0
    if isinstance(recipe.model, NGramSettings):
        with contextlib.suppress(OSError):  # a name that is too long; what is missing is said when it is read
            tokens = sum(path.stat().st_size for path in recipe.data.train if path.is_file())
        known = f"a text of {tokens:,} bytes" if tokens else "no text yet"
        notes.append(f"these are upper bounds ({known}): what there is to count is known once it is counted")
    return {**numbers(recipe, model_of(recipe), recipe.tokenizer.size, tokens), "notes": notes}


def model_of(recipe: Recipe) -> Any:
    """The settings of the model that is trained; of labels, whose number the text will tell, there are two."""
    if isinstance(recipe.doing, NumbersTask):
        return labels.head_of(recipe, (recipe.doing.target,))
    labelled = isinstance(recipe.doing, LabelsTask | TagsTask)
    return labels.head_of(recipe, ("0", "1")) if labelled else recipe.model


def numbers(recipe: Recipe, model: Any, vocabulary: int, tokens: int = 0, grows: bool = False) -> dict[str, Any]:
    """The plan for a model of these settings, a vocabulary and, for counting, that many tokens of text."""
    parameters = count(model, vocabulary, tokens or None)
    machine = _machine(recipe)
    edit = adapting.planned(recipe, model, vocabulary, grows)
    memory = training_memory(model, recipe.train, vocabulary, tokens=tokens, edit=edit, **machine)
    out: dict[str, Any] = {
        "family": recipe.model.kind,
        "saved_as": families.match(model) or f"idiolect-{model.kind}",
        "parameters": parameters.total,
        "parameters_without_embeddings": parameters.inner,
        "parameters_are_a_bound": parameters.bound,
        "parameter_parts": dict(parameters.parts),
        **({} if edit is None else {"parameters_trained": edit.trainable, "adapt": edit.json()}),
        "memory_bytes": memory.as_dict(),
        "memory_available_bytes": _available(machine),
    }
    if isinstance(model, DecoderSettings) and model.experts is not None:
        out["parameters_active"] = parameters.total - idle(model)
    if not isinstance(recipe.model, NGramSettings):
        trained = recipe.train.steps * recipe.train.batch_tokens
        out["tokens"] = trained
        out["tokens_per_parameter"] = trained / parameters.total
        out |= sources(recipe, trained)
        predicted = recipe.doing.share if isinstance(recipe.doing, MaskedTask) else 1.0
        out["flops"] = flops_per_token(model, vocabulary, predicted=predicted).total * trained
    return out


def sources(recipe: Recipe, tokens: int) -> dict[str, Any]:
    """The "sources", each with its share and epochs in so many tokens, and "weights_sum"; nothing of one text."""
    data = recipe.data
    if not data.tokens or data.weights is None:
        return {}
    found = epochs(data.tokens, data.weights, tokens * (1 - data.replay_share * bool(data.replay)))
    given = data.weights if isinstance(data.weights, tuple) else (None,) * len(found)
    named = zip(names_of(data), data.tokens, given, found, strict=False)
    rows = [{"source": name, "tokens": size, "weight": weight, **one} for name, size, weight, one in named]
    return {"sources": rows, "weights_sum": factor(data.weights)}


def check(recipe: Recipe) -> None:
    """Raises UserError (exit 7), saying what would fit, when a run of this recipe would need more than there is."""
    if not isinstance(recipe.model, NGramSettings):  # what counting needs is known once the text is
        _check(recipe, model_of(recipe), recipe.tokenizer.size, 0)


def of_run(stage: Stage) -> dict[str, Any]:
    """The plan of a run whose text is known, with the fingerprints of what it goes out from; checked like `check`."""
    vocabulary = stage.tokenizer.size
    _check(stage.recipe, stage.settings, vocabulary, stage.tokens, stage.grows)
    return {
        **numbers(stage.recipe, stage.settings, vocabulary, stage.tokens, stage.grows),
        "vocabulary": vocabulary,
        "training_tokens": stage.tokens,
        "fingerprints": dict(stage.fingerprints),
    }


def _check(recipe: Recipe, model: Any, vocabulary: int, tokens: int, grows: bool = False) -> None:
    machine = _machine(recipe)
    edit = adapting.planned(recipe, model, vocabulary, grows)
    check_fits(model, recipe.train, vocabulary, _available(machine), tokens=tokens, edit=edit, **machine)


def _available(machine: Mapping[str, Any]) -> int:
    """Bytes that a run may hold in all: what is free, and what this process, which the plan counts, holds already."""
    return devices.memory_available(machine["device"]) + machine["process"]


def _machine(recipe: Recipe) -> dict[str, Any]:
    """What the estimate depends on besides the recipe: device, arithmetic, masks, what is held already."""
    resolved, asked = recipe.resolved, recipe.train
    device = resolved.device if resolved else devices.choose(asked.device)
    precision: str = resolved.precision if resolved else asked.precision
    if isinstance(recipe.model, NGramSettings):
        precision = "fp64"
    elif precision == "auto":  # as `train.resolve` will choose
        precision = devices.fastest(device, devices.race(device))
    packed = recipe.data.packing == "documents"
    process = devices.resident_memory() if device == "cpu" else 0
    return {"device": device, "precision": precision, "packed": packed, "process": process}
