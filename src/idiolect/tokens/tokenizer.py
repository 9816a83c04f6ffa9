"""A tokenizer: text to ids and back. The library `tokenizers` does the work; tokenizer.json is its whole content."""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers

from idiolect import files
from idiolect.errors import UserError
from idiolect.tokens import bytepairs, describe, folder, tables, templates
from idiolect.tokens.roles import MASK, SENTINEL, Roles
from idiolect.tokens.stream import TextStream

T = TypeVar("T")

STRETCH = 1 << 16
"""Characters after which a long text is cut for encoding, where that cannot change its tokens."""
AT_ONCE = 1 << 21
"""Characters handed to the library at once; its memory grows with them, its threads share them."""
_CUTS = {"anywhere": re.compile(""), "words": re.compile(r"(?<=\S\n)(?=\w)|(?<=\S)(?= \w)")}


def stretches(text: str, cut: str) -> Iterator[str]:
    """The text in stretches of about STRETCH characters, cut where `cut` (see `describe.may_cut`) allows it."""
    start = 0
    place = _CUTS.get(cut)
    while place and len(text) - start > STRETCH and (found := place.search(text, start + STRETCH)):
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


def _asked(act: Callable[[], T]) -> T:
    """What the library answers; its refusals, panics included, become a UserError (half a surrogate is a TypeError)."""
    try:
        return act()
    except (TypeError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        raise UserError(
            f"this tokenizer cannot do that: {error}", "use a tokenizer that knows a token for it"
        ) from None


class Tokenizer:
    """Text to ids and back.

    What a user writes never becomes a control token, whatever it looks like.
    """

    kind: str
    """word, char, byte, bpe, wordpiece or unigram."""
    lossless: bool
    """decode(encode(text)) == text for every text."""
    loses: tuple[str, ...]
    """What of a text does not come back, in words."""
    size: int
    """V, the number of ids, special ones included."""
    end_id: int
    """Ends a document."""
    begin_id: int
    """Begins a document; the same id as `end_id` in the tokenizers we learn."""
    pad_id: int
    """Fills rows; never the same id as `end_id`."""
    unknown_id: int | None
    """Stands for what the vocabulary lacks; None when nothing is ever lacking."""
    mask_id: int | None
    """Hides a token that a model is to fill in; None when there is no such token (see `with_mask`)."""

    def __init__(self, spec: describe.Spec, roles: Roles, kind: str | None = None, loses: Sequence[str] = ()) -> None:
        """spec: the content of a tokenizer.json, checked (see `tokens.folder`). loses: losses declared beside it."""
        self._native = tokenizers.Tokenizer.from_str(json.dumps(spec))
        self._native.no_padding()
        self._native.no_truncation()
        self._native.encode_special_tokens = True  # a control token's text in a text is text
        self._spec: describe.Spec = json.loads(self._native.to_str())
        self._roles = roles
        self.kind = kind or describe.kind_of(self._spec)
        self.loses = tuple(dict.fromkeys((*loses, *describe.losses(self._spec))))
        self.lossless = not self.loses
        ids = describe.vocabulary(self._spec)
        self.vocabulary: list[str] = sorted(ids, key=ids.__getitem__)
        """Each id's token as tokenizer.json spells it."""
        self.size = len(ids)
        self.end_id, self.begin_id, self.pad_id = ids[roles.end], ids[roles.begin], ids[roles.pad]
        self.unknown_id = None if roles.unknown is None else ids[roles.unknown]
        self.mask_id = None if roles.mask is None else ids[roles.mask]
        special = {token["id"] for token in self._spec["added_tokens"] if token["special"]}
        special |= {self.end_id, self.begin_id, self.pad_id} | ({self.mask_id} - {None})
        self._control = np.zeros(self.size, dtype=bool)  # [V]
        self._control[list(special - {self.unknown_id})] = True
        self._hidden = self._control.copy()  # [V] ids that decode to nothing
        if self.unknown_id is not None:
            self._hidden[self.unknown_id] = True
        table = describe.token_bytes(self._spec)
        self._bytes = table and [b"" if hide else b for b, hide in zip(table, self._hidden.tolist(), strict=True)]
        self._cut = describe.may_cut(self._spec)
        self._frame = describe.frame(self._spec) or ([self.begin_id], [])
        self.templates: dict[str, str] = {}
        """Chat templates that came with it, by name; `chat` runs them."""
        self.answer_ends: tuple[int, ...] = ()
        """Control tokens that end an answer besides `end_id`."""
        canonical = json.dumps(self._spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
        """SHA-256 of tokenizer.json in canonical form."""

    @property
    def spec(self) -> describe.Spec:
        """The content of tokenizer.json; not to be changed."""
        return self._spec

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies are built anew: the library's own copy would forget that control tokens in a text are text."""
        return (
            Tokenizer,
            (self._spec, self._roles, self.kind, self.loses),
            {"templates": self.templates, "answer_ends": self.answer_ends},
        )

    @property
    def names(self) -> dict[str, str]:
        """The control tokens as `transformers` calls and spells them."""
        found: dict[str, str | None]
        found = {"bos": self._roles.begin, "eos": self._roles.end, "pad": self._roles.pad}
        found |= {"unk": self._roles.unknown, "mask": self._roles.mask}
        return {f"{name}_token": token for name, token in found.items() if token is not None}

    def respecified(self, spec: describe.Spec, roles: Roles | None = None) -> Tokenizer:
        """A tokenizer of another content, with all else that this one has."""
        made = Tokenizer(spec, roles or self._roles, self.kind, self.loses)
        made.templates, made.answer_ends = self.templates, self.answer_ends
        return made

    def with_mask(self) -> Tokenizer:
        """This tokenizer, or where it has no mask token, one that has it after all other ids."""
        if self.mask_id is not None:
            return self
        spec = copy.deepcopy(self._spec)
        return self.respecified(spec, replace(self._roles, mask=folder.add(spec, MASK)))

    def with_sentinels(self, n: int) -> Tokenizer:
        """This tokenizer, or where it has fewer sentinels, one that has n, the new ones after all other ids."""
        return self.with_controls([SENTINEL.format(number) for number in range(len(self.sentinels), n)])

    def with_controls(self, names: Sequence[str]) -> Tokenizer:
        """This tokenizer with further control tokens after all other ids; itself when there are none to add."""
        if not names:
            return self
        spec = copy.deepcopy(self._spec)
        for name in names:
            folder.add(spec, name)
        return self.respecified(spec)

    @functools.cached_property
    def sentinels(self) -> np.ndarray:
        """The ids that stand for spans left out of a text, in the order in which they are used, int64 [n]."""
        special = {token["content"]: token["id"] for token in self._spec["added_tokens"] if token["special"]}
        found = itertools.takewhile(special.__contains__, map(SENTINEL.format, itertools.count()))
        return np.array([special[name] for name in found], dtype=np.int64)

    def framed(self, ids: Sequence[int]) -> list[int]:
        """The ids of a text between what marks its ends for a model that reads it whole, such as [CLS] and [SEP].

        What that is, the tokenizer's own post-processor says; where it has none, the text begins with `begin_id`.
        """
        before, after = self._frame
        return [*before, *ids, *after]

    @functools.cached_property
    def content(self) -> np.ndarray:
        """Whether each id stands for text, bool [V]: it is no control token, and not the unknown one."""
        return ~self._hidden

    @functools.cached_property
    def joins(self) -> np.ndarray:
        """Whether each id can go on a word, and whether a word can go on after it, bool [2, V].

        A token goes on with the word before it where both are so; see `describe.joins`.
        """
        return np.array(describe.joins(self._spec, self._bytes)).T & self.content

    def encode(self, text: str) -> list[int]:
        """The ids of a text, none of them a control token. Raises UserError for half a surrogate pair."""
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, uint32 [T], computed by all cores; long texts are shared among them too."""
        encode = self._way(sum(map(len, texts)))
        parts, counts = [np.empty(0, dtype=np.uint32)], np.zeros(len(texts), dtype=np.int64)
        for rows, group in self._groups(texts):
            try:
                ids, lengths = encode(group)
            except (TypeError, UnicodeEncodeError):
                raise UserError(
                    "the text holds half of a surrogate pair, which no UTF-8 text can", "remove it from the text"
                ) from None
            parts.append(ids)
            np.add.at(counts, rows, lengths)
        ids, ends = np.concatenate(parts), np.cumsum(counts).tolist()
        found = [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        if any(self._control[part].any() for part in parts):
            found = [self._as_content(row) for row in found]
        return found

    def _way(self, characters: int) -> tables.Encode:
        """How a text of that length is encoded soonest; the ids are the library's in every way."""
        if self._table:
            return self._table
        pairs = self._pairs if characters >= bytepairs.WORTH else None
        return pairs.encode if pairs else self._by_library

    @functools.cached_property
    def _table(self) -> tables.Encode | None:
        return tables.encoder(self._spec)

    @functools.cached_property
    def _pairs(self) -> bytepairs.Encoder | None:
        return bytepairs.encoder(self._spec)

    def _by_library(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        encodings = _asked(lambda: self._native.encode_batch_fast(texts, add_special_tokens=False))
        rows = [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
        return np.concatenate([*rows, np.empty(0, dtype=np.uint32)]), np.array([*map(len, rows)], dtype=np.int64)

    def _groups(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
        """Stretches in groups of about AT_ONCE characters, and the number of the text that each is of."""
        rows: list[int] = []
        group: list[str] = []
        length = 0
        for row, text in enumerate(texts):
            for stretch in stretches(text, self._cut) if len(text) > STRETCH else (text,):
                rows.append(row)
                group.append(stretch)
                length += len(stretch)
                if length >= AT_ONCE:
                    yield rows, group
                    rows, group, length = [], [], 0
        yield rows, group

    def _as_content(self, ids: np.ndarray) -> np.ndarray:
        """ids [T] in which the control tokens that a text spelled out whole are spelled by other tokens.

        The library cuts no control token out of a text, but its model may still find one among its pieces.
        """
        if not self._control[ids].any():
            return ids
        out = [self._spelled(i) if self._control[i] else [i] for i in ids.tolist()]
        return np.array([i for part in out for i in part], dtype=np.uint32)

    def _spelled(self, control: int) -> list[int]:
        """The text of a control token in tokens that steer nothing."""
        if self.kind not in ("word", "wordpiece"):
            tokenize = self._native.model.tokenize
            spelled = _asked(lambda: [t.id for character in self.vocabulary[control] for t in tokenize(character)])
            if not self._control[spelled].any():
                return spelled
        return [] if self.unknown_id is None else [self.unknown_id]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids; special ids are left out, bytes that are no UTF-8 become U+FFFD. Raises UserError."""
        array = self._checked(ids)
        if self._bytes is not None:
            return b"".join(map(self._bytes.__getitem__, array.tolist())).decode("utf-8", "replace")
        return _asked(lambda: self._native.decode(array[~self._hidden[array]].tolist()))

    def _checked(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """ids as int64 [T]. Raises UserError for one that is no id of this tokenizer."""
        try:
            array = np.asarray(ids, dtype=np.int64).reshape(-1)
            if not array.size or 0 <= int(array.min()) <= int(array.max()) < self.size:
                return array
        except OverflowError:  # an id beyond 64 bits
            pass
        wrong = next(i for i in ids if not 0 <= i < self.size)
        raise UserError(f"{wrong} is no id of this tokenizer", f"give ids from 0 to {self.size - 1}")

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Each id as text of its own: pieces of characters as `\\xe6`, special and `##` tokens by their names."""
        if self._bytes is None:
            return [self.vocabulary[i] for i in ids]
        return [
            self.vocabulary[i] if self._hidden[i] else self._bytes[i].decode("utf-8", "backslashreplace") for i in ids
        ]

    def normalise(self, text: str) -> str:
        """What comes back of a text: the text itself when the tokenizer is lossless."""
        return text if self.lossless else self.decode(self.encode(text))

    def oov_rate(self, text: str) -> float:
        """The share of a text's words that the vocabulary lacks, 0 to 1; words as this tokenizer cuts them."""
        if self.unknown_id is None:
            return 0.0
        words = unknown = 0
        for stretch in stretches(text, self._cut):
            encoding = _asked(partial(self._native.encode, stretch, add_special_tokens=False))
            words += len(set(encoding.word_ids))
            unknown += encoding.ids.count(self.unknown_id)
        return unknown / words if words else 0.0

    def token_bytes(self) -> np.ndarray | None:
        """Bytes of text that each id stands for, int64 [V]; None when the tokenizer is lossy."""
        if self._bytes is None or not self.lossless:
            return None
        return np.array([len(b) for b in self._bytes], dtype=np.int64)

    def bytes_of(self, id_: int) -> bytes | None:
        """The bytes of text one id stands for; None when that depends on its neighbours."""
        return None if self._bytes is None else self._bytes[id_]

    def stream(self) -> TextStream:
        """A stream that turns ids into text as they come."""
        return TextStream(self)

    def save(self, path: Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and chat templates to a folder; `transformers` opens them.

        Raises UserError (exit 4) when the disk refuses.
        """
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self.names,
            "clean_up_tokenization_spaces": False,
            "idiolect": {"kind": self.kind, "loses": list(self.loses)},
        }
        files.write_text(path / "tokenizer.json", json.dumps(self._spec, ensure_ascii=False, indent=1) + "\n")
        files.write_json(path / "tokenizer_config.json", config)
        templates.write(path, self.templates)

    @staticmethod
    def load(path: Path, trust: bool = False) -> Tokenizer:
        """The tokenizer in a folder, ours or another's, checked; trust accepts patterns that may take very long.

        Raises UserError for what `tokens.folder.read` refuses.
        """
        spec, roles, kind, loses, chats = folder.read(path, trust=trust)
        made = folder.guarded(path, lambda: Tokenizer(spec, roles, kind, loses))
        made.templates = chats
        return made
