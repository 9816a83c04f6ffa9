"""Recipes: TOML checked against frozen typed models, with every problem reported at once."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from idiolect.errors import UserError, nearest


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys forbidden, finite numbers; attribute docstrings are the help text."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )


S = TypeVar("S", bound=Settings)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UserError when it is missing, not UTF-8 or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "check the path, or see `idiolect recipes list`") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML: {error}", "mend the line named above") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None


def override(tables: Mapping[str, Any], overrides: Sequence[str], model: type[Settings]) -> dict[str, Any]:
    """A copy of `tables` with each `key.path=value` of `overrides` put in, parsed by the field's type.

    Raises UserError listing every override that has no `=` or whose value cannot be parsed.
    """
    out: dict[str, Any] = json.loads(json.dumps(tables, default=str))
    problems = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            problems.append(f'"{text}" is not of the form key.path=value')
            continue
        *path, last = key.strip().split(".")
        table: Any = out
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                problems.append(f"{key}: {part} is a value, not a table")
                break
        else:
            table[last] = _parse(value, _annotation(model, [*path, last]))
    if problems:
        raise UserError("; ".join(problems), "write overrides like train.steps=500")
    return out


def _annotation(model: Any, path: Sequence[str]) -> Any:
    """The annotation of the field at `path`, looking into each member of a union; Any when there is none."""
    candidates = [model]
    for part in path:
        found = []
        for candidate in candidates:
            for member in _members(candidate):
                if isinstance(member, type) and issubclass(member, BaseModel) and part in member.model_fields:
                    found.append(member.model_fields[part].annotation)
        candidates = found
    return candidates[0] if candidates else Any


def _members(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    elif hasattr(annotation, "__metadata__"):
        yield from _members(get_args(annotation)[0])
    else:
        yield annotation


def _parse(value: str, annotation: Any) -> Any:
    """A command-line value by the type of its field: text fields take the raw string, others TOML syntax."""
    members = list(_members(annotation))
    if value == "" and NoneType in members:
        return None
    textual = any(member in (str, Path) or get_origin(member) is Literal for member in members)
    if textual and not any(member in (int, float, bool) for member in members):
        return value
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def validate(model: type[S], tables: Mapping[str, Any], source: str) -> S:
    """`tables` as a `model`. Raises one UserError with every problem: file, key, what was expected, nearest key."""
    try:
        return model.model_validate(tables)
    except ValidationError as error:
        lines = [f"{source}: {_describe(model, problem)}" for problem in error.errors()]
        raise UserError("\n".join(lines), "`idiolect recipes show NAME` prints every key with its meaning") from None


def _describe(model: type[Settings], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        known = _known(model, location[:-1])
        path = ".".join(part for part in location if part in _path_parts(model, location))
        return f"unknown key {path or '.'.join(location)}{nearest(location[-1], known)}"
    value = problem.get("input")
    shown = "" if isinstance(value, dict) else f", not {value!r}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{'.'.join(_path_parts(model, location)) or 'recipe'}: {message}{shown}"


def _path_parts(model: type[Settings], location: Sequence[str]) -> list[str]:
    """The location without the tags that pydantic adds for the member of a union."""
    parts: list[str] = []
    skip_tag = False
    for part in location:
        if skip_tag and part not in _known(model, parts):
            skip_tag = False
            continue
        parts.append(part)
        skip_tag = len(list(_members(_annotation(model, parts)))) > 1
    return parts


def _known(model: type[Settings], path: Sequence[str]) -> list[str]:
    names: list[str] = []
    annotation = _annotation(model, _only_fields(model, path)) if path else model
    for member in _members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            names.extend(member.model_fields)
    return names


def _only_fields(model: type[Settings], path: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for part in path:
        if _annotation(model, [*kept, part]) is not Any:
            kept.append(part)
    return kept


def dump(settings: Settings, heading: str = "") -> str:
    """`settings` as commented TOML that reads back equal; an unset optional key is a comment."""
    lines = [f"# {line}" for line in heading.splitlines()]
    _dump_table(settings, (), lines)
    return "\n".join(lines).strip("\n") + "\n"


def _dump_table(settings: Settings, path: tuple[str, ...], lines: list[str]) -> None:
    tables = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            tables.append((name, value))
            continue
        lines.extend(f"# {line}" for line in (field.description or "").splitlines())
        lines.append(f"# {name} =" if value is None else f"{name} = {toml_value(value)}")
    for name, value in tables:
        lines.extend(["", f"[{'.'.join((*path, name))}]"])
        _dump_table(value, (*path, name), lines)


def toml_value(value: Any) -> str:
    """One value in TOML syntax. Raises ValueError for what TOML cannot hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not finite")
        text = repr(value)
        return text if any(mark in text for mark in ".e") else f"{text}.0"
    if isinstance(value, (str, Path)):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {toml_value(v)}" for k, v in value.items()) + "}"
    raise ValueError(f"{type(value).__name__} cannot be written as TOML")
