"""What a tokenizer.json says about itself: the bytes of each token, what is lost, where text may be cut."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from idiolect.tokens.patterns import KNOWN

Spec = dict[str, Any]
"""The content of a tokenizer.json."""

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_WHOLE_BYTES = [{"type": "ByteFallback"}, {"type": "Fuse"}]
_KEEPERS = ("Split", "Digits", "Punctuation", "ByteLevel", "Sequence")
_LOST_BY_NORMALIZER = {
    "Lowercase": ("case",),
    "NFC": ("Unicode form",),
    "NFD": ("Unicode form",),
    "NFKC": ("Unicode form",),
    "NFKD": ("Unicode form",),
    "StripAccents": ("accents",),
    "Strip": ("whitespace",),
}


@functools.cache
def byte_characters() -> dict[str, int]:
    """The printable character GPT-2 writes for each byte → the byte.

    Bytes that print in Latin-1 stand for themselves; the others are written, in order, as U+0100, U+0101, …
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(b): b for b in printing} | {chr(0x100 + i): b for i, b in enumerate(others)}


def byte_level(use_regex: bool) -> dict[str, Any]:
    """GPT-2's way of writing bytes, as a pre-tokenizer (use_regex: which also cuts words) and as a decoder."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def control_token(id_: int, name: str) -> dict[str, Any]:
    """An entry of `added_tokens` that is matched as it stands and left out of decoded text."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": id_, "content": name, **flags}


def vocabulary(spec: Spec) -> dict[str, int]:
    """Every token and its id, those added to the model's own included."""
    model = spec["model"]["vocab"]
    own = dict(model) if isinstance(model, dict) else {piece: i for i, (piece, _) in enumerate(model)}
    return own | {token["content"]: token["id"] for token in spec["added_tokens"]}


def token_bytes(spec: Spec) -> list[bytes] | None:
    """The bytes each id decodes to, or None when decoding does more than to join them."""
    decoder = spec["decoder"] or {}
    added = {token["content"] for token in spec["added_tokens"]}
    if decoder.get("type") == "ByteLevel":
        table = byte_characters()

        def stands_for(token: str) -> bytes:
            if token in added or any(character not in table for character in token):
                return token.encode()
            return bytes(table[character] for character in token)

    elif decoder.get("decoders") == _WHOLE_BYTES:

        def stands_for(token: str) -> bytes:
            byte = _BYTE.fullmatch(token)
            return bytes([int(byte[1], 16)]) if byte else token.encode()

    else:
        return None
    ordered = sorted(vocabulary(spec).items(), key=lambda item: item[1])
    return [stands_for(token) for token, _ in ordered]


def joins(spec: Spec, bytes_: list[bytes] | None) -> list[tuple[bool, bool]]:
    """Of each id, whether it can go on a word and whether a word can go on after it; bytes_: those of each id.

    A token goes on with the word before it where both say so. WordPieces tell by their prefix and SentencePieces by
    their mark of a space; where tokens are known by their bytes, words are runs of letters and digits (and of bytes
    beyond ASCII). Other tokens are words.
    """
    model, ordered = spec["model"], sorted(vocabulary(spec).items(), key=lambda item: item[1])
    if model["type"] == "WordPiece":
        prefix = model["continuing_subword_prefix"]
        return [(token.startswith(prefix), True) for token, _ in ordered]
    if any(step["type"] == "Metaspace" for step in _steps(spec["pre_tokenizer"], "pretokenizers")):
        return [(not token.startswith("▁"), True) for token, _ in ordered]
    if bytes_ is None:
        return [(False, False)] * len(ordered)
    return [(_is_word(b[:1]), _is_word(b[-1:])) for b in bytes_]


def _is_word(byte: bytes) -> bool:
    return byte.isalnum() or byte >= b"\x80"


def frame(spec: Spec) -> tuple[list[int], list[int]] | None:
    """The ids that the tokenizer's own post-processor puts before and after a text; None when it has none to put."""
    for step in _steps(spec["post_processor"], "processors"):
        if step["type"] in ("BertProcessing", "RobertaProcessing"):
            return [step["cls"][1]], [step["sep"][1]]
        if step["type"] == "TemplateProcessing":
            parts: list[list[int]] = [[]]
            for piece in step["single"]:
                if "Sequence" in piece:
                    parts.append([])
                else:
                    parts[-1] += step["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
            return parts[0], parts[-1]
    return None


def losses(spec: Spec) -> tuple[str, ...]:
    """What of a text does not come back from its ids, in words; empty when all of it does."""
    lost: list[str] = []
    for step in _steps(spec["normalizer"], "normalizers"):
        lost.extend(_LOST_BY_NORMALIZER.get(step["type"], (f"what {step['type']} changes",)))
    steps = list(_steps(spec["pre_tokenizer"], "pretokenizers"))
    for step in steps:
        if step.get("behavior") == "Removed" and step.get("invert"):
            lost.extend(("whitespace", "what the pattern does not match"))
        elif step["type"] not in _KEEPERS or step.get("behavior") == "Removed" or step.get("add_prefix_space"):
            lost.append("whitespace")
    if any(token["lstrip"] or token["rstrip"] for token in spec["added_tokens"] if not token["special"]):
        lost.append("whitespace")
    model, pieces = spec["model"], vocabulary(spec)
    if model["type"] in ("WordLevel", "WordPiece"):
        lost.append("unknown words")
    elif any(step["type"] == "ByteLevel" for step in steps):
        if not all(character in pieces for character in byte_characters()):
            lost.append("unknown characters")
    elif not (model.get("byte_fallback") and all(f"<0x{byte:02X}>" in pieces for byte in range(256))):
        lost.append("unknown characters")
    if not lost and token_bytes(spec) is None:
        lost.append("what the decoder changes")
    return tuple(dict.fromkeys(lost))


def may_cut(spec: Spec) -> str:
    """Where a text may be cut without changing its tokens: "anywhere", "words" (see `text.read.CUT`) or "nowhere"."""
    normalizer, before, model = spec["normalizer"] or {}, spec["pre_tokenizer"] or {}, spec["model"]
    if normalizer.get("type") not in (None, "Lowercase", "NFC"):
        return "nowhere"
    if any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in spec["added_tokens"]):
        return "nowhere"
    plain = before.get("type") in (None, "ByteLevel") and not before.get("add_prefix_space")
    if model["type"] == "BPE" and not model["merges"] and plain and normalizer.get("type") != "NFC":
        return "anywhere" if all(token["special"] for token in spec["added_tokens"]) else "nowhere"
    steps = list(_steps(spec["pre_tokenizer"], "pretokenizers"))
    if any(step.get("add_prefix_space") for step in steps) or not steps:
        return "nowhere"
    first = steps[0]
    if first["type"] == "BertPreTokenizer" or first.get("use_regex"):
        return "words"
    return "words" if first["type"] == "Split" and first["pattern"].get("Regex") in KNOWN else "nowhere"


def patterns(spec: Spec) -> list[str]:
    """The regular expressions anywhere in the spec."""
    found: list[str] = []
    stack: list[Any] = [spec["normalizer"], spec["pre_tokenizer"], spec["decoder"], spec["post_processor"]]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            if isinstance(value.get("Regex"), str):
                found.append(value["Regex"])
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return found


def kind_of(spec: Spec) -> str:
    """The kind of tokenizer, by its model."""
    return {"BPE": "bpe", "WordPiece": "wordpiece", "WordLevel": "word", "Unigram": "unigram"}[spec["model"]["type"]]


def unprefixed(spec: Spec) -> tuple[Spec | None, bool]:
    """(the spec without a space put before each text, or None if it puts none; whether after control tokens too)."""
    found, always = copy.deepcopy(spec), False
    for step in _steps(found["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Metaspace" and step.get("prepend_scheme") != "never":
            always |= step.get("prepend_scheme") != "first"
            step["prepend_scheme"] = "never"
        elif step.get("add_prefix_space"):
            always, step["add_prefix_space"] = True, False
    for step in _steps(found["normalizer"], "normalizers"):
        if step["type"] == "Prepend":
            always, step["prepend"] = True, ""
    return (None if found == spec else found), always


def _steps(component: dict[str, Any] | None, inside: str) -> Iterator[dict[str, Any]]:
    """The component, or the components of a sequence of them, flat."""
    if component is None:
        return
    if component["type"] == "Sequence":
        for step in component[inside]:
            yield from _steps(step, inside)
    else:
        yield component
