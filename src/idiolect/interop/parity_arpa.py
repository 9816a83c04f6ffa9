"""The parity gate of ARPA files: they are read by their words, as the format defines them, not by our reader."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from idiolect.interop import arpa
from idiolect.interop.parity import differs, golden, passed
from idiolect.models.ngram import NGram
from idiolect.tokens.tokenizer import Tokenizer

ROUNDED = 1e-6
"""How far apart log-probabilities may be, in shares of themselves where they are beyond 1: files hold nine digits."""


def check_arpa(path: Path, model: NGram, tokenizer: Tokenizer) -> dict[str, Any]:
    """Reads an ARPA file as its format says, by its words, and scores the texts. Raises UserError (exit 8)."""
    arpa.read_arpa(path)
    asked = golden(model, tokenizer)
    spelled = arpa.spellings(tokenizer, model.symbols)
    sentences = [[arpa.BEGIN, *(spelled[id_] for id_ in ids), arpa.END] for ids in asked.ids]
    entries = _entries(path, sentences, model.settings.order)
    who, worst, count = "the file read by its words", 0.0, 0
    for text, ids, words in zip(asked.texts, asked.ids, sentences, strict=True):
        row = torch.tensor([[model.symbols.begin, *ids, model.symbols.end]])
        ours = model.score(row)[0, 1:].tolist()
        for i, (mine, word) in enumerate(zip(ours, words[1:], strict=True), start=1):
            theirs = _backed_off(entries, tuple(words[max(0, i - model.settings.order + 1) : i]), word)
            if mine == theirs:
                continue
            apart = abs(mine - theirs)
            if not apart <= ROUNDED * max(1.0, abs(mine)):
                differs(f"{word!r} at place {i} of {text!r} has log-probability {theirs:.9g} to {who}, not {mine:.9g}")
            worst = max(worst, apart)
        count += len(ours)
    return passed(who, [f"log-probabilities of {count} words"]) | {"largest_difference": worst, "tolerance": ROUNDED}


def _entries(path: Path, sentences: list[list[str]], order: int) -> dict[tuple[str, ...], tuple[float, float]]:
    """(log10 probability, log10 backoff) of every n-gram in the sentences that the file has."""
    spans = ((words, i, i + n) for words in sentences for n in range(1, order + 1) for i in range(len(words) - n + 1))
    wanted = {tuple(words[start:end]) for words, start, end in spans}
    found = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            score, *rest = line.rstrip("\n").split("\t")
            if rest and (gram := tuple(rest[0].split(" "))) in wanted:
                found[gram] = float(score), float(rest[1]) if len(rest) > 1 else 0.0
    return found


def _backed_off(entries: dict[tuple[str, ...], tuple[float, float]], context: tuple[str, ...], word: str) -> float:
    """Katz 1987: log p(word | context) is the n-gram's, or the context's backoff weight plus that of a shorter one."""
    score = 0.0
    while (*context, word) not in entries:
        if not context:
            return -math.inf
        score += entries.get(context, (0.0, 0.0))[1]
        context = context[1:]
    return (score + entries[(*context, word)][0]) * math.log(10)
