"""Conversations: lists of messages, from files of many layouts, which are told by the names of their fields.

messages                            a list of {role, content}
conversations                       the same, or ShareGPT's {from, value}
instruction, (input,) output        alpaca; with response for output and context for input, as others have it
prompt, response                    and the other names of `PAIRS`, or what the recipe names
any fields                          through a template, or a set of templates, of `text.template`

Files are json (a list), jsonl, parquet, csv or tsv.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idiolect.errors import UserError
from idiolect.text.examples import COLUMNS, Examples, columns
from idiolect.text.passport import Passport, passport
from idiolect.text.read import files_of, good, json_rows, json_value, kind_of, parquet_rows
from idiolect.text.stream import chunks
from idiolect.text.template import Pair, Template, TemplateSet, missing

SUFFIXES = (".json", ".jsonl", ".parquet", *COLUMNS)
LARGEST_LIST = 1 << 30
"""Bytes of the largest json file, which is read as a whole."""
PAIRS = (("prompt", "response"), ("prompt", "completion"), ("question", "answer"), ("input", "output"))
"""Fields that are a prompt and its answer."""
INPUTS, OUTPUTS = ("input", "context"), ("output", "response")
"""What may stand beside an instruction."""
NAMES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant"}
NAMES |= {"system": "system", "tool": "tool"}
"""What roles are called → what we call them."""

Messages = list[dict[str, str]]
Convert = Callable[[Mapping[str, Any]], Messages]
"""A row → its messages. Raises ValueError saying why it has none."""


@dataclass(frozen=True)
class Conversations(Examples):
    """The conversations of some files, as mappings with `messages` and `template`, which of a set's it was made by.

    Otherwise as `Examples`, whose `fields` are not used here.
    """

    pair: Pair | None = None
    """The one way in which rows become a prompt and its answer; None: as the fields' names say."""
    templates: TemplateSet | None = None
    """The ways of which each row gets one."""
    seed: int = 0
    """What the choice among them is drawn by."""

    @property
    def _files(self) -> list[Path]:
        return files_of(self.paths, SUFFIXES)

    def _all(self) -> Iterator[tuple[Passport, Mapping[str, Any]]]:
        number = 0
        said = self.templates or self.pair
        texts = said.fields if said else ()
        for path in self._files:
            rows = self._raw(path)
            first = next((row for row in rows if isinstance(row, dict)), None)
            if first is None:
                raise UserError(f"{path} has no rows", "give a file with conversations in it")
            _, convert = self._layout(path, first)
            converted = _converted(self._raw(path), convert)
            for place, (raw, row) in good(path, converted, lambda row: "", "see what its rows lack"):
                chosen = None
                if self.templates is not None:
                    chosen = self.templates.number(number, self.seed)
                    row = _filled(self.templates.pairs[chosen], row)
                yield passport(raw, f"{path.name}:{place}", path.name, texts), {"messages": row, "template": chosen}
                number += 1

    def layouts(self) -> dict[str, list[Path]]:
        """What the files were found to be, in words, and which."""
        found: dict[str, list[Path]] = {}
        for path in self._files:
            first = next((row for row in self._raw(path) if isinstance(row, dict)), None)
            if first is not None:
                found.setdefault(self._layout(path, first)[0], []).append(path)
        return found

    def _raw(self, path: Path) -> Iterator[Any]:
        kind = kind_of(path, SUFFIXES)
        if kind in COLUMNS:
            return columns(path, COLUMNS[kind], ())
        if kind == ".parquet":
            return parquet_rows(path, ())
        return json_rows(path) if kind == ".jsonl" else _listed(path)

    def _layout(self, path: Path, row: Mapping[str, Any]) -> tuple[str, Any]:
        """(what a file is whose first row this is, what makes messages of its rows). Raises UserError for unknown."""
        if self.templates is not None:
            _require(path, self.templates.fields, row)
            fields = self.templates.fields
            return f"{', '.join(fields)} through {len(self.templates.pairs)} templates", _kept(fields)
        if self.pair is not None:
            _require(path, self.pair.fields, row)
            return f"a prompt and its answer, of the fields {', '.join(self.pair.fields)}", _by(self.pair)
        for name in ("messages", "conversations"):
            if isinstance(row.get(name), list):
                return name, _listed_messages(name)
        if "instruction" in row and (answer := next((name for name in OUTPUTS if name in row), None)):
            more = next((name for name in INPUTS if name in row), None)
            names = ", ".join(filter(None, ("instruction", more, answer)))
            return f"instructions ({names})", _instructed(more, answer)
        for prompt, response in PAIRS:
            if prompt in row and response in row:
                if isinstance(row[prompt], list):  # messages on both sides
                    return f"lists of messages ({prompt}, {response})", _two_lists(prompt, response)
                pair = Pair(Template("{%s}" % prompt), Template("{%s}" % response))  # noqa: UP031
                return f"pairs ({prompt}, {response})", _by(pair)
        shown = ", ".join(repr(str(key)[:40]) for key in list(row)[:20])
        raise UserError(
            f"{path}: its fields ({shown}) are those of no kind of conversation that is known",
            "say what is what: task.prompt='{FIELD}' task.response='{FIELD}'",
        )

    @property
    def fingerprint(self) -> str:
        """As that of examples; with the templates, by their texts."""
        pair = self.pair and (self.pair.prompt.text, self.pair.response.text)
        made = json.dumps([super().fingerprint, pair, self.templates and self.templates.fingerprint, self.seed])
        return hashlib.sha256(made.encode()).hexdigest()


def _require(path: Path, fields: tuple[str, ...], row: Mapping[str, Any]) -> None:
    if lacking := missing(fields, row):
        shown = ", ".join(repr(str(key)[:40]) for key in list(row)[:20])
        raise UserError(f"{path} has no text in a field {lacking!r}", f"it has {shown}: name those in the template")


def _listed(path: Path) -> Iterator[Any]:
    """The items of a json file that is one list, or a line each. Raises UserError for what is neither."""
    if path.stat().st_size > LARGEST_LIST:
        raise UserError(f"{path} is larger than {LARGEST_LIST >> 30} GB", "write it as jsonl, a row a line")
    text = b"".join(chunks(path))
    if not text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from json_rows(path)
        return
    value = json_value(text)
    if isinstance(value, ValueError):
        raise UserError(f"{path} cannot be read: {value}", "mend the file")
    yield from value


def _converted(rows: Iterator[Any], convert: Any) -> Iterator[Any]:
    """Each row with what it was converted to, or a ValueError that says why it could not be."""
    for row in rows:
        if isinstance(row, ValueError):
            yield row
        elif not isinstance(row, dict):
            yield ValueError("not an object")
        else:
            try:
                yield row, convert(row)
            except ValueError as error:
                yield ValueError(str(error))


def _message(role: Any, content: Any) -> dict[str, str]:
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(role, str) or role not in NAMES:
        raise ValueError(f"the role {str(role)[:40]!r}")
    return {"role": NAMES[role], "content": _utf8(content)}


def _utf8(content: Any) -> str:
    if not isinstance(content, str):
        raise ValueError("a message without text")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair") from None
    return content


def _answered(messages: Messages) -> Messages:
    """Messages that a model can learn from, which end with an answer. Raises ValueError for others."""
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
    if not any(message["content"].strip() for message in messages if message["role"] == "assistant"):
        raise ValueError("no answer")
    return messages


def _listed_messages(name: str) -> Convert:
    def convert(row: Mapping[str, Any]) -> Messages:
        given = row.get(name)
        if not isinstance(given, list) or not all(isinstance(message, dict) for message in given):
            raise ValueError(f"no list of messages in {name!r}")
        pairs = [(m.get("role", m.get("from")), m.get("content", m.get("value"))) for m in given]
        return _answered([_message(role, content) for role, content in pairs])

    return convert


def _two_lists(prompt: str, response: str) -> Convert:
    def convert(row: Mapping[str, Any]) -> Messages:
        both = {"both": [*(row.get(prompt) or ()), *(row.get(response) or ())]}
        return _listed_messages("both")(both)

    return convert


def _instructed(more: str | None, answer: str) -> Convert:
    def convert(row: Mapping[str, Any]) -> Messages:
        asked = _utf8(row.get("instruction"))
        beside = _utf8(row.get(more) or "") if more else ""
        return _pair(f"{asked}\n\n{beside}" if beside.strip() else asked, row.get(answer))

    return convert


def _pair(prompt: str, response: Any) -> Messages:
    return _answered([_message("user", prompt), _message("assistant", response)])


def _by(pair: Pair) -> Convert:
    fields = pair.fields

    def convert(row: Mapping[str, Any]) -> Messages:
        if lacking := missing(fields, row):
            raise ValueError(f"no text in field {lacking!r}")
        return _filled(pair, row)

    return convert


def _filled(pair: Pair, row: Mapping[str, Any]) -> Messages:
    return _pair(pair.prompt.fill(row), pair.response.fill(row))


def _kept(fields: tuple[str, ...]) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Rows as they are, if all the fields of a set of templates are there."""

    def convert(row: Mapping[str, Any]) -> Mapping[str, Any]:
        if lacking := missing(fields, row):
            raise ValueError(f"no text in field {lacking!r}")
        for field in fields:
            if not _utf8(str(row[field])).strip():
                raise ValueError(f"field {field!r} is empty")
        return row

    return convert
