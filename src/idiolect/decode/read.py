"""The model's side of decoding: prompts checked and read, one step at a time.

Shapes: B prompts, N rows still going, T positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
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
        begins = tokenizer.begin_id is not None and tokenizer.begin_id < model.vocabulary
        begin = [tokenizer.begin_id] if begins else []  # a foreign model may have nothing that begins a text
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


def read_prompts(
    model: LanguageModel, prompts: Sequence[Sequence[int]], room: int, sources: Sequence[Tensor] | None = None
) -> tuple[Tensor, Any]:
    """Reads prompts of any lengths, equal ones once; returns (next-token logits float64 [B, V], state).

    `room` is how many more tokens the state will be asked to hold. `sources` are what a sequence-to-sequence model
    reads first, ids [S] or frames [S, F] of any lengths.
    """
    told = [b""] * len(prompts) if sources is None else [source.numpy().tobytes() for source in sources]
    keys = [(tuple(prompt), source) for prompt, source in zip(prompts, told, strict=True)]
    place = {key: i for i, key in reversed(list(enumerate(keys)))}  # where each first stands
    unique = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    lengths = torch.tensor([len(prompt) for prompt, _ in unique])
    ids = torch.zeros(len(unique), int(lengths.max()), dtype=torch.int64)
    for row, (prompt, _) in enumerate(unique):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    length, device = ids.shape[1] + room, device_of(model)
    length = length if model.context is None else min(length, model.context)
    given = () if sources is None else padded([sources[place[key]] for key in unique], device)
    with still(model):
        state = model.init_state(len(unique), length, *given)
    logits, state = read(model, ids.to(device), state, lengths.to(device))
    if len(unique) < len(prompts):
        rows = torch.tensor([unique[key] for key in keys], device=device)
        logits, state = logits[rows.to(logits.device)], state.select(rows)
    return logits, state


def padded(sources: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Sources [S] or [S, F] of any lengths as one [B, S] or [B, S, F], and their lengths [B]."""
    lengths = torch.tensor([len(source) for source in sources], device=device)
    return nn.utils.rnn.pad_sequence(list(sources), batch_first=True).to(device), lengths


def read(model: LanguageModel, ids: Tensor, state: Any, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
    """One `step` without gradients or dropout: ids [N, T] → (next-token logits float64 [N, V], state)."""
    with still(model):
        logits, state = model.step(ids.to(device_of(model)), state, lengths, last=True)
    logits = logits[:, -1]
    return (logits.cpu() if logits.device.type == "mps" else logits).double(), state  # mps has no float64


@contextlib.contextmanager
def still(model: Any) -> Iterator[None]:
    """No gradients, and no dropout in a model that is being trained."""
    training = isinstance(model, nn.Module) and model.training
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()


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
