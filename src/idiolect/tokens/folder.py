"""Tokenizers from folders: our own, other people's tokenizer.json, GPT-2's two files, BERT's vocab.txt.

A foreign file is data to be checked before the native parser sees it: known models only, ids dense, control tokens
what the configuration says, and no pattern that could take quadratic time unless it is trusted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

from idiolect import files
from idiolect.errors import UserError
from idiolect.tokens import describe, patterns, templates
from idiolect.tokens.roles import END, MASK, PAD, Roles
from idiolect.tokens.settings import Kind

LARGEST_FILE = 256 << 20
"""Bytes of the largest tokenizer file that is read."""
MODELS = ("BPE", "WordPiece", "WordLevel", "Unigram")
PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
"""How GPT-2 and others name the two files of a byte-level BPE."""
WORDPIECES = "vocab.txt"
"""BERT's list of pieces, a line each."""
ROBERTA = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
"""The control tokens in the two files of RoBERTa and its kin, which do not say that they are."""
BERT = {role: f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
"""The control tokens among BERT's pieces, where the configuration does not name others."""
ENDS = (END, "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>", "[SEP]")
"""Names under which an end of text is looked for when the configuration names none."""
MASKS = (MASK, "[MASK]", "<mask>")
"""Likewise for the mask."""

T = TypeVar("T")


def locate(folder: Path) -> Path:
    """The folder with the tokenizer's files: `folder` itself, or the model folder of a run. Raises UserError."""
    for candidate in (folder, folder / "model", folder / "tokenizer"):
        if _json_or_pair(candidate):
            return candidate
    raise _missing(folder)


def _missing(folder: Path) -> UserError:
    return UserError(
        f"{folder} holds no tokenizer (tokenizer.json, encoder.json and vocab.bpe, or vocab.txt)",
        "give a folder that `idiolect tokenizer train` or `idiolect train` wrote, or a Hugging Face model folder",
    )


def _json_or_pair(folder: Path) -> tuple[str, ...]:
    options = (("tokenizer.json",), *PAIRS, (WORDPIECES,))
    return next((names for names in options if all((folder / name).is_file() for name in names)), ())


def read(folder: Path, trust: bool = False) -> tuple[describe.Spec, Roles, str | None, tuple[str, ...], dict[str, str]]:
    """(tokenizer.json's content, its control tokens, its kind, its declared losses, its chat templates), checked.

    trust: accept patterns that are neither known nor provably fast.
    An end of text and a padding token of its own are added where a foreign tokenizer has none.
    Raises UserError for a folder without a tokenizer, for files that differ from the folder's manifest (if it has one)
    and for everything that is not as it must be.
    """
    folder = Path(folder)
    names = _json_or_pair(folder)
    if not names:
        raise _missing(folder)
    if (folder / files.MANIFEST).is_file():
        others = ("special_tokens_map.json", "tokenizer_config.json", *templates.paths(folder).values())
        files.verify(folder, only=(*names, *others))
    path, config = folder / names[0], _config(folder)
    if path.name == WORDPIECES:
        config = {f"{role}_token": token for role, token in BERT.items()} | config
        spec = _bert(path, config)
    elif len(names) == 1:
        spec = _tokenizer_json(path)
    else:
        spec = _gpt2(path, folder / names[1])
        if _is_roberta(spec["model"]["vocab"]):
            config = {f"{role}_token": token for role, token in ROBERTA.items()} | config
    if not trust:
        for pattern in describe.patterns(spec):
            if reason := patterns.why_not(pattern):
                raise UserError(
                    f"{path} cuts text by a pattern that could take very long: {pattern!r}: {reason}",
                    "load it with trust=True if you trust where it comes from",
                )
    roles = _roles(spec, config, path)
    ours = config.get("idiolect")
    ours = ours if isinstance(ours, dict) else {}
    kind = ours.get("kind") if ours.get("kind") in get_args(Kind) else None
    loses = ours.get("loses", [])
    if not isinstance(loses, list) or not all(isinstance(loss, str) for loss in loses):
        raise damaged(folder / "tokenizer_config.json", "`loses` is no list of texts")
    return spec, roles, kind, tuple(loses), templates.read(folder, config)


def guarded(path: Path, build: Callable[[], T]) -> T:
    """What `build` returns; whatever the native parser throws, panics included, becomes a UserError."""
    try:
        return build()
    except (KeyboardInterrupt, SystemExit, MemoryError, UserError):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        raise damaged(path, f"the library `tokenizers` says: {error}") from None


def damaged(path: Path, problem: str) -> UserError:
    """The error for a tokenizer file that is not what it must be."""
    return UserError(f"{path} is no tokenizer that can be used: {problem}", "restore it from where it came")


def _load(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bearable size."""
    _check_size(path)
    value = files.read_json(path)
    if not isinstance(value, dict):
        raise damaged(path, "it is no JSON object")
    return value


def _check_size(path: Path) -> None:
    if path.stat().st_size > LARGEST_FILE:
        raise damaged(path, f"it is larger than {LARGEST_FILE >> 20} MB")


def _config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, and the older special_tokens_map.json below it."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            merged |= {key: value for key, value in _load(folder / name).items() if value is not None}
    return merged


def _tokenizer_json(path: Path) -> describe.Spec:
    """The content of a tokenizer.json in the library's canonical form."""
    spec = _load(path)
    problem = _problem(spec)
    if problem:
        raise damaged(path, problem)
    spec["truncation"] = spec["padding"] = None  # both would change a text in silence
    spec["model"]["dropout"] = None
    spec = guarded(path, lambda: _canonical(spec))
    if sorted(describe.vocabulary(spec).values()) != list(range(len(describe.vocabulary(spec)))):
        raise damaged(path, "its ids are not 0, 1, 2, … without a gap")
    return spec


def _canonical(spec: describe.Spec) -> describe.Spec:
    import tokenizers

    return json.loads(tokenizers.Tokenizer.from_str(json.dumps(spec, allow_nan=False)).to_str())


def _problem(spec: dict[str, Any]) -> str:
    """What is wrong with a tokenizer.json, before the native parser sees it; empty when nothing is."""
    model = spec.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") not in MODELS:
        return f"its model is none of {', '.join(MODELS)}"
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list) and all(
        isinstance(e, list) and len(e) == 2 and isinstance(e[0], str) and isinstance(e[1], (int, float))
        for e in vocabulary
    ):
        own = {entry[0]: number for number, entry in enumerate(vocabulary)}
        if len(own) != len(vocabulary):
            return "a token comes twice"
    elif isinstance(vocabulary, dict):
        own = vocabulary
    else:
        return "its vocabulary is neither an object nor a list of pairs"
    added = spec.setdefault("added_tokens", [])
    if not isinstance(added, list) or not all(
        isinstance(t, dict) and isinstance(t.get("content"), str) and t["content"] for t in added
    ):
        return "its added tokens are no list of tokens"
    ids = own | {token["content"]: token.get("id") for token in added}
    if any(own.get(token["content"], token.get("id")) != token.get("id") for token in added):
        return "an added token has another id than the vocabulary gives it"
    if not all(type(i) is int for i in ids.values()) or sorted(ids.values()) != list(range(len(ids))):
        return "its ids are not 0, 1, 2, … without a gap"
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if not isinstance(spec.setdefault(part, None), (dict, type(None))):
            return f"its {part} is no object"
    return ""


def _gpt2(vocabulary: Path, merges: Path) -> describe.Spec:
    """The spec of a byte-level BPE from GPT-2's two files."""
    _check_size(merges)
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(merges, str(error)) from None
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    own = _load(vocabulary)
    controls = [*ROBERTA.values()] if _is_roberta(own) else [END] if END in own else []
    spec: describe.Spec = {
        "version": "1.0",
        "added_tokens": [describe.control_token(own[name], name) for name in controls],
        "normalizer": None,
        "pre_tokenizer": describe.byte_level(use_regex=True),
        "post_processor": _between("RobertaProcessing", own, "<s>", "</s>") if _is_roberta(own) else None,
        "decoder": describe.byte_level(use_regex=True),
        "model": {"type": "BPE", "vocab": own, "merges": pairs},
    }
    problem = _problem(spec)
    if problem:
        raise damaged(vocabulary, problem)
    if not all(len(pair) == 2 and all(part in own for part in (*pair, "".join(pair))) for pair in pairs):
        raise damaged(merges, "it merges tokens that the vocabulary lacks")
    return guarded(merges, lambda: _canonical(spec))


def _bert(path: Path, config: dict[str, Any]) -> describe.Spec:
    """The spec of BERT's WordPiece from its list of pieces (Devlin et al. 2019; the defaults are those of its code)."""
    _check_size(path)
    try:
        pieces = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, str(error)) from None
    own = {piece.rstrip("\r"): i for i, piece in enumerate(pieces)}
    roles = {role: _text(config[f"{role}_token"]) or token for role, token in BERT.items()}
    if missing := sorted(set(roles.values()) - own.keys()):
        raise damaged(path, f"it lacks the piece {missing[0]}")
    spec: describe.Spec = {
        "version": "1.0",
        "added_tokens": [describe.control_token(own[name], name) for name in roles.values()],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
            "strip_accents": config.get("strip_accents"),
            "lowercase": config.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _between("BertProcessing", own, roles["cls"], roles["sep"]),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "vocab": own,
            "unk_token": roles["unk"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
    }
    problem = _problem(spec)
    if problem:
        raise damaged(path, problem)
    return guarded(path, lambda: _canonical(spec))


def _is_roberta(own: Any) -> bool:
    return all(token in own for token in ROBERTA.values())


def _between(kind: str, own: dict[str, int], before: str, after: str) -> dict[str, Any]:
    """A post-processor that puts a text between two control tokens."""
    ends = {"cls": [before, own[before]], "sep": [after, own[after]]}
    return {"type": kind, **ends} | ({"trim_offsets": True, "add_prefix_space": False} if kind[0] == "R" else {})


def _text(token: Any) -> str | None:
    """A token of a configuration, which may be written with its flags."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _roles(spec: describe.Spec, config: dict[str, Any], path: Path) -> Roles:
    """Which tokens end, begin and pad; those a foreign tokenizer lacks are added to `spec`."""

    def named(*roles: str) -> str | None:
        for role in roles:
            if token := _text(config.get(role)):
                if token not in ids:
                    raise damaged(path, f"the {role} of its configuration, {token!r}, is not in its vocabulary")
                return token
        return None

    ids = describe.vocabulary(spec)
    special = {token["content"] for token in spec["added_tokens"] if token["special"]}
    end = named("eos_token", "sep_token") or next((name for name in ENDS if name in special), None)
    end = end or add(spec, END)
    begin = named("bos_token", "cls_token") or end
    pad = named("pad_token") or (PAD if PAD in special else None)
    if pad is None or pad in (end, begin):
        pad = add(spec, PAD)
    model = spec["model"]
    unknown = model.get("unk_token")
    if model["type"] == "Unigram" and model.get("unk_id") is not None:
        unknown = model["vocab"][model["unk_id"]][0]
    mask = named("mask_token") or next((name for name in MASKS if name in special), None)
    taken = (end, begin, pad)
    return Roles(
        end,
        begin,
        pad,
        unknown=unknown if unknown in ids and unknown not in taken else None,
        mask=None if mask in taken else mask,
    )


def add(spec: describe.Spec, name: str) -> str:
    """Adds a control token called `name` to `spec`, numbered after all others; a name in use gets a stroke more.

    Returns the name that it got.
    """
    ids = describe.vocabulary(spec)
    while name in ids:
        name = name.replace("|>", "'|>")
    spec["added_tokens"].append(describe.control_token(len(ids), name))
    return name
