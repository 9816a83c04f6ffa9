"""Prompts with fields in braces, and sets of them: many ways to ask for one task, of which each example gets one.

A set is a TOML or JSON file, or a Python file with a dict literal, as the FLAN collection has them (Chung et al. 2022,
arXiv 2210.11416). It holds one task or several by name:

    {"TASK": [["prompt with {field}", "{answer}"], …]}
    [TASK]
    category = "summarisation"
    templates = [["prompt with {field}", "{answer}"], …]
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idiolect import seeds
from idiolect.errors import UserError, nearest
from idiolect.text.stream import decoded

FOLDER = Path(__file__).parent / "templates"
"""The sets that ship, one task a file."""
LARGEST = 1 << 20
"""Characters of a file of templates."""
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class Template:
    """A text with fields in braces; doubled braces stand for themselves."""

    text: str

    def __post_init__(self) -> None:
        """Raises UserError for a brace that is left over, and for a field without a name."""
        for found in _TOKEN.finditer(self.text):
            if found[0] in ("{", "}") or found[1] is not None and not found[1].strip():
                what = f"the template {self.text[:80]!r} has a brace without a field at {found.start()}"
                raise UserError(what, "name a field, as in {dialogue}, or double the brace: {{ or }}")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields, each once, in order."""
        return tuple(dict.fromkeys(found[1] for found in _TOKEN.finditer(self.text) if found[1] is not None))

    def fill(self, row: Mapping[str, Any]) -> str:
        """The text of a row; what a field holds is taken as it is, braces too. Raises KeyError for a missing field."""
        return _TOKEN.sub(lambda found: found[0][0] if found[1] is None else _text(row[found[1]]), self.text)


def _text(value: Any) -> str:
    if isinstance(value, (str, int, float)):
        return str(value)
    raise KeyError(f"no text: {type(value).__name__}")


@dataclass(frozen=True)
class Pair:
    """How a row becomes a prompt and its answer."""

    prompt: Template
    response: Template

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of both."""
        return tuple(dict.fromkeys((*self.prompt.fields, *self.response.fields)))


@dataclass(frozen=True)
class TemplateSet:
    """Several ways to ask for one task."""

    name: str
    pairs: tuple[Pair, ...]
    category: str = ""
    """What kind of task it is."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of all."""
        return tuple(dict.fromkeys(field for pair in self.pairs for field in pair.fields))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all templates."""
        texts = [[pair.prompt.text, pair.response.text] for pair in self.pairs]
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()

    def number(self, example: int, seed: int) -> int:
        """Which of the templates an example gets, a pure function of (seed, example)."""
        return int(seeds.uniform(seed, "template", example) * len(self.pairs))


def shipped() -> dict[str, Path]:
    """The sets that ship: name → file."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def list_templates(paths: Sequence[Path | str] = ()) -> dict[str, list[dict[str, Any]]]:
    """The tasks that there are templates for, by category: those that ship, or those of some files.

    Of each the "name" that `find` knows it by, how many "templates" it has, and the "fields" that its rows need.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in paths or shipped().values():
        sets = read(Path(path))
        for one in sets.values():
            name = one.name if not paths else f"{path}:{one.name}"
            about = {"name": name, "templates": len(one.pairs), "fields": list(one.fields)}
            found.setdefault(one.category or "no category", []).append(about)
    return dict(sorted(found.items()))


def find(name: str) -> TemplateSet:
    """The set of a name: one that ships, or FILE, or FILE:TASK where a file has several tasks.

    Raises UserError when there is none.
    """
    known = shipped()
    path, colon, task = (str(known[name]), "", "") if name in known else name.rpartition(":")
    if not colon and name not in known or colon and Path(name).is_file():
        path, task = name, ""
    if not Path(path).is_file():
        what = f"there is no set of templates {name}{nearest(name, known)}"
        raise UserError(what, f"name one of {', '.join(known)}, a file, or FILE:TASK")
    sets = read(Path(path))
    if not task and len(sets) == 1:
        return next(iter(sets.values()))
    if task not in sets:
        what = f"{path} has the tasks {', '.join(sets)}" + (f", and not {task}{nearest(task, sets)}" if task else "")
        raise UserError(what, f"name one: {path}:{next(iter(sets))}")
    return sets[task]


def read(path: Path) -> dict[str, TemplateSet]:
    """All tasks of a file by name. Raises UserError for what is none."""
    text = "".join(decoded(path))
    if len(text) > LARGEST:
        raise _wrong(path, f"it is larger than {LARGEST >> 20} MB")
    try:
        tables = _tables(path, text)
    except (ValueError, RecursionError, MemoryError, SyntaxError) as error:
        raise _wrong(path, str(error)[:200]) from None
    if not isinstance(tables, dict) or not tables:
        raise _wrong(path, "it is no table of tasks")
    return {str(name): _set(path, str(name), table) for name, table in tables.items()}


def _tables(path: Path, text: str) -> Any:
    if path.suffix == ".toml":
        return tomllib.loads(text)
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix == ".py":  # read as data, never run
        literals = [node.value for node in ast.parse(text).body if isinstance(node, (ast.Assign, ast.AnnAssign))]
        return next((ast.literal_eval(node) for node in literals if isinstance(node, ast.Dict)), None)
    raise ValueError("it is none of .toml, .json and .py")


def _set(path: Path, name: str, table: Any) -> TemplateSet:
    category, rows = "", table
    if isinstance(table, dict):
        category, rows = table.get("category", ""), table.get("templates")
        if unknown := sorted(table.keys() - {"category", "templates"}):
            raise _wrong(path, f"the task {name} has {unknown[0]!r}, which is neither category nor templates")
    if not isinstance(rows, (list, tuple)) or not rows or not isinstance(category, str):
        raise _wrong(path, f"the task {name} has no list of templates")
    return TemplateSet(name, tuple(_pairs(path, name, rows)), category)


def _pairs(path: Path, name: str, rows: Sequence[Any]) -> Iterator[Pair]:
    for number, row in enumerate(rows):
        texts = [*row.values()] if isinstance(row, dict) and list(row) == ["prompt", "response"] else row
        if not isinstance(texts, (list, tuple)) or len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise _wrong(path, f"template {number + 1} of {name} is no prompt with its response")
        pair = Pair(Template(texts[0]), Template(texts[1]))
        if not pair.prompt.fields or not pair.response.fields:
            raise _wrong(
                path, f"template {number + 1} of {name} has a side without a field: it would always be the same"
            )
        yield pair


def missing(fields: Iterable[str], row: Mapping[str, Any]) -> str:
    """The first field that a row lacks text in, or an empty string."""
    return next((field for field in fields if not isinstance(row.get(field), (str, int, float))), "")


def _wrong(path: Path, problem: str) -> UserError:
    return UserError(f"{path} holds no templates that can be used: {problem}", "see the guide's section on sft")
