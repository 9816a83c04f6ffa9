"""Conversations through a chat template: what of them is read, and what the assistant is to say.

T positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from idiolect.data.conversations import Conversations
from idiolect.errors import UserError
from idiolect.text.read import MAX_BAD
from idiolect.tokens.chat import SYSTEM, Chat, Piece

AT_ONCE = 1 << 10
"""Conversations encoded at once."""

Messages = Sequence[Mapping[str, str]]
"""One conversation."""


@dataclass(frozen=True)
class Counts:
    """What encoding conversations came to."""

    read: int
    """Conversations in the files."""
    cut: int
    """Those that were longer than the model's context, and are cut at its end."""
    left_out: int
    """Those of which nothing is left to learn."""
    refused: int = 0
    """Those among them that the template does not take …"""
    why: str = ""
    """… and the reason of the first."""


class Encoded(NamedTuple):
    """Conversations as ids."""

    said: Conversations
    """Their masks: what the assistant says, and what ends it."""
    messages: list[Messages]
    counts: Counts


def encode(rows: Iterable[Mapping[str, Any]], talk: Chat, context: int, system: str | None = None) -> Encoded:
    """Rows with `messages` as ids, each with the end of its last answer, cut at the model's context, and counted.

    system: what leads those that no system message leads. Raises UserError when many of them cannot be spelled.
    """
    said, kept = [], []
    n = cut = refused = 0
    first: UserError | None = None
    rest = (_led(row["messages"], system) for row in rows)
    while some := list(itertools.islice(rest, AT_ONCE)):
        taken: list[tuple[Messages, list[Piece]]] = []
        for messages in some:
            try:
                taken.append((messages, talk.pieces(messages)))
            except UserError as error:
                refused, first = refused + 1, first or error
        n += len(some)
        if first is not None and refused > MAX_BAD * n:
            what = f"{refused:,} of {n:,} conversations cannot be spelled: {first.what}"
            raise UserError(what, first.mend)
        for (messages, _), one in zip(taken, talk.encoded([pieces for _, pieces in taken]), strict=True):
            ids, mask = talk.closed(one)
            cut += len(ids) > context + 1
            ids, mask = ids[: context + 1], mask[: context + 1]
            if mask[1:].any():
                said.append((ids.astype(np.int32), mask.astype(np.int32)))
                kept.append(messages)
    counts = Counts(n, cut, n - len(said), refused, "" if first is None else first.what)
    return Encoded(Conversations.of(said), kept, counts)


def _led(messages: Messages, system: str | None) -> Messages:
    """The messages, led by a system message where they are not."""
    led = not system or messages[0]["role"] == SYSTEM
    return messages if led else [{"role": SYSTEM, "content": str(system)}, *messages]


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Several as one."""
    if len(parts) == 1:
        return parts[0]
    counts = [part.counts for part in parts]
    read, cut, left_out = (sum(getattr(one, key) for one in counts) for key in ("read", "cut", "left_out"))
    refused, why = sum(one.refused for one in counts), next((one.why for one in counts if one.why), "")
    total = Counts(read, cut, left_out, refused, why)
    messages = [one for part in parts for one in part.messages]
    return Encoded(Conversations.joined([part.said for part in parts]), messages, total)


def everything(rows: Conversations) -> Conversations:
    """The same conversations, of which every token is learnt."""
    return replace(rows, mask=replace(rows.mask, ids=np.ones_like(rows.mask.ids)))


def first_answer(rows: Conversations, i: int) -> int:
    """Where the first answer of a conversation begins: how many ids stand before it."""
    return int(np.flatnonzero(rows.mask[i])[0])


def other_prompts(rows: Conversations, context: int) -> Conversations | None:
    """Each row from its first answer on, after what stands before that of the next row whose prompt is another.

    None when all prompts are the same. What no longer fits into `context` is cut.
    """
    firsts = [first_answer(rows, i) for i in range(len(rows))]
    prompts = [rows.ids[i][:first] for i, first in enumerate(firsts)]
    keys, made = [prompt.tobytes() for prompt in prompts], []
    for i, first in enumerate(firsts):
        other = next((j % len(rows) for j in range(i + 1, i + len(rows)) if keys[j % len(rows)] != keys[i]), None)
        if other is None:
            return None
        ids = np.concatenate([prompts[other], rows.ids[i][first:]])[: context + 1]
        mask = np.concatenate([np.zeros(len(prompts[other]), np.int32), rows.mask[i][first:]])[: context + 1]
        if mask[1:].any():
            made.append((ids, mask))
    return Conversations.of(made) if made else None
