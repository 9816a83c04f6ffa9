"""From a prompt to text: one loop for every family, batched through one state, streaming as it goes.

Shapes: B prompts, N rows still going, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idiolect import seeds
from idiolect.decode.beam import beam_search
from idiolect.decode.filters import REMOVED, Seen, draw, penalise, reshape
from idiolect.decode.read import check_numbers, device_of, impossible, prompt_ids, read, read_prompts, writer
from idiolect.decode.settings import DecodeSettings
from idiolect.decode.stop import UNSEEN, Criterion
from idiolect.models.contract import LanguageModel


@dataclass(frozen=True)
class Piece:
    """What one more token adds to a text."""

    text: str
    """Whole characters; empty while a character or what may become a stop string is incomplete."""
    ids: tuple[int, ...]
    """The token; none when the text ends without one (unseen_context)."""
    logprobs: tuple[float, ...]
    """Its natural log-probability under the model's own distribution, before any filter."""
    finish_reason: str | None = None
    """Set on the last piece: "stop", "length", "unseen_context", or what a criterion of the caller says."""


@dataclass(frozen=True)
class Completion:
    """A finished text."""

    text: str
    """What was written, without the prompt, up to the stop string or stop token."""
    ids: tuple[int, ...]
    """Everything generated, the tokens that ended the text included."""
    logprobs: tuple[float, ...]
    """A natural log-probability each, under the model's own distribution; their sum is that of the whole text."""
    finish_reason: str
    """"stop", "length", "unseen_context", or what a criterion of the caller says."""


def stream(
    model: LanguageModel,
    tokenizer: Any,
    prompt: str | Sequence[int],
    settings: DecodeSettings,
    request: int = 0,
    until: Sequence[Criterion] = (),
) -> Iterator[Piece]:
    """The continuation of one prompt as it is generated, a piece a token; see `complete`.

    Beam search knows its text only at the end: one piece then.
    """
    ids = prompt_ids(model, tokenizer, prompt, settings)
    if settings.beams > 1:
        best = beam_search(model, tokenizer, ids, settings, until)[0]
        return iter([Piece(best.text, best.ids, best.logprobs, best.finish_reason)])
    return (piece for _, piece in pieces(model, tokenizer, [ids], settings, [request], until))


def complete(
    model: LanguageModel,
    tokenizer: Any,
    prompts: Sequence[str | Sequence[int]],
    settings: DecodeSettings,
    requests: Sequence[int] | None = None,
    until: Sequence[Criterion] = (),
    sources: Sequence[Tensor] | None = None,
) -> list[Completion]:
    """The continuation of each prompt, all of them in one batch; `sources` as in `read_prompts`, one a prompt.

    A text prompt is read as [begin_id] + encode(text); a prompt of ids is read as it stands. The token at position
    t of request r (its row, unless `requests` says otherwise) is drawn with uniform(seed, "draw", r, t), t counted
    from the prompt's first id: the batch a prompt is in changes nothing, and going on from a half-written text gives
    the text written in one go. Padding and ids the tokenizer has no text for are never generated.

    A model that reads C tokens at most stops with "length" once C tokens have been read.

    Raises UserError for a prompt that is empty, too long for the model or holds an id outside its vocabulary, and
    (exit 5) when the model's logits are not numbers.
    """
    rows = [prompt_ids(model, tokenizer, prompt, settings) for prompt in prompts]
    if settings.beams > 1:
        each = [None] * len(rows) if sources is None else sources
        found = [
            beam_search(model, tokenizer, ids, settings, until, source)[0]
            for ids, source in zip(rows, each, strict=True)
        ]
        return [Completion(best.text, best.ids, best.logprobs, best.finish_reason) for best in found]
    parts: list[list[Piece]] = [[] for _ in rows]
    keys = range(len(rows)) if requests is None else requests
    if len(keys) != len(rows):
        raise ValueError(f"{len(rows)} prompts and {len(keys)} requests")
    for row, piece in pieces(model, tokenizer, rows, settings, keys, until, sources):
        parts[row].append(piece)
    return [joined(row) for row in parts]


def pieces(
    model: LanguageModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    settings: DecodeSettings,
    requests: Sequence[int],
    until: Sequence[Criterion] = (),
    sources: Sequence[Tensor] | None = None,
) -> Iterator[tuple[int, Piece]]:
    """(row, piece) of each row in turn, token by token; rows that have ended are stepped no further."""
    if prompts:
        logits, state = read_prompts(model, prompts, settings.max_tokens, sources)
        yield from going_on(model, tokenizer, prompts, settings, requests, logits, state, until)


def going_on(
    model: LanguageModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    settings: DecodeSettings,
    requests: Sequence[int],
    logits: Tensor,
    state: Any,
    until: Sequence[Criterion] = (),
) -> Generator[tuple[int, Piece], None, Any]:
    """As `pieces`, of prompts that have been read: logits float64 [B, V], and the state after them.

    Returns the state of the rows that ended last; it has read all that they hold but their last token.
    """
    writers = [writer(model, tokenizer, prompt, settings, until) for prompt in prompts]
    never = impossible(model, tokenizer, logits.device)
    seen = penalty_memory(tokenizer, prompts, settings, logits)
    live = list(range(len(prompts)))
    while True:
        keys = [(requests[row], len(prompts[row]) + len(writers[row].ids)) for row in live]
        ids, table = choose(logits, never, settings, keys, seen)
        going = []
        for slot, (row, (id_, logprob, possible)) in enumerate(zip(live, table, strict=True)):
            if possible:
                text, reason = writers[row].push(int(id_))
                yield row, Piece(text, (int(id_),), (logprob,), reason)
            else:
                reason = UNSEEN
                yield row, Piece(writers[row].end(), (), (), reason)
            if reason is None:
                going.append(slot)
        if not going:
            return state
        if seen is not None:
            seen.add(ids)
        if len(going) < len(live):
            kept = torch.tensor(going, device=ids.device)
            ids, seen, state = ids[kept], seen and seen.select(kept), state.select(kept.to(device_of(model)))
            live = [live[slot] for slot in going]
        logits, state = read(model, ids[:, None], state)


def choose(
    logits: Tensor,
    never: Tensor,
    settings: DecodeSettings,
    keys: Sequence[tuple[int, int]],
    seen: Seen | None = None,
) -> tuple[Tensor, list[list[float]]]:
    """The next id of each row, int64 [N], and for each row [id, its log-probability, whether any id was possible].

    The device is waited for once, whatever the number of rows.

    Args:
        logits: the model's, float64 [N, V].
        never: ids that may not be generated, bool [V].
        settings: how to choose.
        keys: (request, position) of each row's draw.
        seen: what the penalties know of each row's text.
    """
    allowed = logits.masked_fill(never, REMOVED)
    if settings.temperature == 0:
        ids = penalise(allowed, settings, seen).argmax(-1)  # the lowest of equals; no other filter changes it
    else:
        reshaped = reshape(allowed, settings, seen)
        uniform = [seeds.uniform(settings.seed, "draw", *key) for key in keys]
        ids = draw(reshaped, torch.tensor(uniform, dtype=torch.float64, device=logits.device))
    normaliser = logits.logsumexp(-1)
    logprobs = logits.gather(1, ids[:, None]).squeeze(1) - normaliser
    possible = allowed.gather(1, ids[:, None]).squeeze(1) > REMOVED  # where any id is, an impossible one is not chosen
    table = torch.stack([ids.double(), logprobs, possible.double(), normaliser], 1).tolist()
    check_numbers([row[3] for row in table])
    return ids, [row[:3] for row in table]


def penalty_memory(
    tokenizer: Any, prompts: Sequence[Sequence[int]], settings: DecodeSettings, logits: Tensor
) -> Seen | None:
    """The memory of the penalties, None when no penalty is set; begin- and end-of-text are not part of a text."""
    if settings.repetition_penalty == 1 and not settings.presence_penalty and not settings.frequency_penalty:
        return None
    marks = {tokenizer.begin_id, tokenizer.end_id}
    prompt = torch.zeros(logits.shape, dtype=torch.bool)
    for row, ids in enumerate(prompts):
        prompt[row, [id_ for id_ in ids if id_ not in marks]] = True
    return Seen(prompt.to(logits.device), torch.zeros(logits.shape, dtype=torch.int64, device=logits.device))


def joined(parts: Sequence[Piece]) -> Completion:
    """The finished text of all its pieces."""
    reason = parts[-1].finish_reason
    assert reason is not None, "a text ended without a reason"
    return Completion(
        "".join(piece.text for piece in parts),
        tuple(id_ for piece in parts for id_ in piece.ids),
        tuple(logprob for piece in parts for logprob in piece.logprobs),
        reason,
    )
