"""Log-probability, perplexity and bits per byte: of one text, and of held-out text.

n tokens w1 … wn, of m bytes of original text.

    log P(w) = Σ_t log p(w_t | w_<t)                       nats, the chain rule
    perplexity = P(w)^(-1/n) = exp(-log P(w) / n)          from 1 (certain) to infinity; V when all of V are as likely
    bits per byte = -log P(w) / (m ln 2)                   comparable whatever the tokenizer

A text is read after begin-of-text, so that its first token counts too. `score_text` adds no end-of-text: what a user
gives need not be over. `evaluate` scores whole documents, each with the end-of-text after it. Both hold in every
family. A probability of zero makes log P minus infinity and the others infinity; nothing is left out to avoid it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from idiolect.data.batch import IGNORE, Batch, bits_per_byte
from idiolect.data.padding import shifted
from idiolect.data.windows import windows
from idiolect.errors import UserError
from idiolect.models.contract import LanguageModel
from idiolect.tokens.tokenizer import Tokenizer

WHOLE = 1 << 16
"""Tokens that a model without a limit reads at once."""
OVERLAP = 1 << 8
"""Tokens that its windows overlap by; more than any n-gram looks back."""
ROWS = 1 << 12
"""Positions scored at once (at least one window): enough for the products, and less memory than a step of training."""


@dataclass(frozen=True)
class Score:
    """What a model makes of one text."""

    logprob: float
    """log P of the scored tokens, nats."""
    ids: tuple[int, ...]
    """All tokens of the text."""
    logprobs: tuple[float, ...]
    """log p of each scored token, nats."""
    tokens: int
    """Tokens that were scored: all, or all but the first."""
    bytes: int
    """UTF-8 bytes of the original text that they stand for."""
    first_scored: bool
    """Whether the first token is scored; False when the model has nothing to begin a text with."""
    perplexity: float | None
    """None when the model's scores are not probabilities."""
    bits_per_byte: float | None
    """None when the scores are not probabilities, or the tokenizer loses part of this text."""
    context: int
    """Tokens in a window."""
    stride: int
    """Tokens between the beginnings of two windows; equal to the context when they do not overlap."""
    windows: int
    """How many windows the text took."""
    reason: str | None
    """Why a number is missing."""

    def json(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return {key: finite(value) for key, value in vars(self).items()} | {"logprobs": [*map(finite, self.logprobs)]}


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of held-out text."""

    nats: float
    """-log P of all labels."""
    tokens: int
    """Labels: tokens, and one end-of-text a document."""
    bytes: int | None
    """UTF-8 bytes of the original text."""
    loss: float
    """nats / tokens."""
    perplexity: float
    bits_per_byte: float | None
    """None when the tokenizer loses part of the text, or its bytes are not known."""
    impossible: int
    """Labels that the model gave probability zero; with one or more, the numbers above are infinite."""
    reason: str | None
    """Why bits_per_byte is missing."""

    def json(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return {key: finite(value) for key, value in vars(self).items()}


def finite(value: Any) -> Any:
    """`value`, or the text "Infinity" or "-Infinity", since JSON has no number for them; float() reads both."""
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def perplexity(nats: float, tokens: int) -> float:
    """exp(nats / tokens); infinite where that is no longer a float."""
    try:
        return math.exp(nats / tokens)
    except OverflowError:
        return math.inf


def window_of(model: LanguageModel, stride: int | None = None) -> tuple[int, int]:
    """(context, stride): how the model reads a text that may be longer than it can hold.

    Windows of its context that do not overlap, unless a stride is given; a recurrent model's context is the window it
    was trained in. A model without any (n-gram) reads WHOLE tokens at once with an overlap that makes the cuts
    invisible to it. Raises UserError for a stride outside 1 … context.
    """
    limit = model.context or getattr(model.settings, "context", None)
    context = limit or WHOLE
    stride = stride if stride is not None else context if limit else WHOLE - OVERLAP
    if not 1 <= stride <= context:
        raise UserError(f"a stride of {stride} skips part of the text", f"use a stride between 1 and {context}")
    return context, stride


def unnormalised(model: LanguageModel, what: str) -> str | None:
    """Why `what` does not exist for this model; None when it does."""
    if model.normalised:
        return None
    kind = getattr(model.settings, "smoothing", None) or getattr(model.settings, "kind", type(model).__name__)
    return f"the scores of {kind} are not probabilities (they do not sum to 1), so {what} would mean nothing"


def lossy(tokenizer: Tokenizer) -> str | None:
    """Why bits per byte do not exist under this tokenizer; None when they do."""
    if tokenizer.lossless:
        return None
    return (
        f"the {tokenizer.kind} tokenizer loses {', '.join(tokenizer.loses)}, so its tokens do not stand for all bytes"
    )


def score_text(model: LanguageModel, tokenizer: Tokenizer, text: str, *, stride: int | None = None) -> Score:
    """Scores one text, token by token.

    Longer texts are read in windows of the context; with a stride below it they overlap, and each token is scored
    once, in the first window that holds it. Raises UserError when there is no token to score.
    """
    ids = tokenizer.encode(text)
    begun = tokenizer.begin_id < model.vocabulary  # a foreign model may have nothing that begins a text
    fed = np.array([tokenizer.begin_id, *ids] if begun else ids, dtype=np.int64)
    if len(fed) < 2:
        raise UserError("there is no token to score", "give a text" if not ids else "give a longer text")
    context, stride = window_of(model, stride)
    logprobs, count = _logprobs(model, fed, context, stride, tokenizer.pad_id)
    bytes_ = len(text.encode("utf-8"))
    why_not_bytes = None if tokenizer.lossless or tokenizer.normalise(text) == text else lossy(tokenizer)
    if not begun and why_not_bytes is None:
        stands_for = tokenizer.token_bytes()
        bytes_ -= int(stands_for[ids[0]]) if stands_for is not None else 0
    refused = unnormalised(model, "perplexity and bits per byte")
    logprob = math.fsum(logprobs)
    return Score(
        logprob=logprob,
        ids=tuple(ids),
        logprobs=tuple(logprobs.tolist()),
        tokens=len(logprobs),
        bytes=bytes_,
        first_scored=begun,
        perplexity=None if refused else perplexity(-logprob, len(logprobs)),
        bits_per_byte=None if refused or why_not_bytes or not bytes_ else bits_per_byte(-logprob, bytes_),
        context=context,
        stride=stride,
        windows=count,
        reason=refused or why_not_bytes,
    )


def _logprobs(model: LanguageModel, fed: np.ndarray, context: int, stride: int, pad_id: int) -> tuple[np.ndarray, int]:
    """log p(fed[i] | fed[:i]) for i ≥ 1 (or what of fed[:i] the window holds), float64, and the number of windows."""
    out, count = [], 0
    with scoring(model) as device:
        for block in windows(np.array([0, len(fed) - 1]), context, stride):
            each = max(1, ROWS // context)
            for lo in range(0, len(block.starts), each):
                starts, lengths, seen = (column[lo : lo + each].tolist() for column in block)
                rows = [fed[start : start + length + 1] for start, length in zip(starts, lengths, strict=True)]
                batch = shifted(rows, pad_id)
                batch.labels[torch.arange(batch.labels.shape[1]) < torch.tensor(seen)[:, None]] = IGNORE
                out.append(label_logprobs(model, batch.to(device)).cpu().numpy())
                count += len(rows)
    return np.concatenate(out), count


def evaluate(model: LanguageModel, tokenizer: Tokenizer, batches: Iterable[Batch], *, bytes_: int | None) -> Evaluation:
    """Scores held-out batches (`data.batches.held_out`), which stand for `bytes_` bytes of text.

    Raises UserError for a model whose scores are not probabilities, and when there is nothing to score.
    """
    if refused := unnormalised(model, "perplexity and bits_per_byte"):
        raise UserError(refused, "use a normalised smoothing, such as kneser-ney or add-k, or `idiolect score`")
    nats, tokens, impossible = 0.0, 0, 0
    with scoring(model) as device:
        for batch in batches:
            logs = label_logprobs(model, batch.to(device))
            nats -= float(logs.sum())
            tokens += len(logs)
            impossible += int(torch.isneginf(logs).sum())
    if not tokens:
        raise UserError("there is no held-out text to score", "hold out a larger share, or give a validation file")
    reason = lossy(tokenizer) or (None if bytes_ else "how many bytes the scored tokens stand for is not known")
    return Evaluation(
        nats=nats,
        tokens=tokens,
        bytes=bytes_,
        loss=nats / tokens,
        perplexity=perplexity(nats, tokens),
        bits_per_byte=None if reason or not bytes_ else bits_per_byte(nats, bytes_),
        impossible=impossible,
        reason=reason,
    )


def summed(model: Any, batches: Iterable[Batch], objective: Callable[[Any, Batch], Any]) -> tuple[float, int]:
    """(nats, labels) of held-out batches under an objective, without dropout and without gradients."""
    nats, labels = 0.0, 0
    with scoring(model) as device:
        for batch in batches:
            loss = objective(model, batch.to(device))
            nats, labels = nats + float(loss.total), labels + loss.count
    return nats, labels


def label_logprobs(model: LanguageModel, batch: Batch) -> Tensor:
    """log p of every supervised label of an unpacked batch, float64 [count], row by row. Raises UserError on NaN."""
    assert batch.segments is None, "held-out rows hold one document each"
    supervised = batch.labels != IGNORE
    ids = torch.cat([batch.ids, batch.ids[:, -1:]], dim=1)  # [B, T + 1]: a row's last label is read too
    ids[:, 1:] = torch.where(supervised, batch.labels, ids[:, 1:])
    positions = torch.arange(1, ids.shape[1], device=ids.device)
    lengths = (supervised * positions).amax(dim=1) + 1
    logs = model.score(ids, lengths)[:, 1:][supervised].double()
    if logs.isnan().any():
        raise UserError(
            "the model gives probabilities that are no numbers (NaN)", "train it again: its weights are lost"
        )
    return logs


@contextmanager
def scoring(model: LanguageModel) -> Iterator[torch.device]:
    """The model without dropout and without gradients, as it was afterwards; gives the device it is on."""
    whole = model if isinstance(model, nn.Module) else nn.Module()
    modes = [(module, module.training) for module in whole.modules()]
    whole.eval()
    try:
        with torch.no_grad():
            yield next((p.device for p in whole.parameters()), torch.device("cpu"))
    finally:
        for module, training in modes:
            module.training = training
