"""The parity gate: another program reads what was exported, and both make the same of the same texts.

Compared are the ids of TEXTS, of the tokenizer's own control tokens written out and of a text made of its tokens; the
logits of these ids; the chat templates; and the ids that begin, end and fill texts. Whoever exports hands the written
thing over before it gets its name, so one that differs is never there. Where no other program is installed, the result
says so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from idiolect.adapt.heads import Labelled
from idiolect.errors import Exit, UserError
from idiolect.interop import families
from idiolect.models.build import Model
from idiolect.models.contract import Network
from idiolect.models.encoder import Encoder
from idiolect.tokens import templates
from idiolect.tokens.tokenizer import Tokenizer

TEXTS = (
    "",
    "Hello world",
    "The quick brown fox jumps over the lazy dog. It didn't, they'LL say: WE'RE not 'sure'!",
    "  two spaces before, three   within, a tab\tand lines\n\n\nthen  \n one more   ",
    "def f(x):\n\treturn {'a': x[0] ** 2, \"b\": None}  # 3.14e-10 == 12345678",
    "naïve café, Ångström, déjà vu, façade, ﬁne; e\u0301 is é in two",
    "Привет, мир! Γειά σου Κόσμε. 你好，世界。 こんにちは 안녕하세요 नमस्ते שלום مرحبا",
    "😀 👩‍👩‍👧 🇨🇭 \u00a0\u2003 ½ ² Ⅷ ٣ \x01 \x7f",
    "<s></s><unk><pad><|endoftext|><|im_start|>system<|im_end|>[INST] [CLS] <mask> <0x41> ▁ ## \\n",
)
"""Golden texts: spaces and lines in runs, contractions and numbers, scripts and signs, and what looks like control
tokens."""
OWN = 150
"""Tokens of the text that is made of the tokenizer's own, drawn from all its ids."""
LONGEST = 300
"""Tokens at most of the longest row: all texts, one after the other, for what shows only far from the beginning."""
UNREAD = ("bert.pooler.", "roberta.pooler.", "pooler.")
"""Tensors of another task than the one that a folder is opened for; they have no part in what is compared."""
TOLERANCE = {"transformers": 1e-4, "f32": 1e-4, "f16": 5e-2, "bf16": 2e-1, "q8_0": 4e-1}
"""Of logits, against `transformers` and against llama.cpp with a file whose matrices are f32, …: how far apart (as in
`Apart.share`) rounding may bring two programs that compute the same. Measured in models of up to 24 layers, of weights
so large that errors grow from each to the next: float32 sums in another order are 1e-7 to 2e-5 apart. llama.cpp rounds
what it multiplies to the matrices' kind: 4e-3, 3e-2 and 1e-1, a tenth of it in trained models. (That the matrices are
right is compared number by number.) Rotary positions in a wrong order are 6e-1 to 1 apart."""
TABLE = 2e-3
"""More for models with a GELU, which llama.cpp looks up in a table of f16: 7e-4 apart in these models."""
ROUTED = 1e-1
"""More for mixtures of experts: near the border between two, rounding sends a token to the other one, and its logits
are then anything. One token in a thousand makes 3e-2; in f16, 7e-2 were measured."""


def tolerance_of(model: Network, kind: str) -> float:
    """How far apart logits may be."""
    settings = model.settings
    routed = ROUTED * (getattr(settings, "experts", None) is not None)
    return TOLERANCE[kind] + routed + TABLE * (kind != "transformers" and settings.mlp in ("gelu", "geglu"))


@dataclass(frozen=True)
class Golden:
    """What both programs are asked."""

    texts: tuple[str, ...]
    ids: list[list[int]]
    """What each text is to us."""
    rows: list[list[int]]
    """Ids of which both compute logits; all are ids of the model."""


def golden(model: Model, tokenizer: Tokenizer | None) -> Golden:
    """The texts and rows for a model; without a tokenizer, a row of ids that follow no order."""
    limits = getattr(model, "context", None), getattr(model.settings, "longest_source", None), LONGEST
    context = min(limit for limit in limits if limit is not None)
    if tokenizer is None:
        upper = model.vocabulary - model.vocabulary // 2  # of the ids; the lower ones may steer a model
        return Golden((), [], [[model.vocabulary - 1 - (7 * i * i) % upper for i in range(context)]])
    controls = (tokenizer.begin_id, tokenizer.end_id, tokenizer.pad_id)
    own = tokenizer.decode([(7 * i * i + 3) % tokenizer.size for i in range(OWN)])
    texts = (*TEXTS, " ".join(dict.fromkeys(tokenizer.vocabulary[id_] for id_ in controls)), own)
    ids = [tokenizer.encode(text) for text in texts]
    begin = [tokenizer.begin_id] if tokenizer.begin_id < model.vocabulary else []
    every = [id_ for part in ids for id_ in part]
    rows = [[*begin, *part][:context] for part in (*ids, (every * LONGEST)[:LONGEST])]
    return Golden(texts, ids, [row for row in rows if row])


def differs(what: str) -> NoReturn:
    """Raises the error of a gate that stays shut (exit 8)."""
    mend = "nothing was written; please report it with the model's config.json"
    raise UserError(f"the parity gate is shut: {what}", mend, Exit.CHECK_FAILED)


def same(name: str, ours: Any, theirs: Any, who: str) -> None:
    """The gate stays shut, naming both, unless two values are equal."""
    if ours != theirs:
        differs(f"{name} {theirs!r} to {who}, not {ours!r}")


def same_ids(golden: Golden, theirs: Iterable[Sequence[int]], who: str) -> str:
    """Compares the ids of each text; returns what was compared."""
    for text, mine, other in zip(golden.texts, golden.ids, theirs, strict=True):
        if mine != [*other]:
            at = next((i for i, (a, b) in enumerate(zip(mine, other)) if a != b), min(len(mine), len(other)))
            differs(f"{text!r} is {[*other][at : at + 3]} from token {at} on to {who}, not {mine[at : at + 3]}")
    return f"token ids of {len(golden.texts)} texts"


@dataclass(frozen=True)
class Apart:
    """How far logits are apart."""

    share: float
    """Root mean square of the differences, in shares of that of the logits."""
    largest: float
    """Largest difference of two logits."""
    tolerance: float
    """Of the share."""


def same_logits(
    rows: list[list[int]], ours: Callable[[list[int]], Tensor], theirs: Iterable[Tensor], who: str, tolerance: float
) -> tuple[str, Apart]:
    """(what was compared, how far it is apart). The gate stays shut above the tolerance, naming the worst place.

    ours: ids → logits [T, V] float32; theirs: those of each row, in turn.
    """
    worst, squares, size = (0.0, "all are 0"), 0.0, 0.0
    for number, (row, other) in enumerate(zip(rows, theirs, strict=True)):
        mine = ours(row)
        same("the shape of logits is", [*mine.shape], [*other.shape], who)
        apart = (mine - other).nan_to_num(nan=torch.inf)
        at = int(apart.abs().argmax())
        place = f"row {number}, position {at // mine.shape[-1]}, number {at % mine.shape[-1]}"
        values = f"{other.flatten()[at]:.6g} to {who}, not {mine.flatten()[at]:.6g}"
        worst = max(worst, (float(apart.abs().max()), f"the logit at {place} is {values}"))
        squares, size = squares + float((apart**2).sum()), size + float((mine**2).sum())
    share = math.sqrt(squares / size) if size else math.sqrt(squares)
    if not share <= tolerance:
        differs(f"{worst[1]}; all are {share:.2g} apart, and {tolerance:.2g} is the most that rounding explains")
    return f"logits at {sum(map(len, rows))} positions", Apart(share, worst[0], tolerance)


def passed(who: str, compared: Sequence[str], apart: Apart | None = None) -> dict[str, Any]:
    """What the result of an export says of the gate."""
    found: dict[str, Any] = {"checked_by": who, "compared": [*compared]}
    if apart is not None:
        found |= {"largest_difference": apart.largest, "difference": apart.share, "tolerance": apart.tolerance}
    return found


def not_checked(why: str) -> dict[str, Any]:
    """What the result of an export says where the gate could not be tried."""
    return {"not_checked": why}


def missing(package: str) -> bool:
    """Whether a package cannot be imported."""
    return importlib.util.find_spec(package) is None


@contextlib.contextmanager
def as_float32(model: Network) -> Iterator[Callable[[list[int]], Tensor]]:
    """Ids [T] → what we make of them (see `_forward`), in float32; the weights are kept as before after."""
    kept = next(model.parameters()).dtype

    @torch.no_grad()
    def logits(row: list[int]) -> Tensor:
        return _forward(model, torch.tensor([row]))[0]

    try:
        model.float()
        yield logits
    finally:
        model.to(kept)


def _forward(model: Network, ids: Tensor) -> Tensor:
    """ids [1, T] → logits [1, T, V], or [1, C] of a text's labels; of an encoder without a head its hidden vectors.

    A model of sequence to sequence reads the ids as its source, too.
    """
    whole = cast(Any, model)
    hidden: Tensor = whole.body(ids, ids) if hasattr(model, "encode") else whole.body(ids)
    if isinstance(model, Labelled):
        return model.logits(hidden)
    if isinstance(model, Encoder):
        return hidden if model.settings.head == "none" else model.head(model.transform(hidden))
    return model.head(hidden)


# --- Hugging Face folders -----------------------------------------------------------------------------------------


def check_hf(folder: Path, model: Model, tokenizer: Tokenizer | None, *, exported: bool = False) -> dict[str, Any]:
    """Has `transformers` read a model folder. Raises UserError (exit 8) where it differs from the model.

    exported: the folder is ours, and so nothing in it may be what `transformers` does not know or we did not mean.
    """
    model_type = families.match(model.settings)
    if model_type is None or not isinstance(model, Network):
        return not_checked(f"no other program reads this model of kind {model.settings.kind}")
    if missing("transformers"):
        return not_checked("transformers is not installed (pip install 'idiolect[hf]')")
    if str(folder.resolve()).encode(errors="replace") != os.fsencode(folder.resolve()):
        return not_checked("transformers opens no folder whose path is not UTF-8")
    import transformers

    who, asked = f"transformers {transformers.__version__}", golden(model, tokenizer)
    with _quiet(transformers), _opens(who):
        theirs, found = _opened(transformers, folder)
        readers = {} if tokenizer is None else _readers(transformers, folder, exported)
    for problem in ("missing_keys", "mismatched_keys", *(["unexpected_keys"] if exported else [])):
        if names := [str(name) for name in found[problem] if not str(name).startswith(UNREAD)]:
            differs(f"{problem.replace('_', ' ')} to {who}: {min(names)}")
    compared = [] if tokenizer is None else _same_tokens(asked, tokenizer, readers["named"], who, exported)

    @torch.no_grad()
    def logits(row: list[int]) -> Tensor:
        ids = torch.tensor([row])
        out = theirs(input_ids=ids, **({"decoder_input_ids": ids} if hasattr(model, "encode") else {}))
        return out.logits[0] if hasattr(out, "logits") else out.last_hidden_state[0]

    with as_float32(model) as ours:
        at, apart = same_logits(asked.rows, ours, map(logits, asked.rows), who, tolerance_of(model, "transformers"))
    return passed(who, [*compared, at], apart) | _note(asked, model_type, readers.get("auto"))


def _opened(transformers: Any, folder: Path) -> tuple[Any, Mapping[str, Any]]:
    """(the model in float32, what its reader says of the names of tensors)."""
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    opener = getattr(transformers, config.architectures[0])
    theirs, found = opener.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, use_safetensors=True
    )
    return theirs.eval(), found


def _readers(transformers: Any, folder: Path, exported: bool) -> dict[str, Any]:
    """The tokenizer as the class reads it that the folder names, and as `AutoTokenizer` does, which may take another.

    Other people's folders may name a class that only `AutoTokenizer` finds.
    """
    options = {"local_files_only": True, "trust_remote_code": False}
    auto = transformers.AutoTokenizer.from_pretrained(folder, **options)
    if not exported:
        return {"named": auto}
    return {"named": transformers.PreTrainedTokenizerFast.from_pretrained(folder, **options), "auto": auto}


def _note(asked: Golden, model_type: str, auto: Any) -> dict[str, Any]:
    """What to say when `AutoTokenizer` takes a class of its own for a model type and makes other ids."""
    if auto is None or all(_ids(auto, text) == ids for text, ids in zip(asked.texts, asked.ids, strict=True)):
        return {}
    own = type(auto).__name__
    what = f"AutoTokenizer takes {own} for every folder of type {model_type}, which cuts text otherwise than this one"
    return {"notes": [f"{what}: open it with PreTrainedTokenizerFast.from_pretrained"]}


def _ids(reader: Any, text: str) -> list[int]:
    ids: list[int] = reader(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def _same_tokens(asked: Golden, tokenizer: Tokenizer, reader: Any, who: str, exported: bool) -> list[str]:
    compared = [same_ids(asked, (_ids(reader, text) for text in asked.texts), who)]
    for role, id_ in (("bos", tokenizer.begin_id), ("eos", tokenizer.end_id), ("pad", tokenizer.pad_id)):
        other = getattr(reader, f"{role}_token_id")
        if exported or other is not None:  # we give every tokenizer all three
            same(f"the id of {role.upper()} is", id_, other, who)
    compared.append("BOS, EOS and PAD")
    if tokenizer.templates:
        theirs = reader.chat_template
        theirs = theirs if isinstance(theirs, dict) else {templates.DEFAULT: theirs}
        same("the chat templates are", _lines(tokenizer.templates), _lines(theirs), who)
        compared.append("chat templates")
    return compared


def _lines(chats: Mapping[str, str]) -> dict[str, str]:
    """Templates with the ends of lines that `transformers` makes of all, as the language itself does."""
    return {name: re.sub("\r\n?", "\n", text) for name, text in chats.items()}


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No bars and no advice of `transformers` meanwhile."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


@contextlib.contextmanager
def _opens(who: str) -> Iterator[None]:
    """The gate stays shut when another program cannot open what was written, whatever it says."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        differs(f"{who} cannot open it: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
