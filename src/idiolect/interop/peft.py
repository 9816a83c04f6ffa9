"""Adapter folders: what was added to a model, beside the name of the model, in the layout of the library `peft`.

LoRA and soft prompts are written as `peft` has them (adapter_config.json, adapter_model.safetensors) where the base is
of a Hugging Face family; everything else has a form of our own (idiolect_adapter.safetensors, under our names).
idiolect_adapter.json always lies beside: our settings, the base's fingerprint, the head for labels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from idiolect.adapt.edits import Edit, Origin, edit, trained
from idiolect.adapt.heads import Labelled, attach
from idiolect.adapt.settings import (
    AdapterSettings,
    LabelledSettings,
    LoraSettings,
    SoftPromptSettings,
)
from idiolect.adapt.vocabulary import grow
from idiolect.errors import UserError, nearest
from idiolect.interop import families, foreign, peft_lora
from idiolect.interop.families import checked
from idiolect.interop.foreign import RESTORE
from idiolect.interop.peft_lora import CONFIG, PREFIX, WEIGHTS
from idiolect.models.contract import Network
from idiolect.models.encoder_decoder import EncoderDecoder
from idiolect.models.settings import DecoderSettings, EncoderDecoderSettings

OWN, OWN_WEIGHTS = "idiolect_adapter.json", "idiolect_adapter.safetensors"
Adapted = LoraSettings | AdapterSettings | SoftPromptSettings
FORMAT = 1
"""The version of our own layout."""
KINDS: dict[str, type[Adapted]] = {
    "lora": LoraSettings,
    "adapter": AdapterSettings,
    "soft-prompt": SoftPromptSettings,
}
PROMPT = "prompt_embeddings"
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "lora_bias": (False, None),
    "layer_replication": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None,),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
"""Keys of a LoRA's configuration that must be absent or hold one of these: others change what is computed, or (the
last) the base itself."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds what was added to a model, and not a model."""
    return (folder / CONFIG).exists() or (folder / OWN).exists()


# Writing


def files_of(model: Network) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Tensor]]]:
    """The JSON files and the files of tensors of an adapted model. Raises UserError where its base is nowhere."""
    found: Edit = model.edit
    if found.origin is None:
        raise UserError("what was added cannot be saved without the model it was added to", "give model.from")
    head = model.settings.model_dump(mode="json", by_alias=True) if isinstance(model, Labelled) else None
    base = {"path": str(found.origin.folder), "fingerprint": found.origin.fingerprint}
    own = {"format": FORMAT, "settings": found.settings.model_dump(mode="json"), "base": base, "head": head}
    if model.fresh:
        own["vocabulary"] = model.vocabulary
    tensors = {name: tensor.detach().contiguous() for name, tensor in trained(model).items()}
    theirs = _theirs(model, tensors)
    if theirs is None:
        return {OWN: own}, {OWN_WEIGHTS: tensors}
    config, named = theirs
    shared = {"base_model_name_or_path": str(found.origin.folder), "task_type": _task(model), "inference_mode": True}
    return {OWN: own, CONFIG: shared | config}, {WEIGHTS: {name: x.contiguous() for name, x in named.items()}}


def _theirs(model: Network, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The configuration and the tensors that make the same of the base in `peft`; None where nothing there does."""
    row, settings = families.match(model.settings, model.model_type), model.edit.settings
    if row is None:
        return None
    if isinstance(settings, LoraSettings):
        return peft_lora.to_theirs(model, row, settings, tensors)
    prompted = isinstance(model.settings, DecoderSettings | EncoderDecoderSettings) and not model.fresh
    if isinstance(settings, SoftPromptSettings) and prompted:
        config = {
            "peft_type": "PROMPT_TUNING",
            "num_virtual_tokens": settings.tokens,
            "token_dim": model.settings.width,
            "num_transformer_submodules": 1,
            "num_attention_heads": model.settings.heads,
            "num_layers": model.settings.layers,
        }
        return config, {PROMPT: tensors["prompt"]}
    return None


def _task(model: Network) -> str | None:
    if isinstance(model, Labelled):
        return "TOKEN_CLS" if model.settings.each == "word" else "SEQ_CLS"
    if isinstance(model, EncoderDecoder):
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if not model.refusal else None


# Reading


def base_of(folder: Path) -> Path:
    """The folder of the base that an adapter folder names. Raises UserError when it is not there."""
    named = _own(folder)["base"]["path"] if (folder / OWN).exists() else _config(folder).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise UserError(f"{folder / CONFIG} names no base model", "name the base: BASE --adapter FOLDER")
    places = (Path(named), folder / named)
    found = next((path for path in places if os.path.isdir(path)), None)  # False of names that no system takes, too
    if found is None:
        what = f"{folder} is an adapter, and its base {named[:200]} is not there"
        raise UserError(what, f"put it back there, or name the base yourself: BASE --adapter {folder}")
    return found


def head_of(folder: Path) -> LabelledSettings | None:
    """The settings of the base under its head for labels; None where it has none."""
    head = _own(folder)["head"] if (folder / OWN).exists() else None
    return None if head is None else checked(LabelledSettings, head, str(folder / OWN))


def put(model: Network, folder: Path, base: Path, fingerprint: str) -> Network:
    """The base with what the folder adds to it. Raises UserError when it is another base, or what is added is damaged.

    base: where the model comes from, of that fingerprint.
    """
    head, settings = head_of(folder), settings_of(folder)
    if (folder / OWN).exists():
        written = _own(folder)["base"]
        if written["fingerprint"] != fingerprint:
            what = f"{base} is not the model that {folder} was made from ({written['path']}), or was changed since"
            raise UserError(what, "put back the weights that it was made from, or adapt the new ones")
    origin = Origin(base.resolve(), fingerprint)
    tensors = _tensors(folder, OWN_WEIGHTS if (folder / OWN_WEIGHTS).exists() else WEIGHTS)
    row = families.match(model.settings, model.model_type)
    rows = _rows(folder, tensors, row, model.vocabulary)
    _check_sizes(folder, settings, tensors)
    if head is not None:
        if (head.base.kind, head.base.width) != (model.settings.kind, model.settings.width):
            raise UserError(f"{folder / OWN} has a head for another model than {base}", RESTORE)
        model, _ = attach(model, head, seed=0)
        row = families.match(model.settings, model.model_type)
    elif rows is not None:
        model, _ = grow(model, rows)
    if (folder / OWN_WEIGHTS).exists():
        edit(model, settings, origin=origin)
    elif isinstance(settings, LoraSettings):
        if row is None:
            raise UserError(f"{folder} is for a model of Hugging Face's, and {base} is none", "name another base")
        own = (folder / OWN).exists()
        tensors = peft_lora.to_ours(model, row, folder, settings, _config(folder), tensors, origin, own)
    else:
        edit(model, settings, origin=origin)
        if isinstance(settings, SoftPromptSettings) and PROMPT in tensors:
            tensors["prompt"] = tensors.pop(PROMPT)[: settings.tokens]  # peft's may have as many more, without effect
    _fill(model, tensors, folder)
    return model.eval()


def _check_sizes(folder: Path, settings: Adapted, tensors: Mapping[str, Tensor]) -> None:
    """Raises UserError for settings that speak of more than there is, before anything of that size is made."""
    most = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    if max(getattr(settings, name, 0) for name in ("rank", "width", "tokens")) > most:
        raise UserError(f"{folder}: its settings speak of more numbers than there are", RESTORE)


def _rows(folder: Path, tensors: Mapping[str, Tensor], row: str | None, known: int) -> int | None:
    """The vocabulary of an adapter that has an embedding of its own; None where it leaves the base's alone."""
    if (folder / OWN).exists():
        found = _own(folder)["vocabulary"]
    else:
        names = {} if row is None else families.FAMILIES[row].names
        kept = tensors.get(f"{PREFIX}{names.get('embedding')}.weight")
        found = None if kept is None else len(kept)
    if found is not None and (type(found) is not int or not known <= found <= 2 * known):
        raise UserError(f"{folder} is for {found!r} tokens, and its base has {known}", RESTORE)
    return found


def settings_of(folder: Path) -> Adapted:
    """The settings of what was added. Raises UserError for what is no adapter that we have, naming it."""
    if (folder / OWN).exists():
        tables = _own(folder)["settings"]
        return checked(KINDS[tables["kind"]], tables, str(folder / OWN))
    config, source = _config(folder), str(folder / CONFIG)
    kind = config.get("peft_type")
    if kind == "PROMPT_TUNING":
        return checked(SoftPromptSettings, {"tokens": config.get("num_virtual_tokens")}, source)
    if kind != "LORA":
        raise UserError(f"{source}: peft_type {kind!r} is not known", "LORA and PROMPT_TUNING can be read")
    for key, allowed in PLAIN.items():
        if config.get(key, allowed[0]) not in allowed:
            mend = f"only adapters with {' or '.join(map(repr, allowed))} there can be read"
            raise UserError(f"{source}: {key} = {config[key]!r} is not supported", mend)
    tables = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "dropout": config.get("lora_dropout", 0.0),
        "rslora": config.get("use_rslora", False),
        "dora": config.get("use_dora", False),
    }
    return checked(LoraSettings, tables, source)


def _fill(model: Network, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Puts the tensors where they belong: they must be just those that train. Raises UserError otherwise."""
    wanted = trained(model)
    problems = [f"lacks {name}" for name in wanted if name not in tensors]
    problems += [f"has an unknown tensor {name}{nearest(name, wanted)}" for name in tensors if name not in wanted]
    for name in wanted.keys() & tensors.keys():
        if tensors[name].shape != wanted[name].shape or not tensors[name].is_floating_point():
            problems.append(f"has {name} of shape {list(tensors[name].shape)}, not {list(wanted[name].shape)}")
    if problems:
        raise UserError(f"{folder} {min(problems)}", RESTORE)
    for name, tensor in tensors.items():
        wanted[name].copy_(tensor)


def _config(folder: Path) -> dict[str, Any]:
    return foreign.json_object(folder, CONFIG)


def _own(folder: Path) -> dict[str, Any]:
    """Our own description. Raises UserError when it is damaged, or of a later format."""
    found = foreign.json_object(folder, OWN)
    base, settings = found.get("base"), found.get("settings")
    whole = isinstance(base, dict) and all(isinstance(base.get(key), str) for key in ("path", "fingerprint"))
    kind = settings.get("kind") if isinstance(settings, dict) else None
    if not whole or not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{folder / OWN} is damaged", RESTORE)
    if found.get("format") != FORMAT:
        what = f"{folder / OWN} is of format {found.get('format')!r}, and this version knows {FORMAT}"
        raise UserError(what, "use the version of Idiolect that wrote it")
    return {"head": None, "vocabulary": None, **found}


def _tensors(folder: Path, name: str) -> dict[str, Tensor]:
    path = foreign.inside(folder, name)
    if not path.is_file():
        if unread := foreign.pickles(folder):
            raise foreign.refuse_pickle(folder / unread[0])
        raise UserError(f"{path} does not exist", RESTORE)
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged: {error}", RESTORE) from None
