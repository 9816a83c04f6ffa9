"""`tokenizer train`, `encode` and `decode`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from idiolect import files
from idiolect.errors import UserError
from idiolect.text.corpus import Corpus
from idiolect.tokens.folder import locate
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer


def train_tokenizer(text: Sequence[Path | str], out: Path | str, settings: TokenizerSettings) -> dict[str, Any]:
    """Learns a tokenizer from files of text and writes it to the new folder `out`; returns what it is.

    "sample_bytes" is there when `settings.sample` left out a part of the text: how much was learnt from.

    Raises UserError for what `text.read` and `learn.train` refuse, when `out` exists, and (exit 4) when it cannot be
    written; then nothing of it remains.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists already", "name a folder that does not, or remove it first")
    read = {"documents": 0, "bytes": 0}

    def texts() -> Iterator[str]:
        for document in Corpus(text):
            read["documents"] += document.last
            read["bytes"] += len(document.text.encode())
            yield document.text

    learnt: dict[str, int] = {}
    tokenizer = train(texts(), settings, sampled=lambda bytes_, _: learnt.update(sample_bytes=bytes_))
    with files.new_folder(out, kind="tokenizer", fingerprint=tokenizer.fingerprint) as folder:
        tokenizer.save(folder)
    return {
        "tokenizer": str(out),
        "kind": tokenizer.kind,
        "size": tokenizer.size,
        "loses": list(tokenizer.loses),
        **read,
        **learnt,
        "fingerprint": tokenizer.fingerprint,
    }


def encode(tokenizer: Path | str, text: str) -> dict[str, Any]:
    """A text's ids, the token each stands for, and the share of its words that the vocabulary lacks."""
    loaded = Tokenizer.load(locate(Path(tokenizer)))
    ids = loaded.encode(text)
    return {"ids": ids, "tokens": loaded.pieces(ids), "oov_rate": loaded.oov_rate(text)}


def decode(tokenizer: Path | str, ids: Sequence[int]) -> str:
    """The text of ids. Raises UserError for an id the tokenizer does not have."""
    return Tokenizer.load(locate(Path(tokenizer))).decode(ids)
