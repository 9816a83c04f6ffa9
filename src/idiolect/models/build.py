"""From settings to a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from idiolect import seeds
from idiolect.models.cbow import Cbow
from idiolect.models.contract import Network
from idiolect.models.decoder import Decoder
from idiolect.models.encoder import Encoder
from idiolect.models.encoder_decoder import EncoderDecoder
from idiolect.models.ngram import NGram
from idiolect.models.recurrent import Recurrent
from idiolect.models.seq2seq import Seq2Seq
from idiolect.models.settings import FamilySettings, NGramSettings

KINDS: dict[str, Any] = {
    "ngram": NGram,
    "rnn": Recurrent,
    "lstm": Recurrent,
    "gru": Recurrent,
    "seq2seq": Seq2Seq,
    "decoder": Decoder,
    "encoder": Encoder,
    "encoder-decoder": EncoderDecoder,
    "cbow": Cbow,
}
"""What is built for each model.kind: a class of (settings, vocabulary); but for the n-gram, a `Network`."""

Model = NGram | Network


def build(
    settings: FamilySettings,
    vocabulary: int,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    kinds: Mapping[str, Any] = KINDS,
    begin_id: int = 0,
    end_id: int = 0,
    pad_id: int = 1,
) -> Model:
    """A model of `vocabulary` ids with fresh weights in float32; "meta" gives shapes without memory.

    Every parameter is drawn on the CPU from (seed, its name) alone: neither the device, nor torch's global generator,
    nor another parameter changes it. `kinds` has the class of each kind; the special ids are for the n-gram, which has
    no weights.
    """
    if isinstance(settings, NGramSettings):
        return NGram(settings, vocabulary, begin_id=begin_id, end_id=end_id, pad_id=pad_id)
    with torch.device(device), _Unfilled():
        model: Network = kinds[settings.kind](settings, vocabulary)
    if torch.device(device).type != "meta":
        draw(model, seed, [name for name, _ in model.named_parameters()])
    return model


@torch.no_grad()
def draw(model: Network, seed: int, names: Iterable[str]) -> None:
    """Gives the parameters of these names their first values, each a function of (seed, its name) alone."""
    for name in names:
        parameter = model.get_parameter(name)
        weights = torch.empty(parameter.shape)
        model.initialise(name, weights, seeds.generator(seed, "weights", name))
        parameter.copy_(weights)


class _Unfilled(TorchFunctionMode):
    """Leaves out torch's own filling of weights, which ours replaces.

    It would draw from torch's global generator, and for "meta" import torch's compiler, which takes 1 s and 80 MB.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls what was called, unless it is one of `torch.nn.init`, which all give back their tensor."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
