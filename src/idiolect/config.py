"""Recipes: TOML checked against frozen typed models, with every problem reported at once."""

from __future__ import annotations

import copy
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from idiolect.errors import UserError, closest, nearest


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys forbidden, finite numbers; attribute docstrings are the help text.

    A key that Python reserves is a field with an underscore and an alias: `from_: … = Field(alias="from")`.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
        validate_by_name=True,
        validate_by_alias=True,
    )


S = TypeVar("S", bound=Settings)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UserError when it is missing, not UTF-8 or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "check the path, or see `idiolect recipes list`") from None
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise UserError(f"{path} is not valid TOML: {error}", "mend the line named above") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None


# Overrides


def override(tables: Mapping[str, Any], overrides: Sequence[str], model: type[Settings]) -> dict[str, Any]:
    """A copy of `tables` with each `key.path=value` of `overrides` put in, parsed by the field's type.

    Raises UserError listing every override that has no `=`, is not UTF-8, or would need a value to be a table.
    """
    out: dict[str, Any] = copy.deepcopy(dict(tables))
    problems = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            problems.append(f'"{text}" is not of the form key.path=value')
            continue
        if not _utf8(text):
            problems.append(f"{text!r} is not UTF-8 text")
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


def _utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _parse(value: str, annotation: Any) -> Any:
    """A command-line value by the type of its field: text fields take the raw string, others TOML syntax."""
    members = list(_members(annotation))
    if value == "" and NoneType in members:
        return None
    if all(_textual(member) or member is NoneType for member in members):
        return value
    if any(get_origin(member) is Literal and value in get_args(member) for member in members):
        return value
    parsed = _toml(value)
    if any(get_origin(member) in (tuple, list) for member in members) and not isinstance(parsed, list):
        return [value if all(_textual(item) for item in _items(members)) else parsed]
    return parsed


def _toml(value: str) -> Any:
    """The value in TOML syntax, or the raw string where it is none."""
    try:
        table = tomllib.loads(f"value = {value}")
    except ValueError:
        return value
    return table["value"] if len(table) == 1 else value


def _textual(annotation: Any) -> bool:
    return annotation in (str, Path) or get_origin(annotation) is Literal


def _items(members: Sequence[Any]) -> list[Any]:
    """The types of a sequence's items."""
    return [item for member in members for item in get_args(member) if item is not Ellipsis]


# What a model knows


def _members(annotation: Any) -> Iterator[Any]:
    """The members of a union (through Annotated), or the annotation itself."""
    if get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    elif hasattr(annotation, "__metadata__"):
        yield from _members(get_args(annotation)[0])
    else:
        yield annotation


def key_of(name: str, field: FieldInfo) -> str:
    """How a field is called in TOML."""
    return field.alias or name


def _fields(annotation: Any) -> dict[str, list[Any]]:
    """The keys of a model, or of all models of a union, with the types each may have."""
    found: dict[str, list[Any]] = {}
    for member in _members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            for name, field in member.model_fields.items():
                found.setdefault(key_of(name, field), []).append(field.annotation)
    return found


def _annotation(model: Any, path: Sequence[str]) -> Any:
    """The type of the field at `path`, looking into each member of a union; Any when there is none."""
    for part in path:
        types = _fields(model).get(part)
        if not types:
            return Any
        model = Union[tuple(types)]  # noqa: UP007 - a union of types known at run time
    return model


def _leaves(model: Any, path: str = "") -> dict[str, str]:
    """Every key below `model` that is no table: its name → its path."""
    found: dict[str, str] = {}
    for key, types in _fields(model).items():
        below = _leaves(Union[tuple(types)], f"{path}{key}.")  # noqa: UP007
        for name, where in (below or {key: f"{path}{key}"}).items():
            found.setdefault(name, where)
    return found


# Checking


def validate(model: type[S], tables: Mapping[str, Any], source: str) -> S:
    """`tables` as a `model`, without converting between text, numbers and truth values.

    Raises one UserError with every problem: file, key, what was expected, nearest key.
    """
    try:
        text = json.dumps(tables, default=str)
        return model.model_validate_json(text, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        described = [_describe(model, problem) for problem in error.errors()]
    lines: dict[str, list[str]] = {}
    for key, expected, given in described:
        lines.setdefault(f"{source}: {key}: {{}}{given}", []).append(expected)
    texts = [line.replace("{}", " or ".join(dict.fromkeys(expected)), 1) for line, expected in lines.items()]
    raise UserError("\n".join(texts), "`idiolect recipes show NAME` prints every key with its meaning") from None


def _describe(model: type[Settings], problem: Any) -> tuple[str, str, str]:
    """A problem as (key, what was expected, what was given instead)."""
    location, kind, value = [str(part) for part in problem["loc"]], problem["type"], problem.get("input")
    context = problem.get("ctx", {})
    keys = _keys(model, location)
    if kind == "extra_forbidden":
        path, last = _keys(model, location[:-1]), location[-1]
        return ".".join((*path, last)), _unknown(model, path, last, location), ""
    if kind == "union_tag_not_found":
        return ".".join((*keys, _tag(context))), "is not given", ""
    given = "" if isinstance(value, (dict, list)) or kind == "missing" else f", not {value!r}"
    if kind == "union_tag_invalid":
        keys, value = [*keys, _tag(context)], context["tag"]
        expected, choices = context["expected_tags"], context["expected_tags"].replace("'", "").split(", ")
        return ".".join(keys), f"must be one of {expected}{nearest(str(value), choices)}", f", not {value!r}"
    expected = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    if kind == "missing":
        expected = "is not given"
    if kind == "literal_error":
        choices = [c for m in _members(_annotation(model, keys)) if get_origin(m) is Literal for c in get_args(m)]
        expected += nearest(str(value), [str(choice) for choice in choices])
    return ".".join(keys) or "recipe", expected, given


def _unknown(model: type[Settings], path: Sequence[str], key: str, location: Sequence[str]) -> str:
    """What to say of an unknown key: where it would belong."""
    here, everywhere = _fields(_annotation(model, path)), _leaves(model)
    if key in here:  # other members of the union have it
        return f"is not a key of {location[-2]}"
    close = everywhere.get(key) or closest(key, here) or everywhere.get(closest(key, everywhere) or "")
    return f'unknown key (did you mean "{close}"?)' if close else "unknown key"


def _tag(context: Mapping[str, Any]) -> str:
    return str(context["discriminator"]).strip("'")


def _keys(model: type[Settings], location: Sequence[str]) -> list[str]:
    """The location as keys of the file: without what pydantic adds to name the member of a union."""
    keys: list[str] = []
    annotation: Any = model
    for part in location:
        types = _fields(annotation).get(part)
        if types:
            keys.append(part)
            annotation = Union[tuple(types)]  # noqa: UP007
        elif part.isdecimal():
            keys.append(part)  # the place in a list
    return keys


# Writing


def dump(settings: Settings, heading: str = "") -> str:
    """`settings` as commented TOML that reads back equal; an unset optional key is a comment.

    Raises UserError for text that is not UTF-8 (a file name may be that).
    """
    lines = [f"# {line}" for line in heading.splitlines()]
    _dump_table(settings, (), lines)
    return "\n".join(lines).strip("\n") + "\n"


def _dump_table(settings: Settings, path: tuple[str, ...], lines: list[str]) -> None:
    tables = []
    for name, field in type(settings).model_fields.items():
        key, value = key_of(name, field), getattr(settings, name)
        if isinstance(value, Settings):
            tables.append((key, value))
            continue
        lines.extend(f"# {line}" for line in (field.description or "").splitlines())
        lines.append(f"# {key} =" if value is None else f"{key} = {toml_value(value)}")
    for key, value in tables:
        lines.extend(["", f"[{'.'.join((*path, key))}]"])
        _dump_table(value, (*path, key), lines)


def toml_value(value: Any) -> str:
    """One value in TOML syntax. Raises ValueError for what TOML cannot hold, UserError for text that is not UTF-8."""
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
        if not _utf8(str(value)):
            raise UserError(f"{str(value)!r} is not UTF-8 text", "rename the file")
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_value(str(k))} = {toml_value(v)}" for k, v in value.items()) + "}"
    raise ValueError(f"{type(value).__name__} cannot be written as TOML")
