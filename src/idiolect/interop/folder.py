"""Model folders: Hugging Face's layout, with hashes and lineage beside it, and nothing in it that runs.

config.json, model.safetensors, tokenizer.json, tokenizer_config.json, generation_config.json, lineage.json,
documents.jsonl.gz (what it was trained on, see `text.passport`), and manifest.json with the SHA-256 of each. What a
family of `families` can express is saved as that family and opens in `transformers` as it lies; everything else has a
model type of its own, `idiolect-<kind>`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from idiolect import devices, files
from idiolect.adapt.heads import KINDS
from idiolect.adapt.settings import LABELS, FrozenSettings, LabelledSettings
from idiolect.errors import UserError, nearest
from idiolect.interop import families, foreign, peft
from idiolect.interop.families import checked
from idiolect.interop.foreign import RESTORE
from idiolect.interop.rows import Check, Config, unchecked
from idiolect.models import settings as kinds
from idiolect.models.build import Model, build
from idiolect.models.contract import Network
from idiolect.models.ngram import NGram
from idiolect.models.settings import EncoderDecoderSettings, FamilySettings, NGramSettings
from idiolect.text import passport
from idiolect.tokens import templates
from idiolect.tokens.tokenizer import Tokenizer

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LINEAGE = "lineage.json"
DOCUMENTS = passport.FILE
GENERATION = "generation_config.json"
TOKENIZERS = ("tokenizer.json", "vocab.json", "encoder.json", "vocab.txt")
TOKENIZER_PARTS = ("merges.txt", "vocab.bpe", "tokenizer_config.json", "special_tokens_map.json")
"""What may lie beside these."""
OWN = "idiolect-"
"""How the model types begin that only we can open."""
SETTINGS: dict[str, type[FamilySettings]] = {**kinds.FAMILIES, LABELS: LabelledSettings}
"""The settings of each kind that a folder can hold."""
LARGEST = 1 << 40
"""No setting is larger; of a matrix that another number makes, the size then still is a number to torch."""
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Loaded:
    """What a model folder holds."""

    model: Model
    """In evaluation mode."""
    tokenizer: Tokenizer | None
    """None when the folder has none."""
    lineage: dict[str, Any]
    """Where the model comes from; empty in other people's folders."""
    settings: FamilySettings
    documents: Path | None = None
    """The file of the documents that it was trained on; None where they are not known."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a weights file, as its header describes it."""

    path: Path
    name: str
    """As the file calls it."""
    shape: tuple[int, ...]
    kind: str


class Described(NamedTuple):
    """What a model folder says of its model, before any weight is read."""

    config: dict[str, Any]
    """All of its config.json."""
    model_type: str
    """The row of `families.FAMILIES`, or a model type of our own."""
    settings: FamilySettings
    vocabulary: int
    header: dict[str, Entry]
    """The tensors by the names they should have."""


def save(
    folder: Path,
    model: Model,
    tokenizer: Tokenizer | None,
    lineage: Mapping[str, Any],
    check: Check = unchecked,
    *,
    documents: Path | None = None,
) -> Config:
    """Writes the model folder, whole or not at all; returns what `check` does, which reads it before it has its name.

    What `check` raises leaves nothing behind. Raises UserError (exit 4) when the disk refuses. Of an adapted model only
    what was added is written, as an adapter folder (see `peft`).
    """
    edited = getattr(model, "edit", None)
    if edited is not None and isinstance(edited.settings, FrozenSettings):
        assert isinstance(model, Network)
        return _save_adapter(folder, model, tokenizer, lineage, check, documents)
    ids: dict[str, int | None] = {f"{name}_token_id": None for name in ("bos", "eos", "pad")}
    if tokenizer is not None:
        ids = {"bos_token_id": tokenizer.begin_id, "eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.pad_id}
    if isinstance(model.settings, EncoderDecoderSettings):
        start = model.settings.start_id
        ids["decoder_start_token_id"] = ids["bos_token_id"] if start is None else start
    config, tensors = _describe(model)
    with files.new_folder(folder, kind="model") as new:
        save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
        files.write_json(new / CONFIG, ids | config)
        files.write_json(new / GENERATION, ids | _ends(tokenizer))
        _put_lineage(new, lineage, documents)
        if tokenizer is not None:
            tokenizer.save(new)
        return check(new)


def _put_lineage(new: Path, lineage: Mapping[str, Any], documents: Path | None) -> None:
    """Writes where a model comes from, and a copy of the file of its documents."""
    files.write_json(new / LINEAGE, dict(lineage))
    if documents is not None:
        with files.reading(documents):
            shutil.copyfile(documents, new / DOCUMENTS)


def _save_adapter(
    folder: Path,
    model: Network,
    tokenizer: Tokenizer | None,
    lineage: Mapping[str, Any],
    check: Check,
    documents: Path | None,
) -> Config:
    """`save` of what was added to a model."""
    described, tensors = peft.files_of(model)
    with files.new_folder(folder, kind="adapter") as new:
        for name, some in tensors.items():
            save_file(some, new / name, metadata={"format": "pt"})
        for name, value in described.items():
            files.write_json(new / name, value)
        _put_lineage(new, lineage, documents)
        if tokenizer is not None:
            files.write_json(new / GENERATION, _ends(tokenizer))
            tokenizer.save(new)
        return check(new)


def _ends(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What ends a text: one id, or a list as `transformers` has it."""
    if tokenizer is None:
        return {"eos_token_id": None}
    more = tokenizer.answer_ends
    return {"eos_token_id": [tokenizer.end_id, *more] if more else tokenizer.end_id}


def _describe(model: Model) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config.json and the tensors of a model."""
    settings = model.settings
    if isinstance(model, NGram):
        tensors = model.tensors()
        symbols = model.symbols
        about: dict[str, Any] = {"special_ids": [symbols.begin, symbols.end, symbols.pad]}
    else:
        tensors = _own(model)
        about = {"dtype": str(model.head.weight.dtype).removeprefix("torch.")}
    family = families.match(settings, getattr(model, "model_type", None))
    if family is None:
        about |= {"model_type": OWN + settings.kind, "settings": settings.model_dump(mode="json")}
    else:
        row = families.FAMILIES[family]
        tensors, architecture = families.to_theirs(tensors, family), row.architecture
        if row.bare and all(name.startswith(row.bare[0]) for name in tensors):
            prefix, architecture = row.bare
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        about |= {"model_type": row.model_type or family, "architectures": [architecture], **row.write(settings)}
    about["vocab_size"] = model.vocabulary
    return about, {name: tensor.contiguous() for name, tensor in tensors.items()}


def find(path: Path) -> Path:
    """The model folder that a path means: itself, or the `model/` of a run folder.

    Raises UserError for a run that has no model yet.
    """
    if _holds_model(path) or not (path / "recipe.toml").exists():
        return path
    if not _holds_model(path / "model"):
        raise UserError(f"the run {path} has no model yet", f"finish it first: idiolect resume {path}")
    return path / "model"


def _holds_model(path: Path) -> bool:
    return (path / CONFIG).exists() or peft.is_adapter(path)


def load(folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Loaded:
    """Reads a model folder of ours, or of another tool that writes safetensors. `dtype` None keeps what is stored.

    Ours are checked against their hashes. No code in the folder is ever run. Raises UserError when the folder is
    missing, damaged, points outside itself, or holds a model that is not one of ours. An adapter folder gives its base
    with what was added to it, and is refused besides when the base is not there, or is not the one it was made from.
    """
    folder = Path(folder)
    if peft.is_adapter(folder):
        base = find(peft.base_of(folder))
        return with_adapter(load(base, device, dtype), base, folder)
    if not folder.is_dir() or any((folder / name).exists() for name in (files.MANIFEST, LINEAGE)):
        files.verify(folder)
    config, model_type, settings, vocabulary, header = describe(folder)
    if isinstance(settings, NGramSettings):
        model: Model = _load_ngram(folder, config, settings, vocabulary, header)
    else:
        model = _load_network(folder, model_type, settings, vocabulary, header, torch.device(device), dtype)
        model.model_type = model_type
    tokenizer = _tokenizer(folder, vocabulary)
    lineage = foreign.json_object(folder, LINEAGE) if (folder / LINEAGE).exists() else {}
    return Loaded(model, tokenizer, lineage, settings, documents_of(folder))


def with_adapter(base: Loaded, path: Path, adapter: Path) -> Loaded:
    """A loaded model, which is used up, with what an adapter folder adds to it. Raises UserError as `load`.

    path: where the model was loaded from.
    """
    if any((adapter / name).exists() for name in (files.MANIFEST, LINEAGE)):
        files.verify(adapter)
    if not peft.is_adapter(adapter):
        raise UserError(f"{adapter} is no adapter folder", f"it has neither {peft.CONFIG} nor {peft.OWN}")
    if not isinstance(base.model, Network) or base.model.edit is not None:
        raise UserError(f"{path} is no model that an adapter can be put on", "name the base that it was made from")
    model = peft.put(base.model, adapter, path, fingerprint(path))
    lineage = foreign.json_object(adapter, LINEAGE) if (adapter / LINEAGE).exists() else {}
    tokenizer = _tokenizer(adapter, model.vocabulary) or base.tokenizer
    return Loaded(model, tokenizer, lineage, model.settings, documents_of(adapter))


def documents_of(folder: Path) -> Path | None:
    """The file of a model folder that lists what the model was trained on; None where that is not known."""
    return folder / DOCUMENTS if (folder / DOCUMENTS).is_file() else None


def fingerprint(path: Path) -> str:
    """SHA-256 over the configuration and the weights of a model folder, and of an adapter folder those of its base."""
    path = find(path)
    parts = sorted([*(path / name for name in (CONFIG, peft.CONFIG, peft.OWN)), *path.glob("*.safetensors")])
    lines = [f"{part.name} {files.sha256(part)}" for part in parts if part.exists()]
    if peft.is_adapter(path):
        lines.append(fingerprint(peft.base_of(path)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def describe(folder: Path) -> Described:
    """What config.json and the weights' header say of a model. Raises UserError as `load`, but for the weights.

    Of an adapter folder, what its base says, with its head for labels.
    """
    if peft.is_adapter(folder):
        described, head = describe(find(peft.base_of(folder))), peft.head_of(folder)
        return described if head is None else described._replace(settings=head)
    config = foreign.json_object(folder, CONFIG)
    model_type, vocabulary = _model_type(folder, config), config.get("vocab_size")
    if type(vocabulary) is not int or vocabulary < 1:  # True is an int
        raise UserError(f"{folder / CONFIG}: vocab_size is {vocabulary!r}", RESTORE)
    settings, header = _settings(folder, config, model_type), _header(folder)
    if model_type in families.FAMILIES:
        known = {families.canonical(name, model_type): entry for name, entry in header.items()}
        header = {name: entry for name, entry in known.items() if name}
        settings = families.without_absent(settings, header, model_type)
    return Described(config, model_type, settings, vocabulary, header)


def _tokenizer(folder: Path, vocabulary: int) -> Tokenizer | None:
    """The folder's tokenizer, if it has one. Raises UserError when it makes ids that the model does not know."""
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return None
    for name in (*TOKENIZERS, *TOKENIZER_PARTS, *templates.paths(folder).values()):
        foreign.inside(folder, name)
    tokenizer = Tokenizer.load(folder)
    tokenizer.answer_ends = _answer_ends(folder, tokenizer)
    # an end of text and a padding token are added to tokenizers without them: past the end, where no text leads
    added = {tokenizer.begin_id, tokenizer.end_id, tokenizer.pad_id}
    made = tokenizer.size - sum(id_ >= vocabulary for id_ in added)
    if made > vocabulary:
        what = f"{folder}: the tokenizer has {made} ids, the model only {vocabulary}"
        raise UserError(what, "load the model with the tokenizer it was trained with")
    return tokenizer


def _answer_ends(folder: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """What ends a text besides the end of text, as generation_config.json says."""
    given = foreign.json_object(folder, GENERATION).get("eos_token_id") if (folder / GENERATION).is_file() else None
    listed = given if isinstance(given, list) else [given]
    return tuple(i for i in listed if type(i) is int and 0 <= i < tokenizer.size and i != tokenizer.end_id)


def _model_type(folder: Path, config: dict[str, Any]) -> str:
    """The row of `families.FAMILIES` that a config.json means, or a model type of our own."""
    if row := families.row_of(config):
        return row
    known = [*families.FAMILIES, *(OWN + kind for kind in KINDS)]
    found = config.get("model_type")
    if found not in known:
        what = f"{folder / CONFIG}: model_type {found!r} is not known{nearest(str(found), known)}"
        raise UserError(what, f"model folders of these types can be opened: {', '.join(known)}")
    return str(found)


def _settings(folder: Path, config: dict[str, Any], model_type: str) -> FamilySettings:
    source = str(folder / CONFIG)
    if not model_type.startswith(OWN):
        return families.settings_of(config, model_type, source)
    tables = config.get("settings")
    if not isinstance(tables, dict) or OWN + str(tables.get("kind")) != model_type:
        raise UserError(f"{source}: the settings are not those of {model_type}", RESTORE)
    return checked(SETTINGS[tables["kind"]], tables, source)


def _header(folder: Path) -> dict[str, Entry]:
    """What each tensor of the weights is, read from the headers alone. Raises UserError when one is damaged."""
    names = [WEIGHTS]
    if not (folder / WEIGHTS).exists() and (folder / INDEX).exists():
        weight_map = foreign.json_object(folder, INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise UserError(f"{folder / INDEX} has no weight_map", RESTORE)
        names = sorted(set(weight_map.values()))
    header = {}
    for path in [foreign.inside(folder, name) for name in names]:
        if not path.is_file():
            if unread := foreign.pickles(folder):
                raise foreign.refuse_pickle(folder / unread[0])
            raise UserError(f"{path} does not exist", "restore the weights, as safetensors, from where they came")
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    part = file.get_slice(name)
                    header[name] = Entry(path, name, tuple(part.get_shape()), part.get_dtype())
        except SafetensorError as error:
            raise UserError(f"{path} is damaged: {error}", RESTORE) from None
    return header


def _read(header: Mapping[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the header, under the names it gives them, each in a mapping of its own that ends with it."""
    for name, entry in header.items():
        with safe_open(entry.path, framework="pt") as file:
            yield name, file.get_tensor(entry.name)


def _settle(model: nn.Module) -> None:
    """Copies the weights out of their files, side by side into memory that can be read fast."""
    line = 64
    sizes = [-(-p.nbytes // line) * line for p in model.parameters()]
    memory = torch.empty(sum(sizes), dtype=torch.uint8)
    devices.huge_pages(memory.data_ptr(), memory.nbytes)
    for parameter, place in zip(model.parameters(), memory.split(sizes), strict=True):
        held = place[: parameter.nbytes].view(parameter.dtype).view(parameter.shape)
        parameter.data = held.copy_(parameter.data)


def _load_ngram(
    folder: Path, config: Mapping[str, Any], settings: NGramSettings, vocabulary: int, header: Mapping[str, Entry]
) -> NGram:
    try:
        begin, end, pad = config["special_ids"]
        if not all(type(i) is int and 0 <= i < vocabulary for i in (begin, end, 0 if pad is None else pad)):
            raise ValueError("special_ids are no ids of the vocabulary")
        return NGram.from_tensors(settings, vocabulary, dict(_read(header)), begin_id=begin, end_id=end, pad_id=pad)
    except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise UserError(f"{folder} holds no whole n-gram model: {error}", RESTORE) from None


def _load_network(
    folder: Path,
    model_type: str,
    settings: Any,
    vocabulary: int,
    header: dict[str, Entry],
    device: torch.device,
    dtype: torch.dtype | None,
) -> Network:
    """The network whose settings and weights agree in every shape, checked before anything of that size is made."""
    stored = sum(prod(entry.shape) for entry in header.values())
    largest = max(settings.matrices(vocabulary), default=0), settings.tensors(), _largest(settings.model_dump())
    if any(number > most for number, most in zip(largest, (stored, len(header), LARGEST), strict=True)):
        raise UserError(f"{folder}: {CONFIG} speaks of more weights than there are ({stored:,})", RESTORE)
    model = build(settings, vocabulary, device="meta", kinds=KINDS)
    assert isinstance(model, Network)
    expected, shared = _own(model), {name: model.state_dict()[name] for name in model.shared()}
    if model_type in families.FAMILIES:
        expected, shared = (families.to_theirs(part, model_type) for part in (expected, shared))
        header = {name: entry for name, entry in header.items() if name not in shared}
    _check_shapes(folder, expected, header)
    tensors = {name: tensor.to(device, dtype) for name, tensor in _read(header)}
    if model_type in families.FAMILIES:
        tensors = families.to_ours(tensors, model_type)
    tensors |= {name: tensors[other] for name, other in model.shared().items()}
    model.load_state_dict(tensors, assign=True)
    del tensors  # each goes as soon as it is copied
    model.tie()
    if device.type == "cpu":
        _settle(model)
    return model.eval()


def _largest(value: Any) -> int:
    """The largest whole number in settings."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return max(map(_largest, value), default=0)
    return value if type(value) is int else 0


def _own(model: Network) -> dict[str, Tensor]:
    """The tensors of a model that do not repeat another."""
    shared = model.shared()
    return {name: tensor for name, tensor in model.state_dict().items() if name not in shared}


def _check_shapes(folder: Path, expected: Mapping[str, Tensor], header: Mapping[str, Entry]) -> None:
    """Raises UserError unless the header holds exactly the expected tensors, in shape, as floating-point numbers."""
    problems = [f"lacks {name}" for name in expected if name not in header]
    problems += [f"has an unknown tensor {name}" for name in header if name not in expected]
    for name in expected.keys() & header.keys():
        want, entry = tuple(expected[name].shape), header[name]
        if entry.shape != want:
            problems.append(f"has {name} of shape {list(entry.shape)}, not {list(want)}")
        elif entry.kind not in FLOATS:
            problems.append(f"has {name} as {entry.kind}, which is no floating-point type that can be read")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{folder} {min(problems)}{more}", f"make {CONFIG} and the weights agree, or {RESTORE}")
