"""Heads that give labels: of a text, or of each of its words.

Shapes: B rows, T positions, D width, C labels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from idiolect.adapt.report import Report
from idiolect.adapt.settings import LABELS, Body, LabelledSettings
from idiolect.data.labels import Frame
from idiolect.models import build
from idiolect.models.contract import LanguageModel, Network, last_positions
from idiolect.models.settings import EncoderDecoderSettings, RecurrentSettings
from idiolect.tokens.tokenizer import Tokenizer


class Labelled(Network):
    """A model's body under a head for labels.

    A text's label is read from one vector h: the hidden vector of its first position (BERT, Devlin et al. 2019,
    section 3.2), of its last one, the only one of a causal body that has seen the whole text (Radford et al. 2018,
    section 3.2), or the mean over all its positions. A word's label is read at its first or its last token. Of an
    encoder-decoder it is the encoder that reads, and its decoder is left out (Ni et al. 2022, Sentence-T5).
    The logits are W h + b, or W f(U h + c) + b with a layer in between, where f is tanh or ReLU.
    """

    refusal = "gives labels, not tokens"
    settings: LabelledSettings

    def __init__(self, settings: LabelledSettings, vocabulary: int, base: Network | None = None) -> None:
        """base: the model to take the body of, which loses what it read tokens with; None makes one."""
        super().__init__()
        self.settings = settings
        self.vocabulary = vocabulary
        self.base: Network = build.KINDS[settings.base.kind](settings.base, vocabulary) if base is None else base
        self.encodes = isinstance(settings.base, EncoderDecoderSettings)
        self.context = self.base.settings.longest_source if self.encodes else self.base.context
        self.causal = isinstance(self.base, LanguageModel) and not self.encodes
        for part in self.base.token_parts:
            delattr(self.base, part)
        D = settings.base.width
        self.dense = None if settings.hidden == "none" else nn.Linear(D, D)
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(D, len(settings.labels))

    def initialise(self, name: str, weights: Tensor, generator: torch.Generator) -> None:
        """Fills the parameter `name` in place: the body as its family does; matrices normal (0.02), biases 0."""
        if name.startswith("base."):
            self.base.initialise(name.removeprefix("base."), weights, generator)
        elif name.endswith("bias"):
            weights.zero_()
        else:
            weights.normal_(0.0, 0.02, generator=generator)

    def shared(self) -> dict[str, str]:
        """Nothing: the output matrix that a tied body shared with its embedding is gone."""
        return {}

    @property
    def before(self) -> int:
        """Positions that a soft prompt takes of the context."""
        prompt = getattr(self.base, "prompt", None)
        return 0 if prompt is None else len(prompt)

    @property
    def compiles(self) -> bool:
        """Whether torch.compile helps the body."""
        return getattr(self.base, "compiles", True)

    @property
    def activation_checkpointing(self) -> bool:
        """Whether the body's layers are computed again in the backward pass instead of kept."""
        return self.base.activation_checkpointing

    @activation_checkpointing.setter
    def activation_checkpointing(self, value: bool) -> None:
        self.base.activation_checkpointing = value

    def body(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """ids [B, T], right-padded after lengths [B] → hidden [B, T, D]; what padding gives is to be left alone."""
        body: Callable[..., Tensor] = self.base.encode if self.encodes else self.base.body  # type: ignore[assignment]
        padding = lengths
        if self.causal:  # which does not read what follows; few models mind how much does
            padding = None if lengths is None or not getattr(self.base, "minds_padding", False) else apart(ids, lengths)
        hidden = body(ids, padding)
        if self.encodes:  # which gives what stands for a soft prompt, too
            hidden = hidden[:, self.before :]
        self.auxiliary = self.base.auxiliary
        return hidden

    def logits(self, hidden: Tensor, lengths: Tensor | None = None) -> Tensor:
        """hidden [B, T, D], lengths [B] → logits [B, C] of each text, or [B, T, C] of each token.

        Of numbers C is 1, and the output how many deviations they are above the mean.
        """
        if self.settings.each != "word":
            hidden = pooled(hidden, lengths, self.settings.pool)
        if self.dense is not None:
            hidden = self.dense(hidden)
            hidden = hidden.tanh() if self.settings.hidden == "tanh" else hidden.relu()
        logits: Tensor = self.head(self.dropout(hidden))
        return logits


KINDS = {**build.KINDS, LABELS: Labelled}
"""What is built for each kind of settings, edited models among them."""


def apart(ids: Tensor, lengths: Tensor) -> Tensor:
    """Segments [B, T] of rows of one text each, padding -1."""
    return -(torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]).long()


def pooled(hidden: Tensor, lengths: Tensor | None, pool: str) -> Tensor:
    """hidden [B, T, D] → one vector a row [B, D]: that of its first or last real position, or the mean over them."""
    if pool == "first":
        return hidden[:, 0]
    if pool == "last":
        return last_positions(hidden, lengths)[:, 0]
    if lengths is None:
        return hidden.mean(1)
    real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    return hidden.masked_fill(~real[..., None], 0).sum(1) / lengths[:, None]


def attach(base: Network, settings: LabelledSettings, *, seed: int, freeze: bool = False) -> tuple[Labelled, Report]:
    """The model's body under a new head, whose weights are drawn from (seed, their names); `base` is used up.

    Where BERT's pooler came with the body, it is the layer between body and labels. With `freeze` only the head trains.
    """
    gone = [f"base.{name}" for name in base.token_parts if getattr(base, name) is not None]
    pooler = getattr(base, "pooler", None)
    model = Labelled(settings, base.vocabulary, base)
    new = [name for name, _ in model.named_parameters() if not name.startswith("base.")]
    build.draw(model, seed, new)
    if pooler is not None and model.dense is not None and settings.hidden == "tanh":
        model.dense.load_state_dict(pooler.state_dict())
    if freeze:
        model.base.requires_grad_(False)
    return model, Report.of(model, (*gone, *new))


def frame(base: Body, tokenizer: Tokenizer, before: int = 0) -> Frame:
    """How a text is framed for the body: a causal one reads no end, so that its last token is the text's own.

    before: positions that a soft prompt takes of the context.
    """
    if isinstance(base, EncoderDecoderSettings):
        most = base.longest_source
        return Frame((), (tokenizer.end_id,), None if most is None else most - before)
    row = tokenizer.framed([-1]) if base.kind == "encoder" else [tokenizer.begin_id, -1]
    text = row.index(-1)
    recurrent = isinstance(base, RecurrentSettings)  # whose context only cuts windows of long texts
    context = None if recurrent else base.context - before
    return Frame(tuple(row[:text]), tuple(row[text + 1 :]), context)
