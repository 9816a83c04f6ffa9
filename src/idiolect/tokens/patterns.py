"""Regular expressions that cut text, and which of them take time linear in the text.

The engine below the tokenizers backtracks: `(a+)+$` takes exponential time, even `a+$` quadratic time. A pattern is
accepted when it is one of the well known ones or when it is *linear*: in each alternative nothing that can fail
follows an unbounded repeat, so the engine never gives back what it took.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from idiolect.errors import UserError

WORDS = r"\w+|[^\w\s]"
"""Words, and each sign of punctuation alone: what the word tokenizer keeps unless told otherwise."""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""OpenAI GPT-2's encoder.py."""
_GPT4_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_O200K_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K_UPPER, _O200K_LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = rf"{_GPT4_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}"
"""GPT-4, Llama 3 and its kin."""
QWEN = rf"{_GPT4_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}"
"""Qwen 2: CL100K with single digits."""
KNOWN = frozenset(
    {
        WORDS,
        GPT2,
        CL100K,
        QWEN,
        # o200k: words cut where the case changes
        rf"[^\r\n\p{{L}}\p{{N}}]?{_O200K_UPPER}*{_O200K_LOWER}+{_O200K_CONTRACTIONS}"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_O200K_UPPER}+{_O200K_LOWER}*{_O200K_CONTRACTIONS}"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    }
)
"""Patterns of well known tokenizers that are harmless although they are not linear by the rule."""
LARGEST = 1000
"""Longest pattern that is looked at, and the most ways a bounded beginning of an alternative may match."""

_QUANTIFIER = re.compile(r"(?:([*+?])|\{(\d{1,6})(?:(,)(\d{0,6}))?\})[?+]?")
_ESCAPE = re.compile(r"\\(?:[pP]\{\^?\w+\}|x[0-9a-fA-F]{2}|x\{[0-9a-fA-F]+\}|[wWdDsSnrtfvh]|[^\w])")
_EDGE = re.compile(r"\\[bBAzZ]|[\^$]")
_OPEN = re.compile(r"\((?:\?i?:)?(?!\?)")
_SPACES = re.compile(r"\\s\+\(\?!\\S\)(?=[|)]|$)")


class _NotLinearError(Exception):
    """Why a pattern is not linear."""


@dataclass(frozen=True)
class _Part:
    """A piece of a pattern: can it match nothing, is it without bound, in how many ways can it match."""

    empty: bool
    unbounded: bool = False
    ways: int = 1


def check(pattern: str, where: str) -> None:
    """Raises UserError naming `where` when `pattern` is neither known nor linear, or matches the empty text."""
    if reason := why_not(pattern):
        raise UserError(
            f"{where}: the pattern {pattern!r} could take very long or cannot be used: {reason}",
            "write alternatives in which only the last part repeats without bound, for example \\w+|[^\\w\\s]",
        )


def why_not(pattern: str) -> str:
    """Why a pattern is refused; an empty text when it is not."""
    if pattern in KNOWN:
        return ""
    if len(pattern) > LARGEST:
        return f"it has more than {LARGEST} characters"
    try:
        part, end = _alternatives(pattern, 0)
        if end != len(pattern):
            raise _NotLinearError("a closing bracket without an opening one")
    except _NotLinearError as error:
        return str(error)
    except RecursionError:
        return "it is nested too deeply"
    return "it matches the empty text" if part.empty else ""


def _alternatives(text: str, at: int) -> tuple[_Part, int]:
    """Reads `a|b|…` from `at` to the end of the text or of the group."""
    parts = []
    while True:
        part, at = _sequence(text, at)
        parts.append(part)
        if at == len(text) or text[at] == ")":
            ways = _bounded(sum(p.ways for p in parts))
            return _Part(any(p.empty for p in parts), any(p.unbounded for p in parts), ways), at
        at += 1


def _sequence(text: str, at: int) -> tuple[_Part, int]:
    """Reads one alternative; refuses a part that can fail after one without bound."""
    parts: list[_Part] = []
    unbounded = False
    while at < len(text) and text[at] not in "|)":
        if spaces := _SPACES.match(text, at):  # gives back one character at most
            part, at = _Part(empty=False, unbounded=True), spaces.end()
        else:
            part, at = _item(text, at)
        if unbounded and not part.empty:
            raise _NotLinearError("what follows an unbounded repeat can fail")
        unbounded = unbounded or part.unbounded
        parts.append(part)
    ways = 1
    for part in parts:
        ways = _bounded(ways * part.ways)
    return _Part(all(p.empty for p in parts), unbounded, ways), at


def _item(text: str, at: int) -> tuple[_Part, int]:
    """Reads one atom and its quantifier."""
    if edge := _EDGE.match(text, at):
        return _Part(empty=False), edge.end()
    if opened := _OPEN.match(text, at):
        part, at = _alternatives(text, opened.end())
        if at == len(text):
            raise _NotLinearError("a group is not closed")
        return _repeated(part, text, at + 1, group=True)
    if text[at] == "[":
        return _repeated(_Part(empty=False), text, _end_of_class(text, at), group=False)
    if text[at] == "\\":
        escape = _ESCAPE.match(text, at)
        if not escape:
            raise _NotLinearError(f"{text[at : at + 3]} is not among the escapes that are understood")
        return _repeated(_Part(empty=False), text, escape.end(), group=False)
    if text[at] in "(*+?{":
        raise _NotLinearError(f"{text[at : at + 3]} is not understood")
    return _repeated(_Part(empty=False), text, at + 1, group=False)


def _repeated(part: _Part, text: str, at: int, group: bool) -> tuple[_Part, int]:
    """`part` with the quantifier at `at`, if there is one."""
    quantifier = _QUANTIFIER.match(text, at)
    if not quantifier:
        return part, at
    sign, least, comma, most = quantifier.groups()
    low = {"*": 0, "+": 1, "?": 0}[sign] if sign else int(least)
    high = {"*": None, "+": None, "?": 1}[sign] if sign else int(most) if most else None if comma else low
    if group and (low > 1 or (high or 0) > 1):
        raise _NotLinearError("a group may be repeated by ?, * or + only")
    if high is None and part.empty:
        raise _NotLinearError("a part that can be empty is repeated without bound")
    ways = 1 if high is None else _bounded((high - low + 1) * part.ways)
    return _Part(part.empty or low == 0, part.unbounded or high is None, ways), quantifier.end()


def _bounded(ways: int) -> int:
    if ways > LARGEST:
        raise _NotLinearError("it can match in too many ways")
    return ways


def _end_of_class(text: str, at: int) -> int:
    """The position after the bracket that closes the class opened at `at`."""
    depth, start = 0, at
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "[":
            depth += 1
        elif text[at] == "]" and at - start > 1:
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    raise _NotLinearError("a class is not closed")
