"""How likely a model finds each of some answers, given what comes before them.

N prompts, C answers, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from idiolect.data.examples import in_order
from idiolect.data.padding import pad
from idiolect.decode.read import device_of, still
from idiolect.decode.translate import start_id
from idiolect.errors import UserError
from idiolect.models.contract import LanguageModel, SequenceToSequence
from idiolect.tokens.chat import ASSISTANT, USER, Chat
from idiolect.tokens.sandbox import Message

POSITIONS = 1 << 12
"""Positions read at once."""
By = Literal["sum", "token", "byte"]
"""What of an answer is compared: log p of all of it, or its mean over tokens or over UTF-8 bytes."""


@dataclass(frozen=True)
class Choice:
    """One answer to one prompt."""

    logprob: float
    """log p(answer | prompt), nats: of all its tokens."""
    tokens: int
    """Tokens scored: those of the answer, and of what the form has after it."""
    bytes: int
    """UTF-8 bytes of the same."""

    def weight(self, by: By) -> float:
        """What is compared."""
        return self.logprob / {"sum": 1, "token": self.tokens, "byte": self.bytes}[by]


def choices(
    model: LanguageModel, tokenizer: Any, prompts: Sequence[tuple[str, str]], answers: Sequence[str]
) -> list[list[Choice]]:
    """Each prompt (what stands before and after its answer) with each of the answers: N lists of C.

    A causal model reads before + answer + after as one text; scored are its tokens from the first at which two answers
    or the text without one differ, so that a token which crosses the border counts to the answer. An encoder-decoder
    reads what is before as its source, and answer + after, with the end of the text, as its target.
    Raises UserError for a model whose scores are no probabilities, for answers that the tokenizer cannot tell apart,
    and for a text longer than the context.
    """
    wanted = [answer + after for _, after in prompts for answer in answers]
    sources = None
    if isinstance(model, SequenceToSequence):
        begins = [start_id(model.settings, tokenizer)]
        asked = tokenizer.encode_batch([before.rstrip() for before, _ in prompts])
        sources = [np.append(ids, tokenizer.end_id) for ids in asked for _ in answers]
        bare = [begins] * len(prompts)
        rows = [[*begins, *ids, tokenizer.end_id] for ids in tokenizer.encode_batch(wanted)]
    else:
        begins = _begin(model, tokenizer)
        bare = [[*begins, *ids] for ids in tokenizer.encode_batch([before for before, _ in prompts])]
        texts = [before + answer + after for before, after in prompts for answer in answers]
        rows = [[*begins, *ids] for ids in tokenizer.encode_batch(texts)]
    return _found(model, bare, rows, answers, [len(text.encode("utf-8")) for text in wanted], sources)


def replies(
    model: LanguageModel, talk: Chat, conversations: Sequence[Sequence[Message]], answers: Sequence[str]
) -> list[list[Choice]]:
    """Each conversation with each of the answers as its next message, and what ends one: N lists of C.

    Raises UserError as `choices`.
    """
    bare, rows = _conversed(talk, conversations, answers)
    return _found(model, bare, rows, answers, [len(answer.encode("utf-8")) for answer in answers] * len(bare), None)


def longest_reply(talk: Chat, answers: Sequence[str]) -> int:
    """The most tokens that one of the answers takes, with what ends it."""
    bare, rows = _conversed(talk, [[{"role": USER, "content": "a"}]], answers)
    return max(map(len, rows)) - len(bare[0])


def _conversed(
    talk: Chat, conversations: Sequence[Sequence[Message]], answers: Sequence[str]
) -> tuple[list[list[int]], list[list[int]]]:
    """(the ids of each conversation up to where the model answers, those of each with each of the answers)."""
    bare = [asked.ids.tolist() for asked in talk.render_batch(conversations, reply=True)]
    answered = [[*said, {"role": ASSISTANT, "content": answer}] for said in conversations for answer in answers]
    full = [talk.closed(one) for one in talk.render_batch(answered)]
    return bare, [ids[: np.flatnonzero(mask)[-1] + 1].tolist() for ids, mask in full]


def _found(
    model: LanguageModel,
    bare: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
    answers: Sequence[str],
    sizes: Sequence[int],
    sources: Sequence[np.ndarray] | None,
) -> list[list[Choice]]:
    """bare: the ids of each prompt alone; rows: those of each with each answer, whose bytes are the sizes."""
    if not model.normalised:
        raise UserError("this model's scores are no probabilities", "use a normalised smoothing, such as kneser-ney")
    C, starts = len(answers), []
    for i, alone in enumerate(bare):
        group = rows[i * C : (i + 1) * C]
        start = len(alone) if sources is not None else _common([alone, *group])
        _check(group, start, answers)
        starts += [start] * C
    _fit(model, rows, sources)
    logs = _summed(model, rows, starts, sources)
    tokens = (len(row) - start for row, start in zip(rows, starts, strict=True))
    found = [Choice(*one) for one in zip(logs, tokens, sizes, strict=True)]
    return [found[i * C : (i + 1) * C] for i in range(len(bare))]


def shares(weights: Sequence[float]) -> list[float]:
    """exp(w) over their sum; equal ones when all are minus infinity."""
    return torch.tensor(weights, dtype=torch.float64).clamp_min(-1e30).softmax(0).tolist()


def _begin(model: LanguageModel, tokenizer: Any) -> list[int]:
    begin: int | None = tokenizer.begin_id
    return [] if begin is None or begin >= model.vocabulary else [begin]


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with."""
    return next((t for t, ids in enumerate(zip(*rows)) if len(set(ids)) > 1), min(map(len, rows)))


def _check(rows: Sequence[Sequence[int]], start: int, answers: Sequence[str]) -> None:
    """Raises UserError when an answer has no token of its own, or two have the same."""
    seen: dict[tuple[int, ...], str] = {}
    for row, answer in zip(rows, answers, strict=True):
        other = seen.setdefault(tuple(row), answer)
        if other != answer:
            what = f"to this model's tokenizer {other!r} and {answer!r} are the same"
            raise UserError(what, "name labels that are words of its vocabulary")
        if start == 0 or len(row) <= start:
            raise UserError(f"nothing comes before {answer!r}, or nothing of it is left", "put text before the label")


def _fit(model: Any, rows: Sequence[Sequence[int]], sources: Sequence[np.ndarray] | None) -> None:
    """Raises UserError when a text is longer than the model reads."""
    most = model.settings.longest_source if sources is not None else None
    for what, found, limit in (("prompt", sources or [], most), ("text", rows, model.context)):
        longest = max(map(len, found), default=0)
        if limit is not None and longest > limit:
            raise UserError(f"the {what} has {longest} tokens, the model reads at most {limit}", "shorten it")


def _summed(
    model: Any, rows: Sequence[Sequence[int]], starts: Sequence[int], sources: Sequence[np.ndarray] | None
) -> list[float]:
    """The sum of each row's log-probabilities from its start on."""
    out = [0.0] * len(rows)
    device = device_of(model)
    taken = np.array([len(row) for row in rows])
    if sources is not None:
        taken = taken + np.array([len(source) for source in sources])
    with still(model):
        for group in in_order(taken, POSITIONS):
            some = group.tolist()
            ids, lengths = (part.to(device) for part in pad([rows[i] for i in some], 0))
            given = () if sources is None else (part.to(device) for part in pad([sources[i] for i in some], 0))
            logs = model.score(ids, lengths, *given).double().cpu()
            for row, i in zip(logs, some, strict=True):
                out[i] = float(row[starts[i] : len(rows[i])].sum())
    return out
