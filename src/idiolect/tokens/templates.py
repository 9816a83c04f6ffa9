"""Chat templates as they lie in folders: the programs that spell a conversation. Kept word for word; `chat` runs them.

`transformers` has them in tokenizer_config.json, as one text or a list of named ones, or in files of their own, which
count for more. They are written as files, the one called `default` as chat_template.jinja.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from idiolect import files
from idiolect.errors import UserError

DEFAULT = "default"
"""The name of the template that is taken when none is asked for."""
FILE, FOLDER, ENDING = "chat_template.jinja", "additional_chat_templates", ".jinja"
LARGEST = 1 << 20
"""Bytes of the largest template that is read."""
_NAME = re.compile(r"\w[\w.-]{0,63}")


def paths(folder: Path) -> dict[str, str]:
    """The templates with a file of their own, and where it lies in the folder."""
    found = {path.name.removesuffix(ENDING): f"{FOLDER}/{path.name}" for path in (folder / FOLDER).glob(f"*{ENDING}")}
    return ({DEFAULT: FILE} if (folder / FILE).is_file() else {}) | dict(sorted(found.items()))


def read(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """The templates of a folder with this tokenizer_config.json, by name. Raises UserError for what is none."""
    own = {name: read_file(folder / path) for name, path in paths(folder).items()}
    given = config.get("chat_template")
    if not own and given is not None:
        named = given if isinstance(given, list) else [{"name": DEFAULT, "template": given}]
        if not all(isinstance(one, dict) and isinstance(one.get("template"), str) for one in named):
            raise _wrong(folder / "tokenizer_config.json", "its chat_template is no text, and no list of named ones")
        own = {str(one.get("name")): one["template"] for one in named}
    for name, text in own.items():
        if not _NAME.fullmatch(name):
            raise _wrong(folder, f"{name[:99]!r} is no name of a template")
        if len(text) > LARGEST or not text.isascii() and len(text.encode(errors="replace")) > LARGEST:
            raise _wrong(folder, f"the template {name} is larger than {LARGEST >> 20} MB")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise _wrong(folder, f"the template {name} holds half of a surrogate pair")
    return own


def write(folder: Path, templates: dict[str, str]) -> None:
    """Writes each template to its file. Raises UserError (exit 4) when the disk refuses."""
    for name, text in templates.items():
        files.write_text(folder / (FILE if name == DEFAULT else f"{FOLDER}/{name}{ENDING}"), text)


def read_file(path: Path) -> str:
    """The template in a file. Raises UserError for what cannot be read as one."""
    with files.reading(path):
        if path.stat().st_size > LARGEST:
            raise _wrong(path, f"it is larger than {LARGEST >> 20} MB")
        try:
            return path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise _wrong(path, f"it is no UTF-8: {error}") from None


def _wrong(path: Path, problem: str) -> UserError:
    return UserError(f"{path} holds no chat template that can be kept: {problem}", "mend or remove the template")
