"""Valid files made invalid, by chance and with malice: bytes, lines, JSON values, tensors' headers, arguments.

Every function takes a `random.Random`, so a case is its seed.
"""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

NUMBERS = [0, -1, 1, 3, 255, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30]
FLOATS = [0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), float("-inf"), 1.7976931348623157e308]
TEXTS = [
    "",
    " ",
    "\0",
    "\ud800",
    "\ufeff",
    "ü\n",
    "x" * 9999,
    "../../x",
    "/dev/zero",
    "/",
    ".",
    "%s{}",
    "a\tb\rc",
    "😀",
]
TEXTS += ["(a+)+$", "[", "<s>", "</s>", "<|endoftext|>", "__import__('os')", "nan", "1e999", "true", "0x10", "-"]
BYTES = [b"", b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\n", b"\r\n", b"\xef\xbb\xbf", b'"', b"{", b"}", b"[", b"]"]
BYTES += [b",", b":", b"\t", b" ", b"-", b"e999", b"NaN", b"1e999", b"\\u0000", b"\\ud800", b"9" * 5000, b"\xff\xfe"]
DEEP = [50, 3000, 100_000]
MOST = 1 << 20
"""Bytes that are put in at once."""


def mutated_bytes(data: bytes, draw: random.Random) -> bytes:
    """One to four changes: a bit, some bytes put in, taken out, moved, doubled or overwritten, the end cut off."""
    out = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        at = draw.randrange(len(out) + 1)
        length = draw.choice([1, 1, 2, 7, 64, 999])
        kind = draw.randrange(8)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            out[at:at] = draw.choice(BYTES)
        elif kind == 2:
            del out[at : at + length]
        elif kind == 3:
            del out[at:]
        elif kind == 4:
            out[at : at + length] = draw.randbytes(length)
        elif kind == 5:
            other = draw.randrange(len(out) + 1)
            out[at:at] = out[other : other + length]
        elif kind == 6:
            out[at : at + length] = bytes(length)
        else:
            out[at:at] = (draw.choice(BYTES) * draw.choice([2, 100, 20_000]))[:MOST]
    return bytes(out)


def mutated_lines(data: bytes, draw: random.Random) -> bytes:
    """Words replaced by nasty ones, lines left out, doubled, swapped; often bytes besides."""
    lines = data.split(b"\n")
    for _ in range(draw.choice([1, 1, 2])):
        i = draw.randrange(len(lines))
        kind = draw.randrange(6)
        if kind == 0:
            del lines[i : i + draw.choice([1, 1, 5])]
            lines = lines or [b""]
        elif kind == 1:
            lines[i:i] = [lines[i]] * draw.choice([1, 2, 1000])
        elif kind == 2:
            j = draw.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
        elif kind == 3:
            lines[i] = nasty_text(draw)
        else:
            words = lines[i].split(b" ")
            words[draw.randrange(len(words))] = nasty_text(draw)
            lines[i] = b" ".join(words)
    out = b"\n".join(lines)
    return mutated_bytes(out, draw) if draw.random() < 0.3 else out


def nasty_text(draw: random.Random) -> bytes:
    return str(nasty(draw, nested=False)).encode("utf-8", "surrogatepass")


def nasty(draw: random.Random, nested: bool = True) -> Any:
    """A value that nobody expected."""
    kind = draw.randrange(5 if nested else 3)
    if kind == 0:
        return draw.choice(NUMBERS)
    if kind == 1:
        return draw.choice(FLOATS)
    if kind == 2:
        return draw.choice(TEXTS)
    if kind == 3:
        return draw.choice([None, True, False, [], {}, [[]], {"": None}, [1, "a", None]])
    return draw.choice([[nasty(draw, False)] * draw.choice([1, 3, 500]), {str(nasty(draw, False)): nasty(draw, False)}])


def mutated_json(data: bytes, draw: random.Random) -> bytes:
    """The same with other values, other keys, keys twice, other types, deep nesting; sometimes no JSON at all."""
    if draw.random() < 0.2:
        return mutated_bytes(data, draw)
    value = json.loads(data)
    for _ in range(draw.choice([1, 1, 2, 3])):
        value = changed(value, draw)
    out = to_json(value)
    if draw.random() < 0.05:
        deep = draw.choice(DEEP)
        out = out.replace(b"null", b"[" * deep + b"]" * deep, 1) if b"null" in out else b"[" * deep
    if draw.random() < 0.05:
        out = out.replace(b"1", draw.choice([b"9" * 5000, b"1e400", b"-0", b"01", b"1."]), 1)
    return out


def to_json(value: Any) -> bytes:
    return json.dumps(value, default=str).encode("utf-8", "surrogatepass")


def changed(value: Any, draw: random.Random) -> Any:
    """A copy of a JSON value with one place changed; each level is as likely a place as all below it."""
    inside = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    if not inside or draw.random() < 0.15:
        return changed_here(value, draw)
    key, item = draw.choice(inside)
    copy = dict(value) if isinstance(value, dict) else list(value)
    kind = draw.random()
    if kind < 0.1:
        del copy[key]
    elif kind < 0.15 and isinstance(copy, dict):
        copy[str(nasty(draw, False))] = copy.pop(key)
    elif kind < 0.2 and isinstance(copy, list):
        copy[key:key] = [item] * draw.choice([1, 2, 300])
    else:
        copy[key] = changed(item, draw)
    return copy


def changed_here(value: Any, draw: random.Random) -> Any:
    if isinstance(value, bool) or value is None or draw.random() < 0.5:
        return nasty(draw)
    if isinstance(value, int):
        return value + draw.choice([-1, 1, 1000, -value, 2**31, 2**62])
    if isinstance(value, float):
        return value * draw.choice([0, -1, 1e300, 1e-300])
    if isinstance(value, str):
        return draw.choice([value + nasty_text(draw).decode("utf-8", "replace"), value[1:], value * 50, value.upper()])
    return draw.choice([None, [value], {"value": value}, str(value)])


def mutated_tensors(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file with another header: shapes, types, offsets, names; or its length a lie; or other bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    kind = draw.random()
    if kind < 0.25:
        return mutated_bytes(data, draw)
    if kind < 0.35:
        return struct.pack("<Q", draw.choice([0, 1, length - 1, length + 1, 2**27, 2**40, 2**63, 2**64 - 1])) + data[8:]
    header, body = data[8 : 8 + length], data[8 + length :]
    if kind < 0.6:
        at = draw.randrange(max(1, len(body)))
        value = draw.choice([b"\xff" * 8, b"\0" * 8, struct.pack("<q", -1), struct.pack("<d", float("nan"))])
        return data[: 8 + length] + body[:at] + value + body[at + 8 :]
    header = mutated_json(header, draw)
    return struct.pack("<Q", len(header)) + header + body


def mutated_arguments(arguments: list[str], draw: random.Random) -> list[str]:
    """Arguments replaced, left out, doubled, swapped, glued to something, or given a nasty value."""
    out = list(arguments)
    for _ in range(draw.choice([1, 1, 2])):
        i = draw.randrange(len(out)) if out else 0
        kind = draw.randrange(6)
        if kind == 0 and out:
            del out[i]
        elif kind == 1 and out:
            out[i:i] = [out[i]] * draw.choice([1, 2])
        elif kind == 2 and out and "=" in out[i]:
            out[i] = out[i].split("=")[0] + "=" + argument(draw)
        elif kind == 3 and out:
            out[i] = out[i] + draw.choice(["=", ".", "x", " ", "-"]) + argument(draw)
        elif out:
            out[i] = argument(draw)
    return out


def argument(draw: random.Random) -> str:
    """What a shell can hand over: no NUL, and bytes that are no UTF-8 as lone surrogates."""
    value = draw.choice(
        [str(nasty(draw)), draw.choice(["\udcff", "-x", "--", "--help=1", "[1", "{", '"', "'''", "1_0", "=", "[[a]]"])]
    )
    return (
        value.replace("\0", "")
        .encode("utf-8", "replace" if "\ud800" in value else "surrogateescape")
        .decode("utf-8", "surrogateescape")
    )
