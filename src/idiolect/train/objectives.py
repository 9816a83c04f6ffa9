"""What is minimised: pure functions of a model and a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idiolect.data.batch import IGNORE, Batch
from idiolect.models.fused_block import form
from idiolect.models.layers import CappedHead
from idiolect.train.crossentropy import cross_entropy, linear_cross_entropy


@dataclass(frozen=True)
class Loss:
    """A sum and what it is a sum over; only the loop divides."""

    total: Tensor
    """The summed loss, a scalar that has gradients."""
    count: int
    """How many terms were summed; equals the batch's own `count`."""
    logs: Mapping[str, Tensor | float] = field(default_factory=dict)
    """Further sums over the batch, worth a line in the metrics."""


class Objective(Protocol):
    """A training method: what `loop.fit` minimises."""

    def __call__(self, model: Any, batch: Any) -> Loss:
        """The loss of one micro-batch."""
        ...


def next_token(model: Any, batch: Batch, *, token_bytes: Tensor | None = None) -> Loss:
    """Cross-entropy of the next token, in nats: -sum over t of log p(labels[t] | ids[: t + 1]).

    The model is read in one pass over the true text (teacher forcing), so no position sees a prediction.
    token_bytes int64 [V], when given, adds the log "bytes": the bytes of text that the supervised labels stand for.
    """
    return _of_tokens(model, model.body(batch.ids, batch.segments), batch, token_bytes)


def translate(model: Any, batch: Batch, *, token_bytes: Tensor | None = None) -> Loss:
    """Cross-entropy of the next token of a target, given its source: -sum over t of log p(labels[t] | ids[: t + 1], s).

    As `next_token` otherwise.
    """
    return _of_tokens(model, model.body(batch.ids, batch.source, batch.source_lengths), batch, token_bytes)


def masked(model: Any, batch: Batch) -> Loss:
    """Cross-entropy of hidden tokens, in nats: -sum over labelled t of log p(labels[t] | all ids).

    Only the labelled positions reach the model's transform and head.
    """
    chosen = batch.labels != IGNORE
    hidden = model.transform(model.body(batch.ids, batch.lengths, batch.segments)[chosen])  # [N, D]
    return Loss(_nats(model.head, hidden, batch.labels[chosen]), batch.count)


def labels(model: Any, batch: Batch) -> Loss:
    """Cross-entropy of labels, in nats: -sum log p(label | ids), one for a row [B] or one for each marked token [B, T].

    The log "right" counts the labels that are the likeliest ones.
    """
    logits = model.logits(model.body(batch.ids, batch.lengths), batch.lengths)  # [B, C] or [B, T, C]
    right = (logits.argmax(-1) == batch.labels).sum()  # IGNORE is no label's number
    return _with_auxiliary(model, Loss(cross_entropy(logits, batch.labels), batch.count, {"right": right}))


def numbers(model: Any, batch: Batch) -> Loss:
    """The squared distance of each row's number from its label, [B]: sum of (output - label)²."""
    outputs = model.logits(model.body(batch.ids, batch.lengths), batch.lengths)[:, 0].float()
    return _with_auxiliary(model, Loss((outputs - batch.labels).square().sum(), batch.count))


def neighbours(model: Any, batch: Batch) -> Loss:
    """Words from the words around them, in nats a label: the full softmax, or negative sampling where words are drawn.

    softmax    -log softmax(V h)[w]
    negative   -log σ(v_w · h) - Σ over k of log σ(-v_k · h)     (Mikolov et al. 2013, arXiv 1310.4546, eq. 4)
      h        the mean input vector of the row's words [B, D];  v  output vectors, the rows of V
      w, k     the label, and the words drawn against it; one that is the label itself does not count, as in word2vec
    """
    hidden = model.bag(batch.ids, batch.lengths)
    if batch.negatives is None:
        return Loss(linear_cross_entropy(hidden, model.head.weight, None, batch.labels), batch.count)
    words = torch.cat((batch.labels[:, None], batch.negatives), dim=1)  # [B, 1 + K]
    vectors = F.embedding(words, model.head.weight)  # [B, 1 + K, D]
    with torch.autocast(hidden.device.type, enabled=False):  # each vector is read once: narrower ones gain nothing
        scores = torch.einsum("bkd,bd->bk", vectors, hidden)
    losses = torch.cat((F.softplus(-scores[:, :1]), F.softplus(scores[:, 1:])), dim=1)  # -log σ(x) = softplus(-x)
    again = batch.negatives == batch.labels[:, None]
    losses[:, 1:] = losses[:, 1:].masked_fill(again, 0)
    return Loss(losses.sum(), batch.count)


def _of_tokens(model: Any, hidden: Tensor, batch: Batch, token_bytes: Tensor | None) -> Loss:
    """The cross-entropy of the labels, [B, T], under the model's head over hidden [B, T, D]."""
    logs = {}
    if token_bytes is not None:
        widths = token_bytes.to(batch.labels.device)[batch.labels.clamp_min(0)]  # IGNORE is negative
        logs["bytes"] = (widths * (batch.labels != IGNORE)).sum()
    return _with_auxiliary(model, Loss(_nats(model.head, hidden, batch.labels), batch.count, logs))


def _with_auxiliary(model: Any, loss: Loss) -> Loss:
    """The loss with what else the model asks for (`Network.auxiliary`), once for each label; the log "auxiliary"."""
    auxiliary = getattr(model, "auxiliary", None)
    if auxiliary is None:
        return loss
    more = auxiliary * loss.count
    return Loss(loss.total + more, loss.count, {**loss.logs, "auxiliary": more.detach()})


def _nats(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """The summed cross-entropy of labels [...] under a head over hidden [..., D]."""
    found = (head, None) if type(head) is CappedHead else form(head)
    if found is None:
        return cross_entropy(head(hidden), labels)  # an edited head is whatever its forward says it is
    linear, update = found
    weight = linear.weight if update is None else update.added(linear.weight)
    return linear_cross_entropy(hidden, weight, linear.bias, labels, getattr(linear, "softcap", None))
