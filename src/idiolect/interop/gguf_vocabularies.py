"""Tokenizers as llama.cpp has them: byte-level BPE ("gpt2") and SentencePiece's BPE ("llama").

llama.cpp knows a tokenizer by its model and by the name of the pattern that cuts text before it. Only what gives the
same ids is written; its code is `src/llama-vocab.cpp`, as llama-cpp-python 0.3.36 carries it.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from idiolect.errors import UserError
from idiolect.interop.gguf_architectures import Metadata
from idiolect.tokens import bytepairs, describe, patterns, templates
from idiolect.tokens.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Its types of token."""
PATTERNS = {
    (patterns.GPT2, False): "gpt-2",
    (patterns.CL100K, False): "dbrx",
    (patterns.CL100K, True): "llama-bpe",
    (patterns.QWEN, False): "qwen2",
}
"""(pattern, whether a word that is a token needs no merges) → its name for both."""
DIGITS = {"type": "Digits", "individual_digits": True}
"""Cuts each digit off before GPT-2's pattern cuts the rest (SmolLM)."""
NO_MERGE = "aaa a"
"""Its reader wants merges. This one never happens where there is none: nothing makes its left side."""
SPACE = "▁"
"""What stands for a space in the tokens of SentencePiece."""
ESCAPES = ({"type": "Replace", "pattern": {"String": " "}, "content": SPACE},)
PREFIXES = ({"type": "Prepend", "prepend": SPACE}, *ESCAPES)
"""Normalizers of SentencePiece's BPE, without and with a space before the text."""
WHICH = (
    "byte-level BPE with the pattern of GPT-2, SmolLM, GPT-4 (Llama 3) or Qwen 2 can go, so can byte and char "
    "tokenizers, and SentencePiece's BPE"
)


def vocabulary(tokenizer: Tokenizer, size: int) -> tuple[Metadata, list[str]]:
    """(the keys of a GGUF file that say how text becomes ids; in words, where llama.cpp departs from it).

    size: ids of the model; those beyond the tokenizer's are unused. llama.cpp begins each text with our begin of text,
    as we do. Raises UserError for a tokenizer that llama.cpp has not.
    """
    spec = tokenizer.spec
    kept = [token for token in spec["added_tokens"] if token["id"] < size]
    if odd := next((t for t in kept if not t["special"] and (t["lstrip"] or t["rstrip"] or t["single_word"])), None):
        raise _refused(f"its token {odd['content']!r} takes in the space around it, or stands for whole words only")
    model = _byte_level(spec) or _sentencepiece(spec)
    if model is None:
        raise _refused(f"its {tokenizer.kind} tokenizer cuts text in another way")
    names, types = tokenizer.vocabulary[:size], [NORMAL] * min(tokenizer.size, size)
    if model["model"] == "llama":
        names, types = _spelled(names, kept), _bytes(names)
    for token in kept:
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    for role in (tokenizer.begin_id, tokenizer.end_id, tokenizer.pad_id):
        if role < size:
            types[role] = CONTROL
    if tokenizer.unknown_id is not None:  # our folder reader took it from the model's own vocabulary
        types[tokenizer.unknown_id] = UNKNOWN
    missing = size - len(names)
    names += [f"[unused {len(names) + i}]" for i in range(missing)]
    if len(set(names)) < size:
        raise _refused("two of its tokens are spelled alike")
    values = model | {"tokens": names, "token_type": types + [UNUSED] * missing}
    if "scores" in values:
        values["scores"] = [*values["scores"], *[0.0] * missing][:size]
    ids = {"bos": tokenizer.begin_id, "eos": tokenizer.end_id, "padding": tokenizer.pad_id}
    ids |= {} if tokenizer.unknown_id is None else {"unknown": tokenizer.unknown_id}
    values |= {f"{role}_token_id": id_ for role, id_ in ids.items() if id_ < size}
    values |= {"add_bos_token": tokenizer.begin_id < size, "add_eos_token": False}
    notes = []
    if spec["normalizer"] is not None and spec["normalizer"]["type"] == "NFC":
        notes.append("llama.cpp does not bring text into Unicode's form NFC first, as this tokenizer does")
    keys = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    return keys | _templates(tokenizer.templates), notes


def _templates(chats: dict[str, str]) -> Metadata:
    """Chat templates, word for word; an empty text cannot be written."""
    names = {name: "" if name == templates.DEFAULT else f".{name}" for name, text in chats.items() if text}
    others = [name for name, ending in names.items() if ending]
    found: Metadata = {f"tokenizer.chat_template{ending}": chats[name] for name, ending in names.items()}
    return found | ({"tokenizer.chat_templates": others} if others else {})


def _refused(why: str) -> UserError:
    return UserError(f"llama.cpp cannot cut text as this model does: {why}", f"{WHICH}; export it with --to hf")


def _byte_level(spec: describe.Spec) -> Metadata | None:
    """The keys of a byte-level BPE; None for other models. Raises UserError for a pattern that has no name there."""
    model, before = spec["model"], spec["pre_tokenizer"] or {}
    if model["type"] != "BPE" or (spec["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        return None
    ignores = bool(model.get("ignore_merges"))
    steps = before.get("pretokenizers", [])
    digits = not ignores and len(steps) == 2 and steps[0] == DIGITS
    before = steps[1] if digits else before
    plain = spec | {"normalizer": None, "added_tokens": [], "pre_tokenizer": before or None}
    plain["model"] = model | {"ignore_merges": False}
    pattern = bytepairs.pattern_of(plain)
    if pattern is None and not model["merges"] and before.get("type") == "ByteLevel":
        cut = before | {"use_regex": True}  # single bytes are the same tokens however text is cut
        pattern = bytepairs.pattern_of(plain | {"pre_tokenizer": cut})
    if pattern is None:
        return None
    if (pattern, ignores) not in PATTERNS or (digits and pattern != patterns.GPT2):
        raise _refused("it takes whole words from the vocabulary where llama.cpp merges them")
    merges = [f"{left} {right}" for left, right in model["merges"]] or [NO_MERGE]
    return {"model": "gpt2", "pre": "smollm" if digits else PATTERNS[pattern, ignores], "merges": merges}


def _sentencepiece(spec: describe.Spec) -> Metadata | None:
    """The keys of a BPE over characters whose spaces are SPACE; None for other models.

    llama.cpp has no merges there: it joins the neighbours that make the token of the highest score. So every two
    tokens that make a third must be a merge of it, and all merges of one token come one after the other.
    """
    model = spec["model"]
    normalizer = spec["normalizer"]
    steps = tuple((normalizer or {}).get("normalizers", [normalizer] if normalizer else ()))
    before = spec["pre_tokenizer"] or {}
    whole = not before or (before.get("type") == "Split" and before["pattern"] == {"String": " "} and steps)
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model["type"] != "BPE" or not model.get("byte_fallback") or any(model.get(key) for key in odd):
        return None
    if steps not in ((), ESCAPES, PREFIXES) or not whole:
        return None
    own = model["vocab"]
    if not all(f"<0x{byte:02X}>" in own for byte in range(256)):
        return None
    products = [left + right for left, right in model["merges"]]
    ranks = [name for name, _ in groupby(products)]
    if len(set(ranks)) < len(ranks):
        raise _refused("its merges are in no order of tokens")
    allowed = {tuple(merge) for merge in model["merges"]}
    for name in describe.vocabulary(spec):
        for cut in range(1, len(name)):
            pair = name[:cut], name[cut:]
            if pair not in allowed and pair[0] in own and pair[1] in own:
                raise _refused(f"it does not merge {pair[0]!r} and {pair[1]!r}, though {name!r} is a token")
    score = {name: -float(rank) for rank, name in enumerate(ranks, start=1)}
    ids = describe.vocabulary(spec)
    scores = [score.get(name, 0.0) for name in sorted(ids, key=ids.__getitem__)]
    return {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": steps == PREFIXES}


def _bytes(names: list[str]) -> list[int]:
    """The type of each token of SentencePiece: a byte, or none."""
    table = {f"<0x{byte:02X}>" for byte in range(256)}
    return [BYTE if name in table else NORMAL for name in names]


def _spelled(names: list[str], added: list[dict[str, Any]]) -> list[str]:
    """Tokens with SPACE for their spaces, as llama.cpp looks them up; those that were added are matched as they are."""
    whole = {token["content"] for token in added}
    return [name if name in whole else name.replace(" ", SPACE) for name in names]
