"""The text that every Python carries: the language reference's topics and the standard library's docstrings."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SKIP = {"site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "pydoc_data", "__pycache__"}
"""Folders of the standard library whose docstrings are not about the library."""
SHORTEST = 60
"""Characters below which a docstring is left out."""


def documents() -> Iterator[str]:
    """One text a language topic, then one text a module: its docstrings, in the order of its source."""
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts[:-1]
        if SKIP.isdisjoint(parts) and not any(part.startswith("config-") for part in parts):
            text = "\n\n".join(docstrings(path))
            if text:
                yield text


def docstrings(path: Path) -> Iterator[str]:
    """The longer docstrings of one source file; none when this Python cannot parse it (templates, old syntax)."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text and len(text) >= SHORTEST:
                yield text


def source(size: int) -> str:
    """The source of the standard library's modules, one after another, until `size` characters are reached."""
    parts: list[str] = []
    room = size
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("**/*.py")):
        if room <= 0:
            break
        if SKIP.isdisjoint(path.parts):
            parts.append(path.read_text(encoding="utf-8", errors="replace")[:room])
            room -= len(parts[-1])
    return "".join(parts)
