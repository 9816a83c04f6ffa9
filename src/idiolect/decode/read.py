"""The model's side of decoding: prompts checked and read, one step at a time.

Shapes: B prompts, N rows still going, T positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from idiolect.decode.settings import DecodeSettings
from idiolect.decode.stop import Criterion, Writer, longest
from idiolect.errors import Exit, UserError
from idiolect.models.contract import LanguageModel


def prompt_ids(
    model: LanguageModel, tokenizer: Any, prompt: str | Sequence[int], settings: DecodeSettings
) -> list[int]:
    """The ids a prompt is read as. Raises UserError for what cannot be read."""
    if isinstance(prompt, str):
        begin = [] if tokenizer.begin_id is None else [tokenizer.begin_id]
        ids = [*begin, *tokenizer.encode(prompt)]
    else:
        ids = [int(id_) for id_ in prompt]
    if not ids:
        raise UserError("the prompt is empty and there is no begin-of-text token to start from", "give it a token")
    for name, given in (("prompt", ids), ("stop_tokens", settings.stop_tokens)):
        wrong = [id_ for id_ in given if not 0 <= id_ < model.vocabulary]
        if wrong:
            raise UserError(f"{name}: there is no token {wrong[0]}", f"ids go from 0 to {model.vocabulary - 1}")
    if model.context is not None and len(ids) > model.context:
        raise UserError(
            f"the prompt has {len(ids)} tokens, the model reads at most {model.context}",
            "shorten the prompt, or use a model of longer context",
        )
    return ids


def writer(
    model: LanguageModel,
    tokenizer: Any,
    prompt: Sequence[int],
    settings: DecodeSettings,
    until: Sequence[Criterion] = (),
) -> Writer:
    """What turns one row's ids into text and knows when it ends."""
    ends = {*settings.stop_tokens, tokenizer.end_id}
    return Writer(tokenizer, prompt, ends, settings.stop, [*until, longest(room(model, prompt, settings))])


def room(model: LanguageModel, prompt: Sequence[int], settings: DecodeSettings) -> int:
    """Most tokens that can be generated after a prompt: the last one need not be read."""
    if model.context is None:
        return settings.max_tokens
    return min(settings.max_tokens, model.context - len(prompt) + 1)


def impossible(model: LanguageModel, tokenizer: Any, device: torch.device) -> Tensor:
    """Ids that are never generated, bool [V]: padding, and those beyond the tokenizer (padded vocabularies)."""
    ids = torch.arange(model.vocabulary, device=device)
    never = ids >= tokenizer.size
    if tokenizer.pad_id is not None and tokenizer.pad_id != tokenizer.end_id:
        never |= ids == tokenizer.pad_id
    return never


def read_prompts(model: LanguageModel, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, Any]:
    """Reads prompts of any lengths, equal ones once; returns (next-token logits float64 [B, V], state).

    `room` is how many more tokens the state will be asked to hold.
    """
    unique = {tuple(prompt): place for place, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    lengths = torch.tensor([len(prompt) for prompt in unique])
    ids = torch.zeros(len(unique), int(lengths.max()), dtype=torch.int64)
    for row, prompt in enumerate(unique):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    length = ids.shape[1] + room
    state = model.init_state(len(unique), length if model.context is None else min(length, model.context))
    device = device_of(model)
    logits, state = read(model, ids.to(device), state, lengths.to(device))
    if len(unique) < len(prompts):
        rows = torch.tensor([unique[tuple(prompt)] for prompt in prompts], device=device)
        logits, state = logits[rows.to(logits.device)], state.select(rows)
    return logits, state


def read(model: LanguageModel, ids: Tensor, state: Any, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
    """One `step` without gradients or dropout: ids [N, T] → (next-token logits float64 [N, V], state)."""
    training = isinstance(model, nn.Module) and model.training
    if training:
        model.eval()  # type: ignore[attr-defined]
    try:
        with torch.no_grad():
            logits, state = model.step(ids.to(device_of(model)), state, lengths, last=True)
    finally:
        if training:
            model.train()  # type: ignore[attr-defined]
    logits = logits[:, -1]
    return (logits.cpu() if logits.device.type == "mps" else logits).double(), state  # mps has no float64


def check_numbers(normalisers: Sequence[float]) -> None:
    """Raises UserError (exit 5) unless each log-sum-exp of a row of logits is a number below infinity."""
    if any(math.isnan(normaliser) or normaliser == math.inf for normaliser in normalisers):
        raise UserError(
            "the model's logits are not numbers", "its weights are damaged or diverged: use another", Exit.DIVERGED
        )


def device_of(model: Any) -> torch.device:
    """Where the model's weights are; the CPU for one without weights."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), torch.device("cpu"))
