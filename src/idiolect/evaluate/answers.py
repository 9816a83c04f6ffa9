"""What a chat model makes of held-out conversations: how likely their answers are to it, and what it answers itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from idiolect.data.batch import bits_per_byte
from idiolect.data.conversations import Conversations
from idiolect.data.examples import in_order
from idiolect.data.rendered import Messages, first_answer, other_prompts
from idiolect.decode.generate import Completion, complete
from idiolect.decode.settings import DecodeSettings
from idiolect.evaluate.overlap import METRICS
from idiolect.evaluate.score import finite, lossy, perplexity, summed
from idiolect.tokens.chat import ASSISTANT, Chat
from idiolect.train import objectives

ROWS = 1 << 13
"""Positions of held-out conversations scored at once."""
AT_ONCE = 32
"""Prompts answered at once."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out conversations, and how a model is asked to answer them."""

    talk: Chat
    said: Conversations
    """Their masks: what the assistant says, and what ends it."""
    messages: list[Messages]
    context: int
    metrics: Sequence[str]
    """Of METRICS, of the model's own answers."""
    asked: int
    """How many of them, the first ones, it answers."""
    most: int
    """Tokens after which an answer is cut off."""

    def figures(self, model: Any, tokens: int | None = None) -> dict[str, Any]:
        """Loss, perplexity and bits per byte of what the assistant says, over the first `tokens` tokens.

        Over all of them (None), too: the loss of the same answers after another conversation's prompt, the share of
        the model's own answers that stop by themselves, and the metrics of them.
        """
        n = len(self.said)
        if tokens is not None:  # whole conversations, at least one
            n = max(1, int(np.searchsorted(self.said.ids.ends, tokens, side="right")) - 1)
        labels = np.concatenate([_labels(self.said, i) for i in range(n)])
        found = self._figures(self._nats(model, self.said, n), labels)
        if tokens is not None:
            return found
        rows = other_prompts(self.said, self.context)
        if rows is not None:
            found["loss_other_prompt"] = finite(self._nats(model, rows, len(rows)) / len(rows.labels))
        return found | self._answered(model)

    def unigram(self, learnt: np.ndarray) -> dict[str, Any]:
        """The figures of tokens as often as among those learnt (each count plus one), whatever was asked."""
        V, labels = self.talk.tokenizer.size, self.said.labels
        seen = np.bincount(learnt, minlength=V)
        nats = len(labels) * math.log(seen.sum() + V) - float(np.log(seen[labels] + 1).sum())
        return self._figures(nats, labels)

    def prompt(self, i: int) -> list[int] | None:
        """What stands before the first answer of a conversation; None when it leaves no room for one."""
        first = first_answer(self.said, i)
        return self.said.ids[i][:first].tolist() if 0 < first <= self.context else None

    def reference(self, i: int) -> str:
        """The first answer of a conversation."""
        return next(message["content"] for message in self.messages[i] if message["role"] == ASSISTANT)

    def written(
        self, model: Any, some: Sequence[int], most: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Completion]:
        """What the model answers the prompts of some conversations."""
        settings = DecodeSettings(max_tokens=most, temperature=temperature, seed=seed, stop_tokens=self.talk.ends)
        return complete(model, self.talk.tokenizer, [self.prompt(i) or [] for i in some], settings, requests=some)

    def _answered(self, model: Any) -> dict[str, Any]:
        some = [i for i in range(len(self.said)) if self.prompt(i) is not None][: self.asked]
        if not some:
            return {}
        answers: list[Completion] = []
        for first in range(0, len(some), AT_ONCE):
            answers += self.written(model, some[first : first + AT_ONCE], self.most)
        found: dict[str, Any] = {"answers": len(some)}
        found["stops"] = sum(answer.finish_reason == "stop" for answer in answers) / len(some)
        references = [[self.reference(i)] for i in some]
        for metric in self.metrics:
            found |= METRICS[metric]([answer.text for answer in answers], references)
        return found

    def _nats(self, model: Any, rows: Conversations, n: int) -> float:
        pad_id = self.talk.tokenizer.end_id
        batches = (rows.batch(group, pad_id) for group in in_order(rows.lengths[:n], ROWS))
        return summed(model, batches, objectives.next_token)[0]

    def _figures(self, nats: float, labels: np.ndarray) -> dict[str, Any]:
        tokenizer = self.talk.tokenizer
        widths = tokenizer.token_bytes()
        bytes_ = None if widths is None else int(widths[labels].sum())
        found = {
            "loss": nats / len(labels),
            "perplexity": perplexity(nats, len(labels)),
            "bits_per_byte": bits_per_byte(nats, bytes_) if bytes_ else None,
            "tokens": len(labels),
            "bytes": bytes_,
            "reason": lossy(tokenizer),
        }
        return {key: finite(value) for key, value in found.items()}


def _labels(rows: Conversations, i: int) -> np.ndarray:
    said = rows.row(i)[1]
    return said[said >= 0]
