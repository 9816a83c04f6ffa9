"""What lies in other people's model folders and is not used: code, pickles, ids that mean nothing here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from idiolect import files
from idiolect.errors import UserError
from idiolect.tokens.tokenizer import Tokenizer

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
"""How files end that may hold a pickle, which can run code when it is read."""
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")
SHOWN = 5
"""Names that a note gives at most."""
RESTORE = "restore the folder from where it came"


def inside(folder: Path, name: str) -> Path:
    """The path of a file that lies in the folder itself. Raises UserError for one that points elsewhere."""
    path = folder / name
    try:
        path.is_file()
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError) as error:  # too long, or with a NUL in it
        raise UserError(f"{name[:99]!r} is no name of a file: {error}", RESTORE) from None
    if not inside:
        raise UserError(f"{path} points outside the folder", "copy the file itself into the folder")
    return path


def json_object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of the folder. Raises UserError when it is missing, elsewhere, or something else."""
    value = files.read_json(inside(folder, name))
    if not isinstance(value, dict):
        raise UserError(f"{folder / name} is not a JSON object", RESTORE)
    return value


def refuse(path: Path) -> None:
    """Raises UserError for a file that holds a model and is known not to be read, by its name or how it begins."""
    with files.reading(path), path.open("rb") as file:
        beginning = file.read(4)
    if path.suffix in PICKLES or beginning.startswith((b"PK", *(b"\x80%c" % version for version in range(2, 6)))):
        raise refuse_pickle(path)
    if beginning == b"GGUF":
        raise UserError(f"{path} is a GGUF file; these are written, not read", "import the folder that it is made from")
    if path.suffix == ".safetensors":
        raise UserError(f"{path} holds weights alone", "import the folder that it lies in, with its config.json")


def pickles(folder: Path) -> list[str]:
    """The files of a folder that may be pickles, by their names."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)


def refuse_pickle(name: Path | str) -> UserError:
    """The error for weights that lie in a pickle."""
    return UserError(
        f"{name} is a pickle, which can run code when it is read, so it is not read here",
        "where you trust it, let transformers write the model anew as safetensors: from_pretrained, then "
        "save_pretrained into another folder",
    )


def notes(folder: Path, vocabulary: int, tokenizer: Tokenizer | None) -> list[str]:
    """What a foreign folder holds that was left alone, a line each. Raises UserError for what is no JSON."""
    found = []
    if code := sorted(path.name for path in folder.iterdir() if path.suffix == ".py"):
        found.append(f"code is never run: {_some(code)}")
    if unread := pickles(folder):
        found.append(f"pickles are not read: {_some(unread)}")
    for name in CONFIGS:
        config = json_object(folder, name) if (folder / name).exists() else {}
        if "auto_map" in config:
            found.append(f"code is never run: auto_map of {name}")
        found += _ids(name, config, vocabulary, tokenizer)
    return found


def _ids(name: str, config: Mapping[str, Any], vocabulary: int, tokenizer: Tokenizer | None) -> list[str]:
    """What of the special ids of a configuration is not kept: the tokenizer alone says which they are."""
    found = []
    for role in ("bos", "eos", "pad"):
        given = config.get(f"{role}_token_id")
        given = given if isinstance(given, list) else [] if given is None else [given]
        if wrong := [id_ for id_ in given if type(id_) is not int or not 0 <= id_ < vocabulary]:
            found.append(f"{role}_token_id of {name} is left out: {str(wrong[0])[:40]} is no id of the model")
        elif role == "eos" and tokenizer is not None and (others := sorted({*given} - {tokenizer.end_id})):
            text = ", ".join(map(repr, tokenizer.pieces([id_ for id_ in others if id_ < tokenizer.size])))
            found.append(f"eos_token_id of {name} is left out where the tokenizer ends no text: {others} {text}")
    return found


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
