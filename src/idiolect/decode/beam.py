"""Beam search: the most probable text, looked for along several hypotheses at once.

Shapes: N live hypotheses, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idiolect.decode.filters import REMOVED
from idiolect.decode.read import impossible, prompt_ids, read, read_prompts, room, writer
from idiolect.decode.settings import DecodeSettings
from idiolect.decode.stop import LENGTH, STOP, UNSEEN, Criterion
from idiolect.models.contract import LanguageModel


@dataclass(frozen=True)
class Hypothesis:
    """One text that beam search found."""

    text: str
    """What was written, without the prompt, up to the stop string or stop token."""
    ids: tuple[int, ...]
    """Everything generated, the tokens that ended the text included."""
    logprobs: tuple[float, ...]
    """A natural log-probability each; the weight of the path is minus their sum."""
    finish_reason: str
    """As a `Completion`'s."""
    score: float
    """Sum of logprobs / tokens ** length_penalty; the best is the highest."""


@dataclass(frozen=True)
class _Path:
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


def beam_search(
    model: LanguageModel,
    tokenizer: Any,
    prompt: str | Sequence[int],
    settings: DecodeSettings,
    until: Sequence[Criterion] = (),
) -> list[Hypothesis]:
    """At most `settings.beams` finished hypotheses, best first.

    At each length the most probable extensions of the live hypotheses are looked at, in that order. Those that end
    and are among the first `beams` are put aside as finished; the first `beams` of the others live on. The search is
    over when `beams` have finished, none is alive, or there is no more room. (transformers does the same
    when early_stopping is True.) One beam is greedy search; V ** (L - 1) beams see every text of at most L tokens.
    More beams do not promise a better text: `tests/checklist/test_DE2.py` keeps a tree where two lose to one.

    A hypothesis without any possible extension is finished too, with reason "unseen_context".

    Raises UserError as `generate.complete` does.
    """
    start = prompt_ids(model, tokenizer, prompt, settings)
    most = room(model, start, settings)
    ends = {*settings.stop_tokens, tokenizer.end_id}
    enough = settings.beams * (1 + len(ends))  # extensions among which `beams` do not end

    def reason_of(ids: tuple[int, ...]) -> str | None:
        if settings.stop or until:
            return _written(model, tokenizer, start, ids, settings, until)[1]
        return STOP if ids[-1] in ends else LENGTH if len(ids) >= most else None

    live = [_Path()]
    finished: list[tuple[_Path, str]] = []
    logits, state = read_prompts(model, [start], settings.max_tokens)
    never = impossible(model, tokenizer, logits.device)
    while True:
        logs = logits.log_softmax(-1).masked_fill(never, REMOVED)
        finished += [(path, UNSEEN) for path, dead in zip(live, (logs.amax(-1) == REMOVED).tolist()) if dead]
        parents: list[int] = []
        going: list[_Path] = []
        for rank, (slot, id_, logprob) in enumerate(_extensions(logs, live, enough)):
            path = _Path((*live[slot].ids, id_), (*live[slot].logprobs, logprob))
            reason = reason_of(path.ids)
            if reason is None and len(going) < settings.beams:
                going.append(path)
                parents.append(slot)
            elif reason is not None and rank < settings.beams:
                finished.append((path, reason))
        if not going or len(finished) >= settings.beams:
            break
        live = going
        state = state.select(torch.tensor(parents, device=logits.device))
        logits, state = read(model, torch.tensor([path.ids[-1:] for path in live]), state)
    found = [
        Hypothesis(
            _written(model, tokenizer, start, path.ids, settings, until)[0],
            path.ids,
            path.logprobs,
            reason,
            sum(path.logprobs) / max(1, len(path.ids)) ** settings.length_penalty,
        )
        for path, reason in finished
    ]
    return sorted(found, key=lambda hypothesis: -hypothesis.score)[: settings.beams]


def _extensions(logs: Tensor, live: Sequence[_Path], count: int) -> list[tuple[int, int, float]]:
    """(slot, id, log-probability of the id) of the `count` most probable possible extensions, in order.

    Among equals the lower slot comes first, then the lower id.
    """
    so_far = torch.tensor([sum(path.logprobs) for path in live], dtype=logs.dtype, device=logs.device)
    totals = (logs + so_far[:, None]).flatten()
    least = totals.topk(min(count, len(totals))).values[-1]
    places = ((totals >= least) & (totals > REMOVED)).nonzero().squeeze(1)
    places = places[totals[places].sort(descending=True, stable=True).indices][:count]
    V = logs.shape[1]
    return [
        (place // V, place % V, logprob)
        for place, logprob in zip(places.tolist(), logs.flatten()[places].tolist(), strict=True)
    ]


def _written(
    model: LanguageModel,
    tokenizer: Any,
    prompt: Sequence[int],
    ids: Sequence[int],
    settings: DecodeSettings,
    until: Sequence[Criterion],
) -> tuple[str, str | None]:
    """The text of generated ids, and why it ends with the last of them (None: it does not)."""
    text = writer(model, tokenizer, prompt, settings, until)
    reason = None
    for id_ in ids:
        _, reason = text.push(id_)
    if reason is None:
        text.end()
    return text.text, reason
