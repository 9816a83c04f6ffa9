"""What decoding does to a model: strategies side by side, a distribution before and after, words ranked.

Everything here returns plain dataclasses; `picture` shows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idiolect.decode.filters import REMOVED, reshape
from idiolect.decode.generate import Completion, complete, penalty_memory
from idiolect.decode.read import device_of, impossible, prompt_ids, read_prompts
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import UserError
from idiolect.models.contract import LanguageModel


@dataclass(frozen=True)
class Choice:
    """One possible next token."""

    id: int
    token: str
    """Its text."""
    original: float
    """Its probability under the model."""
    reshaped: float
    """The probability it is drawn with."""


@dataclass(frozen=True)
class Distribution:
    """The next token, before and after reshaping."""

    choices: tuple[Choice, ...]
    """The most probable tokens under the model, most probable first."""
    rest_original: float
    """Probability of all other tokens under the model."""
    rest_reshaped: float
    """Probability with which any other token is drawn."""
    survivors: int
    """Tokens that can still be drawn."""
    entropy_original: float
    """Uncertainty about the next token under the model, in bits."""
    entropy_reshaped: float
    """Uncertainty about the token drawn, in bits."""


@dataclass(frozen=True)
class Outcome:
    """What one strategy does and writes."""

    settings: DecodeSettings
    next: Distribution
    completions: tuple[Completion, ...]
    mean_logprob: float | None
    """Mean natural log-probability of a generated token under the model: quality as the model sees it."""
    distinct: dict[int, float | None]
    """For n = 1, 2, 3 the share of different n-grams among all n-grams written: diversity."""


@dataclass(frozen=True)
class Exploration:
    """Strategies side by side on one prompt."""

    prompt: str
    outcomes: dict[str, Outcome]


@dataclass(frozen=True)
class Candidate:
    """A given continuation and how probable it is."""

    text: str
    ids: tuple[int, ...]
    logprob: float
    """Natural log-probability of all its tokens after the prompt."""
    logprob_per_token: float
    """The same divided by the number of tokens."""
    share: float
    """Its probability among the candidates: the shares of all sum to 1 (0 when none is possible)."""


def strategies(base: DecodeSettings) -> dict[str, DecodeSettings]:
    """The strategies worth comparing, with the length, stops and seed of `base`; `base` itself when it is another."""
    kept = {name: getattr(base, name) for name in ("max_tokens", "stop", "stop_tokens", "seed")}
    changes: dict[str, dict[str, Any]] = {
        "greedy": {"temperature": 0.0},
        "beams 4": {"beams": 4},
        "ancestral": {},
        "temperature 0.7": {"temperature": 0.7},
        "top-k 8": {"top_k": 8},
        "top-p 0.9": {"top_p": 0.9},
        "min-p 0.1": {"min_p": 0.1},
    }
    named = {name: DecodeSettings(**kept, **change) for name, change in changes.items()}
    return named if base in named.values() else {"yours": base, **named}


def explore(
    model: LanguageModel,
    tokenizer: Any,
    prompt: str,
    strategies: Mapping[str, DecodeSettings],
    *,
    samples: int = 3,
    top: int = 10,
) -> Exploration:
    """Each strategy's next-token distribution, its texts and what they are worth.

    Args:
        model: any family.
        tokenizer: the model's.
        prompt: the text to continue.
        strategies: by name.
        samples: texts a strategy that draws writes, as requests 0, 1, …; greedy and beam search write one.
        top: tokens of the distribution listed one by one.

    Raises UserError as `generate.complete` does.
    """
    outcomes = {}
    for name, settings in strategies.items():
        draws = 1 if settings.beams > 1 or settings.temperature == 0 else samples
        texts = complete(model, tokenizer, [prompt] * draws, settings)
        logprobs = [logprob for text in texts for logprob in text.logprobs]
        outcomes[name] = Outcome(
            settings,
            next_token(model, tokenizer, prompt, settings, top),
            tuple(texts),
            sum(logprobs) / len(logprobs) if logprobs else None,
            {n: distinct([text.ids for text in texts], n) for n in (1, 2, 3)},
        )
    return Exploration(prompt, outcomes)


def next_token(
    model: LanguageModel, tokenizer: Any, prompt: str | Sequence[int], settings: DecodeSettings, top: int = 10
) -> Distribution:
    """p(next token | prompt) and what the settings make of it. Beam search draws nothing: both are the same.

    Raises UserError as `generate.complete` does, and when the model has never seen the prompt's context.
    """
    ids = prompt_ids(model, tokenizer, prompt, settings)
    logits, _ = read_prompts(model, [ids], 1)
    allowed = logits.masked_fill(impossible(model, tokenizer, logits.device), REMOVED)
    if not bool((allowed > REMOVED).any()):
        raise UserError("the model has never seen this context: no next token is possible", "try another prompt")
    original = logits.softmax(-1)[0]
    reshaped = reshape(allowed, settings, penalty_memory(tokenizer, [ids], settings, logits)).softmax(-1)[0]
    order = original.sort(descending=True, stable=True).indices[:top]
    chosen = order[original[order] > 0].tolist()
    rows = zip(chosen, tokenizer.pieces(chosen), original[chosen].tolist(), reshaped[chosen].tolist(), strict=True)
    return Distribution(
        tuple(Choice(*row) for row in rows),
        float(original.index_fill(0, order, 0).sum()),
        float(reshaped.index_fill(0, order, 0).sum()),
        int((reshaped > 0).sum()),
        _bits(original),
        _bits(reshaped),
    )


def candidates(
    model: LanguageModel, tokenizer: Any, prompt: str, words: Sequence[str], joiner: str = " "
) -> list[Candidate]:
    """The given continuations, most probable first; equals stay in the order given.

    A candidate of several tokens has the log-probability of them all (chain rule): that the text goes on with it,
    whatever follows. `joiner` goes between prompt and word unless one of them brings white space or the prompt is
    empty. Prompt and candidate are tokenised together, as they would be in a text; should a tokenizer merge across
    the seam, all candidates are compared from the first token in which any of them differs from the prompt.

    Raises UserError when there is no candidate, or a text is longer than the model reads.
    """
    if not words:
        raise UserError("no candidates to rank", "give one or more words")
    start = prompt_ids(model, tokenizer, prompt, DecodeSettings())
    texts = [prompt + _seam(prompt, word, joiner) + word for word in words]
    rows = [prompt_ids(model, tokenizer, text, DecodeSettings()) for text in texts]
    seam = min(_common(start, row) for row in rows)
    empty = [word for word, row in zip(words, rows, strict=True) if len(row) <= seam]
    if empty:
        raise UserError(f'the candidate "{empty[0]}" has no tokens of its own', "leave it out")
    logprobs = _scores(model, rows, seam)
    highest = logprobs.max()
    shares = torch.zeros_like(logprobs) if highest == REMOVED else logprobs.softmax(0)
    found = [
        Candidate(word, tuple(row[seam:]), logprob, logprob / (len(row) - seam), share)
        for word, row, logprob, share in zip(words, rows, logprobs.tolist(), shares.tolist(), strict=True)
    ]
    return sorted(found, key=lambda candidate: -candidate.logprob)


def distinct(texts: Iterable[Sequence[int]], n: int) -> float | None:
    """Different n-grams over all n-grams of the texts (Li et al. 2016, arXiv 1510.03055); None when there is none."""
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def _scores(model: LanguageModel, rows: Sequence[Sequence[int]], first: int) -> Tensor:
    """Summed log-probability of each row's ids from position `first` on, float64 [B]."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    device = device_of(model)
    with torch.no_grad():
        scores = model.score(ids.to(device), lengths.to(device))
    return scores[:, first:].cpu().double().sum(-1)


def _seam(prompt: str, word: str, joiner: str) -> str:
    return joiner if prompt and not prompt[-1].isspace() and not word[:1].isspace() else ""


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two rows begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))  # noqa: B905


def _bits(probability: Tensor) -> float:
    return max(0.0, -float(torch.xlogy(probability, probability).sum()) / math.log(2))
