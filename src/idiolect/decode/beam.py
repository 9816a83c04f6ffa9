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
from idiolect.decode.read import check_numbers, device_of, impossible, prompt_ids, read, read_prompts, room, writer
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

    def score(self, length_penalty: float) -> float:
        """As a `Hypothesis`'s."""
        return sum(self.logprobs) / max(1, len(self.ids)) ** length_penalty


def beam_search(
    model: LanguageModel,
    tokenizer: Any,
    prompt: str | Sequence[int],
    settings: DecodeSettings,
    until: Sequence[Criterion] = (),
    source: Tensor | None = None,
) -> list[Hypothesis]:
    """At most `settings.beams` finished hypotheses, best first; of one source, where the model reads one.

    At each length the `beams` most probable extensions of the live hypotheses are taken: those that end are put
    aside as finished, the others live on. The search is over when none is alive, there is no more room, or `beams`
    have finished and no live one scores better than the last of them at its present length (with length_penalty 0
    nothing can be missed by that). One beam is greedy search; V ** (L - 1) beams see every text of at most L tokens.
    More beams do not promise a better text: `tests/checklist/test_DE2.py` keeps a tree where two lose to one.

    A hypothesis without any possible extension is finished too, with reason "unseen_context".

    Raises UserError as `generate.complete` does.
    """
    start = prompt_ids(model, tokenizer, prompt, settings)
    most = room(model, start, settings)
    ends = {*settings.stop_tokens, tokenizer.end_id}

    def reason_of(ids: tuple[int, ...]) -> str | None:
        if settings.stop or until:
            return _written(model, tokenizer, start, ids, settings, until)[1]
        return STOP if ids[-1] in ends else LENGTH if len(ids) >= most else None

    def hypothesis(path: _Path, reason: str) -> Hypothesis:
        text, _ = _written(model, tokenizer, start, path.ids, settings, until)
        return Hypothesis(text, path.ids, path.logprobs, reason, path.score(settings.length_penalty))

    live = [_Path()]
    finished: list[Hypothesis] = []
    logits, state = read_prompts(model, [start], settings.max_tokens, None if source is None else [source])
    never = impossible(model, tokenizer, logits.device)
    while True:
        normaliser = logits.logsumexp(-1, keepdim=True)
        check_numbers(normaliser.flatten().tolist())
        logs = (logits - normaliser.clamp_min(torch.finfo(logits.dtype).min)).masked_fill(never, REMOVED)
        dead = (logs.amax(-1) == REMOVED).tolist()
        finished += [hypothesis(path, UNSEEN) for path, is_dead in zip(live, dead, strict=True) if is_dead]
        parents: list[int] = []
        going: list[_Path] = []
        for slot, id_, logprob in _extensions(logs, live, settings.beams):
            path = _Path((*live[slot].ids, id_), (*live[slot].logprobs, logprob))
            reason = reason_of(path.ids)
            if reason is None:
                going.append(path)
                parents.append(slot)
            else:
                finished.append(hypothesis(path, reason))
        finished = sorted(finished, key=lambda h: -h.score)[: settings.beams]
        best = max((path.score(settings.length_penalty) for path in going), default=REMOVED)
        if not going or (len(finished) == settings.beams and best <= finished[-1].score):
            return finished
        live = going
        state = state.select(torch.tensor(parents, device=device_of(model)))
        logits, state = read(model, torch.tensor([path.ids[-1:] for path in live]), state)


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
