"""Soft prompts: learnt vectors before what a model reads (Lester et al. 2021, arXiv 2104.08691).

Before every text of a decoder or encoder, before every source of an encoder-decoder; they take positions as tokens do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from idiolect import seeds
from idiolect.adapt.edited import core
from idiolect.adapt.heads import Labelled
from idiolect.adapt.settings import SoftPromptSettings
from idiolect.errors import UserError
from idiolect.models.decoder import Decoder
from idiolect.models.encoder import Encoder
from idiolect.models.encoder_decoder import EncoderDecoder


def add(model: Any, settings: SoftPromptSettings, *, seed: int = 0) -> list[str]:
    """Puts a prompt before what the model reads; returns its name. Raises UserError for a model that can have none."""
    bare, n = core(model), settings.tokens
    if not isinstance(bare, (Decoder, Encoder, EncoderDecoder)):
        raise UserError(f"a model of kind {model.settings.kind} takes no soft prompt", "use another adapt.kind")
    if isinstance(bare, EncoderDecoder) and isinstance(bare.encoder, Encoder):
        raise UserError("an encoder of settings of its own takes no soft prompt", "use adapt.kind=lora")
    if isinstance(bare, Decoder) and bare.bound is not None:
        what = "a model whose rotations change as a text grows (longrope) takes no soft prompt"
        raise UserError(what, "use adapt.kind=lora")
    before = context_of(bare)
    if before is not None and before <= n:
        raise UserError(f"{n} vectors leave nothing of a context of {before}", "lower adapt.tokens")
    like = bare.embedding.weight
    factor = like.shape[1] ** 0.5 if isinstance(bare, Decoder) and bare.settings.scaled_embedding else 1.0
    prompt = nn.Parameter(like.new_empty(n, like.shape[1]))
    if like.device.type != "meta":
        generator = seeds.generator(seed, "weights", "prompt")
        if settings.start == "vocabulary":
            rows = torch.randint(bare.vocabulary, (n,), generator=generator)
            prompt.data = like.detach()[rows] * factor
        else:
            prompt.data = torch.randn(prompt.shape, generator=generator).to(like) * like.detach().std() * factor
    bare.prompt = prompt
    if not isinstance(bare, EncoderDecoder):
        bare.context -= n
        if isinstance(model, Labelled):
            model.context = bare.context
    return ["prompt" if bare is model else "base.prompt"]


def context_of(bare: Any) -> int | None:
    """Positions that what is read may take: a text, or of an encoder-decoder the source."""
    most: int | None = bare.longest_source if isinstance(bare, EncoderDecoder) else bare.context
    return most
