r"""ARPA files: backoff n-gram models as KenLM and SRILM read and write them.

    \data\
    ngram 1=13771
    \1-grams:
    log10 p(w) <tab> w <tab> log10 backoff(w)
    \2-grams: …
    \end\

<s> begins a text and is only a context, </s> ends it, <unk> is the tokenizer's unknown token. A piece that holds
whitespace, a backslash or an unprintable character, or that is one of these names, is written with \x20; for the
character of code 20 (hexadecimal); one that is empty or spelt like an earlier one gets \# and its id at the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch

from idiolect import files
from idiolect.errors import UserError
from idiolect.interop.rows import Check, Config, unchecked
from idiolect.models.ngram import NGram
from idiolect.models.ngram_counts import Symbols, Trie
from idiolect.models.ngram_smoothing import BackoffTable
from idiolect.models.settings import NGramSettings
from idiolect.tokens.roles import END as END_OF_TEXT
from idiolect.tokens.roles import PAD

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0
"""log10 of what never happens: the probability of <s>, and of <unk> where there is no unknown token."""
UNKNOWN_ID = 2
"""Where the word tokenizer has its unknown token."""
LONGEST_LINE = 1 << 16
"""Bytes; a longer line is no line of an ARPA file."""
HIGHEST_ORDER = 32
"""As in NGramSettings."""


class Pieces(Protocol):
    """What is asked of a tokenizer."""

    unknown_id: int | None

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each id as text of its own."""
        ...


def write_arpa(model: NGram, tokenizer: Pieces, path: Path, check: Check = unchecked) -> Config:
    """Writes a Kneser-Ney model, or one that was read from an ARPA file, to `path`, atomically.

    Returns what `check` does, which reads the file before it has its name; what it raises leaves nothing behind.
    UserError for another smoothing, whose probabilities no backoff weights express.
    """
    if not isinstance(model.table, BackoffTable) or model.settings.smoothing not in ("kneser-ney", "arpa"):
        what = f"an ARPA file cannot hold a model with smoothing {model.settings.smoothing}"
        raise UserError(what, "train one with smoothing = kneser-ney")
    lines = _lines(model.table, spellings(tokenizer, model.symbols), tokenizer.unknown_id)
    with files.new_file(path) as temporary:
        files.write_new(temporary, "\n".join(lines).encode())
        return check(temporary)


def _lines(table: BackoffTable, spellings: list[str], unknown: int | None) -> Iterator[str]:
    trie, symbols = table.trie, table.trie.symbols
    scores = [np.minimum(values, 0.0) / math.log(10) for values in table.weights.scores]
    backoffs = [values / math.log(10) for values in table.weights.backoffs] + [np.zeros(0)]
    unigrams = list(_unigrams(scores[0], backoffs[0], spellings, symbols, unknown))
    yield "\\data\\"
    yield f"ngram 1={len(unigrams)}"
    yield from (f"ngram {order}={trie.nodes(order)}" for order in range(2, trie.order + 1))
    yield "\n\\1-grams:"
    yield from unigrams
    texts = list(spellings)
    texts[symbols.begin] = BEGIN
    endings = list(spellings)
    endings[symbols.end] = END
    for order in range(2, trie.order + 1):
        parent, token = trie.split(order)
        texts = [f"{texts[p]} {endings[w]}" for p, w in zip(parent.tolist(), token.tolist())]
        yield f"\n\\{order}-grams:"
        if order == trie.order:
            yield from (f"{p:.9g}\t{text}" for p, text in zip(scores[order - 1].tolist(), texts))
        else:
            values = zip(scores[order - 1].tolist(), texts, backoffs[order - 1].tolist())
            yield from (f"{p:.9g}\t{text}\t{weight:.9g}" for p, text, weight in values)
    yield "\n\\end\\\n"


def _unigrams(
    scores: np.ndarray, backoffs: np.ndarray, spellings: list[str], symbols: Symbols, unknown: int | None
) -> Iterator[str]:
    """In the order of the ids; those without probability are left out."""
    weights = backoffs.tolist() or [0.0] * len(spellings)
    if unknown is None:
        yield f"{NEVER:g}\t{UNKNOWN}\t0"  # readers want the name
    yield f"{NEVER:g}\t{BEGIN}\t{weights[symbols.begin]:.9g}"
    for token, score in enumerate(scores.tolist()):
        if token == symbols.end:
            yield f"{score:.9g}\t{END}\t0"
        elif score > -math.inf:
            yield f"{score:.9g}\t{spellings[token]}\t{weights[token]:.9g}"


def spellings(tokenizer: Pieces, symbols: Symbols) -> list[str]:
    """A different word without whitespace for every id."""
    taken: set[str] = set()
    out = []
    for token, piece in enumerate(tokenizer.pieces(range(symbols.vocabulary))):
        word = UNKNOWN if token == tokenizer.unknown_id else escape(piece)
        if not word or word in taken:
            word = f"{word}\\#{token}"
        taken.add(word)
        out.append(word)
    return out


def escape(piece: str) -> str:
    """`piece` as one word of an ARPA file."""
    if piece.lower() in (BEGIN, END, UNKNOWN):
        return f"\\x{ord(piece[0]):x};{piece[1:]}"
    plain = (c.isprintable() and not c.isspace() and c != "\\" for c in piece)
    return "".join(c if keep else f"\\x{ord(c):x};" for c, keep in zip(piece, plain))


def unescape(word: str) -> str:
    """The piece that `escape` made `word` of."""
    return re.sub(r"\\x([0-9a-f]{1,6});", _character, re.sub(r"\\#\d+$", "", word))


def _character(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    return chr(code) if code <= 0x10FFFF else found[0]


def read_arpa(path: Path) -> tuple[NGram, list[str]]:
    """The model of an ARPA file, and the text of each of its ids.

    Ids follow the order of the file's words, after 0 for <s> and </s>, 1 for padding, which the file has not, and 2 for
    <unk>, wherever it stands; an <unk> that never happens is left out. Raises UserError with the file's line for
    whatever is no ARPA file.
    """
    try:
        with path.open("rb") as file:
            reader = _Reader(path, file)
            counts = reader.header()
            scores, backoffs = reader.unigrams(counts[0])
            symbols = Symbols(len(reader.pieces), begin=0, end=0, pad=1)
            trie, tensors = Trie(symbols, ()), {"scores.1": scores, "backoffs.1": backoffs}
            for order, count in enumerate(counts[1:], start=2):
                keys, tensors[f"scores.{order}"], tensors[f"backoffs.{order}"] = reader.section(order, count, trie)
                trie = Trie(symbols, (*trie.keys, keys))
                tensors[f"keys.{order}"] = keys
            reader.expect(b"\\end\\")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None
    settings = NGramSettings(order=trie.order, smoothing="arpa")
    stored = {name: torch.from_numpy(array) for name, array in tensors.items() if name != f"backoffs.{trie.order}"}
    return NGram.from_tensors(settings, symbols.vocabulary, stored, begin_id=0, end_id=0, pad_id=1), reader.pieces


class _Reader:
    """Reads one file from top to bottom."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.number = path, file, 0
        self.pieces = [END_OF_TEXT, PAD]
        self.ids = {BEGIN.encode(): -1, END.encode(): 0}  # both are id 0 in the model

    def wrong(self, what: str) -> UserError:
        """An error that names the file and the line."""
        return UserError(f"{self.path}:{self.number}: {what}", "check that it is a whole, uncompressed ARPA file")

    def line(self) -> bytes:
        """The next line that is not blank, without the whitespace at its ends."""
        while raw := self.file.readline(LONGEST_LINE):
            self.number += 1
            if text := raw.strip():
                return text
        raise self.wrong("the file ends early")

    def expect(self, text: bytes) -> None:
        """Reads one line, which must be `text`."""
        if (found := self.line()) != text:
            raise self.wrong(f'"{text.decode()}" was expected, not {found[:40]!r}')

    def header(self) -> list[int]:
        """How many n-grams of each order follow."""
        counts: list[int] = []
        while self.line() != b"\\data\\":
            pass
        while (text := self.line()) != b"\\1-grams:":
            if not (found := re.fullmatch(rb"ngram (\d+) ?= ?(\d{1,12})", text)) or int(found[1]) != len(counts) + 1:
                raise self.wrong(f'"ngram {len(counts) + 1}=…" was expected, not {text[:40]!r}')
            counts.append(int(found[2]))
        if not 1 <= len(counts) <= HIGHEST_ORDER:
            raise self.wrong(f"orders 1 to {HIGHEST_ORDER} can be read, not {len(counts)}")
        return counts

    def entry(self, order: int) -> tuple[float, list[bytes], float]:
        """(log-probability, words, backoff weight) of one line, natural logarithms."""
        score, *words = self.line().split()
        try:
            weight = float(words.pop()) if len(words) == order + 1 else 0.0
            values = float(score), weight
        except ValueError:
            raise self.wrong("a number was expected") from None
        if len(words) != order or not math.isfinite(values[0] + values[1]) or values[0] > 0:
            raise self.wrong(f"a log-probability, {order} words and a weight were expected")
        return values[0] * math.log(10), words, values[1] * math.log(10)

    def unigrams(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The scores and backoff weights of the words, float64 [V] each; names the words."""
        scores, backoffs = [-math.inf] * 2, [0.0] * 2
        seen = set()
        for _ in range(count):
            score, (word,), weight = self.entry(1)
            if word in seen:
                raise self.wrong(f"{word!r} stands here a second time")
            seen.add(word)
            if word == BEGIN.encode():
                backoffs[0] = weight
            elif word == END.encode():
                scores[0] = score
            elif word != UNKNOWN.encode() or score > NEVER * math.log(10):
                self.ids[word] = len(self.pieces)
                self.pieces.append(self.text(word))
                scores.append(score)
                backoffs.append(weight)
        if (at := self.ids.get(UNKNOWN.encode(), 0)) > UNKNOWN_ID:
            columns: tuple[list[Any], ...] = (self.pieces, scores, backoffs)
            for column in columns:
                column.insert(UNKNOWN_ID, column.pop(at))
            moved = {at: UNKNOWN_ID, **{other: other + 1 for other in range(UNKNOWN_ID, at)}}
            self.ids = {word: moved.get(id_, id_) for word, id_ in self.ids.items()}
        return np.array(scores), np.array(backoffs)

    def text(self, word: bytes) -> str:
        """The piece that a word stands for."""
        try:
            return unescape(word.decode("utf-8"))
        except UnicodeDecodeError:
            raise self.wrong(f"{word!r} is not UTF-8") from None

    def section(self, order: int, count: int, trie: Trie) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(sorted keys, scores, backoff weights) of the n-grams of one order above 1, [count] each."""
        self.expect(b"\\%d-grams:" % order)
        scores, backoffs, grams = [], [], []
        for _ in range(count):
            score, words, weight = self.entry(order)
            scores.append(score)
            backoffs.append(weight)
            try:
                grams.append([self.ids[word] for word in words])
            except KeyError as error:
                raise self.wrong(f"{error.args[0]!r} is not among the unigrams") from None
        ids = np.array(grams, dtype=np.int64).reshape(-1, order)
        if (ids[:, 1:] < 0).any() or (ids[:, :-1] == 0).any():
            raise self.wrong(f"<s> does not come first, or </s> not last, in some {order}-gram")
        ids = np.maximum(ids, 0)
        parents = ids[:, 0]
        for k in range(2, order):
            parents = trie.find(k, parents, ids[:, k - 1])
        keys = parents * trie.symbols.vocabulary + ids[:, -1]
        by_key = np.argsort(keys)
        if (parents < 0).any():
            raise self.wrong(f"the first {order - 1} words of some {order}-gram are no {order - 1}-gram of the file")
        if (np.diff(keys[by_key]) == 0).any():
            raise self.wrong(f"some {order}-gram stands here twice")
        return keys[by_key], np.array(scores, dtype=np.float64)[by_key], np.array(backoffs, dtype=np.float64)[by_key]
