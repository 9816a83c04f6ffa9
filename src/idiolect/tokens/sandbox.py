"""Chat templates, run so that they can do no harm: they are programs, and come with other people's folders.

A template is Jinja in `transformers`' dialect. It is run by Jinja's immutable sandbox without a loader, and besides:

- only the kinds of nodes, filters and methods listed here are compiled; names from Python's inside are not among them;
- each pass of a loop, call of a macro and application of a filter pays a toll, and every text made is measured, so that
  no template writes more than LARGEST_OUTPUT or computes for longer than LONGEST;
- a foreign template's first conversation is rendered in a child of little memory, no files and no processes.

The date is kept from templates: a conversation has the same tokens tomorrow.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import resource
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import jinja2
import jinja2.debug  # which a child without files could not import when an error makes Jinja want it
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from idiolect.errors import UserError

LARGEST_SOURCE = 16 << 10
"""Bytes of a template."""
LARGEST_OUTPUT = 1 << 20
"""Characters that a template writes or makes for one conversation."""
LONGEST = 0.1
"""Seconds of processor time for one conversation."""
LARGEST_LIST = 10_000
"""Items in all of a list that a template makes, and of a range."""
CHILD_MEMORY, CHILD_SECONDS, CHILD_WAIT = 512 << 20, 2, 60.0
"""Bytes of address space and seconds of processor time of the child, and how long it is waited for."""
LIBRARIES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""What a Python may need to start; the child is told nothing else."""
OPEN, CLOSE = (f"\ue000{secrets.token_hex(16)}\ue001" for _ in range(2))
"""What `{% generation %}` and `{% endgeneration %}` leave in the text; nobody can guess it."""

Message = Mapping[str, str]

ALLOWED = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Macro, nodes.Assign),
    *(nodes.AssignBlock, nodes.FilterBlock, nodes.With, nodes.Scope, nodes.ExprStmt, nodes.Break, nodes.Continue),
    *(nodes.Name, nodes.NSRef, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair, nodes.Keyword),
    *(nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call, nodes.Getitem, nodes.Getattr, nodes.Slice, nodes.Concat),
    *(nodes.Compare, nodes.Operand, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Neg),
    *(nodes.Pos, nodes.Not, nodes.And, nodes.Or),
)
REFUSED_NAMES = {"self", "super", "varargs", "kwargs", "caller"}
METHODS: dict[type, set[str]] = {
    str: {
        *("strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "startswith", "endswith", "upper", "lower"),
        *("title", "capitalize", "find", "rfind", "count", "index", "isdigit", "isalpha", "isspace"),
        *("removeprefix", "removesuffix", "replace", "join"),
    },
    dict: {"items", "keys", "values", "get"},
    list: {"count", "index"},
    tuple: {"count", "index"},
    LoopContext: {"cycle", "changed"},
}
"""What may be called of a value."""
KEPT_FILTERS = (
    *("trim", "length", "count", "upper", "lower", "title", "capitalize", "default", "d", "first", "last", "list"),
    *("string", "int", "float", "map", "select", "reject", "selectattr", "rejectattr", "items", "dictsort", "sort"),
    *("unique", "reverse", "abs", "round", "min", "max"),
)
"""Jinja's own filters that make nothing larger than what they are given."""
TOLL, BUILT, JOINED = " toll", " built", " joined"
"""Filters that no template can name."""


class _Meter:
    """What one rendering has cost so far."""

    def __init__(self) -> None:
        self.characters = 0
        self.end = time.thread_time() + LONGEST

    def pay(self, characters: int) -> None:
        """Raises TemplateError when the template has used up what it may."""
        self.characters += characters
        if self.characters > LARGEST_OUTPUT:
            raise jinja2.TemplateError(f"it makes more than {LARGEST_OUTPUT >> 20} MiB of text")
        if time.thread_time() > self.end:
            raise jinja2.TemplateError(f"it takes more than {LONGEST * 1000:.0f} ms")


_METER: ContextVar[_Meter] = ContextVar("meter")


def _toll(characters: int) -> str:
    _METER.get().pay(characters)
    return ""


def _written(value: Any) -> Any:
    """Every value that is written passes here."""
    if isinstance(value, str):
        _toll(len(value))
    elif not isinstance(value, (int, float, jinja2.Undefined, type(None))):
        _built(value)
        _toll(len(value := str(value)))
    return value


def _built(value: Any) -> Any:
    """A list or the like that was put together. Raises TemplateError when it has too many items, inner ones counted."""
    room, stack = LARGEST_LIST, [value]
    while stack:
        item = stack.pop()
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else ()
        room -= len(inner)
        if room < 0:
            raise jinja2.TemplateError(f"it makes a list of more than {LARGEST_LIST:,} items")
        stack.extend(inner)
    _toll(0)
    return value


def _joined(parts: Iterable[Any], separator: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        parts = [part[attribute] for part in parts]
    texts = [str(_built(part)) for part in parts]
    _toll(sum(map(len, texts)) + len(separator) * len(texts))
    return str(separator).join(texts)


def _replaced(text: str, old: str, new: str, count: int = -1) -> str:
    found = text.count(old) if count < 0 else min(count, text.count(old))
    _toll(len(text) + found * len(new))
    return text.replace(old, new, count)


def _json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: Any = False
) -> str:
    """As `transformers` has it, which escapes no HTML; written piece by piece, so that it is measured."""
    if indent is not None and not (type(indent) is int and 0 <= indent <= 16):
        raise jinja2.TemplateError("it indents JSON by something else than 0 to 16 spaces")
    style: dict[str, Any] = {"ensure_ascii": bool(ensure_ascii), "indent": indent, "sort_keys": bool(sort_keys)}
    parts = []
    for part in json.JSONEncoder(**style, separators=separators).iterencode(value):
        _toll(len(part))
        parts.append(part)
    return "".join(parts)


def _range(*bounds: int) -> range:
    found = range(*bounds)
    if len(found) > LARGEST_LIST:
        raise jinja2.TemplateError(f"it makes a range of more than {LARGEST_LIST:,} numbers")
    return found


def _dict(*given: Any, **named: Any) -> Any:
    return _built(dict(*given, **named))


def _namespace(*given: Any, **named: Any) -> Namespace:
    return Namespace(_dict(*given, **named))


def _raise(message: Any) -> None:
    raise jinja2.TemplateError(str(message)[:200])


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: what the model is to write itself."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Any) -> list[nodes.Node]:
        """The marks around the body, which has a scope of its own."""
        next(parser.stream)
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = [nodes.Output([nodes.TemplateData(mark)]) for mark in (OPEN, CLOSE)]
        return [marks[0], nodes.Scope(body), marks[1]]


class _Metered(NodeTransformer):
    """Puts a toll into everything that can be repeated, and a measure around everything that is put together."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        super().generic_visit(node, *args, **kwargs)
        if isinstance(node, (nodes.For, nodes.Macro)):
            weight = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
            node.body.insert(0, nodes.Output([_filtered(nodes.Const(weight), TOLL)]))
        if isinstance(node, nodes.Concat):
            return _filtered(nodes.List(node.nodes, lineno=node.lineno), JOINED)
        if isinstance(node, (nodes.List, nodes.Dict)) or isinstance(node, nodes.Tuple) and node.ctx == "load":
            return _filtered(node, BUILT)
        return node


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%"))

    def __init__(self) -> None:
        extensions = [_Generation, loopcontrols]
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=_written, optimized=False
        )
        self.globals = {"raise_exception": _raise, "namespace": _namespace, "dict": _dict, "range": _range}
        own: dict[str, Callable[..., Any]] = {TOLL: _toll, BUILT: _built, JOINED: _joined}
        own |= {"join": _joined, "replace": _replaced, "tojson": _json, "safe": str}
        self.filters = {name: self.filters[name] for name in KEPT_FILTERS} | own

    def is_safe_callable(self, obj: Any) -> bool:
        """Macros, what is given to every template, and the listed methods of plain values."""
        if isinstance(obj, Macro) or any(obj is given for given in self.globals.values()):
            return True
        allowed = METHODS.get(type(getattr(obj, "__self__", None)), ())
        return getattr(obj, "__name__", None) in allowed

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 (as Jinja has it)
        """As the sandbox, but for the methods that can make a text larger."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        _toll(0)
        if type(owner) is str and name in ("replace", "join"):
            return _replaced(owner, *args) if name == "replace" else _joined(args[0], owner)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Numbers in bounds for all operators; texts and lists for + alone."""
        kinds = {type(left), type(right)}
        if kinds <= {int, float, bool}:
            if max(abs(left), abs(right)) >= 1 << 62:
                raise jinja2.TemplateError("it computes with a number that is too large")
            return super().call_binop(context, operator, left, right)
        if operator == "+" and kinds == {str}:
            _toll(len(left) + len(right))
            return left + right
        if operator == "+" and kinds in ({list}, {tuple}):
            return _built(left + right)
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise jinja2.TemplateError(f"it applies {operator} to {names}")

    def call_filter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Filters that filters apply to each item."""
        _toll(0)
        return super().call_filter(name, *args, **kwargs)

    def call_test(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Likewise for tests."""
        _toll(0)
        return super().call_test(name, *args, **kwargs)


_ENVIRONMENT = _Environment()


class Program:
    """A chat template that is known to be harmless, and can be run."""

    def __init__(self, source: str, name: str, trusted: bool = False) -> None:
        """name: what it is called in errors. trusted: it is one of ours. Raises UserError for what is no template."""
        self.source, self.name = source, name
        self.hash = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        if len(source.encode("utf-8", "surrogatepass")) > LARGEST_SOURCE:
            raise self._wrong(f"it is larger than {LARGEST_SOURCE >> 10} KiB")
        try:
            tree = _ENVIRONMENT.parse(source)
            self._check(tree)
            self._template = _ENVIRONMENT.from_string(_Metered().visit(tree))
        except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as error:
            raise self._wrong(str(error) or type(error).__name__) from None
        self.marked = OPEN in "".join(data.data for data in tree.find_all(nodes.TemplateData))
        """Whether it says itself what a model is to write."""
        self._tried = trusted

    def _check(self, tree: nodes.Template) -> None:
        """Raises TemplateSyntaxError for what no chat template needs."""
        for node in tree.find_all(nodes.Node):
            problem = ""
            if not isinstance(node, ALLOWED):
                problem = f"it uses {type(node).__name__}"
            elif isinstance(node, nodes.Filter) and node.name not in _ENVIRONMENT.filters:
                problem = f"it uses the filter {node.name}"
            elif isinstance(node, nodes.Test) and node.name not in _ENVIRONMENT.tests:
                problem = f"it uses the test {node.name}"
            elif isinstance(node, nodes.Name) and node.name in REFUSED_NAMES:
                problem = f"it uses {node.name}"
            elif isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
                problem = f"it asks for {node.attr}"
            elif isinstance(node, nodes.For) and node.recursive:
                problem = "it has a recursive loop"
            if problem:
                raise jinja2.TemplateSyntaxError(f"line {node.lineno}: {problem}, which is not allowed", node.lineno)

    def render(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
        """The text of a conversation, the marks of `{% generation %}` in it. Raises UserError."""
        if not self._tried:
            self._try(messages, variables)
            self._tried = True
        return self._run(messages, variables)

    def _run(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
        collecting = gc.isenabled()
        gc.disable()  # its pauses, which grow with all that the process holds, are not the template's doing
        meter = _Meter()
        before = _METER.set(meter)
        parts: list[str] = []
        try:
            length = 0
            for part in self._template.generate(messages=[dict(message) for message in messages], **variables):
                parts.append(part)
                length += len(part)
                if length > LARGEST_OUTPUT:
                    meter.pay(length)
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # a template can fail in every way that Python can
            raise self._wrong(str(error)[:300] or type(error).__name__) from None
        finally:
            _METER.reset(before)
            if collecting:
                gc.enable()
        return "".join(parts)

    def _try(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> None:
        """Renders in a child; raises UserError unless that ends well."""
        given = {"source": self.source, "name": self.name, "messages": [*map(dict, messages)], "variables": variables}
        try:
            done = subprocess.run(
                [sys.executable, "-m", Program.__module__],
                input=json.dumps(given),
                capture_output=True,
                text=True,
                env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
                | {name: os.environ[name] for name in LIBRARIES if name in os.environ},
                timeout=CHILD_WAIT,
            )
        except subprocess.TimeoutExpired:
            raise self._wrong(f"it is not done after {CHILD_WAIT:.0f} s") from None
        if done.returncode:
            raise self._wrong(done.stderr.strip()[-300:] or f"it needs more than {CHILD_MEMORY >> 20} MiB or its time")

    def _wrong(self, problem: str) -> UserError:
        return UserError(
            f"the chat template {self.name} cannot be used: {problem}", "mend it, or name another template"
        )


def _limited() -> None:
    """The child: renders what standard input holds within its limits; exit 1 with a line of why it cannot."""
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_MEMORY, CHILD_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CHILD_SECONDS, CHILD_SECONDS))
    given = json.loads(sys.stdin.read())
    try:
        program = Program(given["source"], given["name"], trusted=True)
        for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
            resource.setrlimit(limit, (0, 0))
        program.render(given["messages"], given["variables"])
    except UserError as error:
        sys.exit(error.what.partition("cannot be used: ")[2])


if __name__ == "__main__":
    _limited()
