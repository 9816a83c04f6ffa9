"""What every language model of the house is: the one contract that decoding, scoring and training know.

Shapes: B rows, T positions, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from idiolect.config import Settings


@runtime_checkable
class State(Protocol):
    """What a model remembers of each row. Its layout is private to the model."""

    lengths: Tensor
    """Tokens each row has consumed, int64 [B]."""

    def select(self, rows: Tensor) -> Self:
        """A new state whose row i is a copy of row rows[i] (int64 [N]); beams fork with it."""
        ...

    def put(self, rows: Tensor, other: Self) -> None:
        """Copies row i of `other` into slot rows[i], in place; continuous batching fills slots with it."""
        ...

    def truncate(self, lengths: Tensor) -> None:
        """Goes back to `lengths` (int64 [B]), which lie within the last `step` call, in place."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """p(next token | what came before), for any family."""

    # properties, so that a model may narrow their types; attributes satisfy them too
    @property
    def settings(self) -> Settings:
        """The settings of the family."""
        ...

    @property
    def vocabulary(self) -> int:
        """V, the number of ids."""
        ...

    @property
    def context(self) -> int | None:
        """Longest sequence the model can read; None: no limit."""
        ...

    @property
    def normalised(self) -> bool:
        """Whether exp(score) is a probability; False refuses perplexity and bits per byte."""
        ...

    def init_state(
        self, batch: int, length: int, source: Tensor | None = None, source_lengths: Tensor | None = None
    ) -> Any:
        """The state of `batch` rows before any token, allocated for `length` tokens."""
        ...

    def step(self, ids: Tensor, state: Any, lengths: Tensor | None = None, last: bool = False) -> tuple[Tensor, Any]:
        """Reads ids [B, T]; returns (logits [B, T, V], or [B, 1, V] at each row's last real id if `last`, state).

        Logits are float32 or better, whatever the weights are: bf16 has ties where a model has none.
        Ids are right-padded: ids at or past lengths[b] (int64 [B], all T when None) change nothing. The state
        passed in is consumed. A row of length 0 keeps its state; its logits mean nothing.
        """
        ...

    def score(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Natural log-probabilities [B, T] in float32 or better: out[b, t] = log p(ids[b, t] | ids[b, :t]).

        Column 0 is 0 (the first id is given: callers put end-of-text there), and so is everything at or past
        lengths[b].
        """
        ...


@runtime_checkable
class SequenceToSequence(LanguageModel, Protocol):
    """p(target | source): a language model of targets that has read a source, which `init_state` is given."""

    def encode(self, source: Tensor, source_lengths: Tensor | None = None) -> Any:
        """What is remembered of sources: int64 ids [B, S] or float frames [B, S, F], of which source_lengths [B]."""
        ...

    def alignments(self, ids: Tensor, source: Tensor) -> Tensor:
        """What was read of one source [S] to write what follows each of ids [T]: weights [L, H, T, S].

        Raises UserError for a model without attention.
        """
        ...


class Network(nn.Module):
    """What every model with weights has, whatever it computes: `KINDS` holds nothing else but the n-gram."""

    settings: Any
    """The settings of the family."""
    vocabulary: int
    """V, the number of ids."""
    context: int | None
    """Longest sequence the model can read; None: no limit."""
    head: nn.Linear
    """Hidden vectors [..., D] → logits [..., V]."""
    token_parts: tuple[str, ...] = ("head",)
    """The modules after the body, for which a model that gives something else than tokens has no use."""
    normalised = True
    """Whether exp(score) is a probability."""
    model_type: str | None = None
    """The Hugging Face type of the folder it comes from, as which it is saved again while that can express it."""
    refusal = ""
    """Why it cannot continue a text, after "it"; empty for a `LanguageModel`."""
    auxiliary: Tensor | None = None
    """A further term of the loss that the last call of `body` made while training, a mean; None for most models."""
    activation_checkpointing = False
    """Whether layers are computed again in the backward pass instead of kept."""
    fresh: tuple[str, ...] = ()
    """Parameters that are new since the others were read, and so train whatever is frozen: rows for new tokens."""
    edit: Any = None
    """What `adapt` made of it after it was built; None: nothing, or a whole model of its own."""

    def initialise(self, name: str, weights: Tensor, generator: torch.Generator) -> None:
        """Fills the parameter `name` in place with its first values."""
        raise NotImplementedError

    def shared(self) -> Mapping[str, str]:
        """Parameters that are another one under a second name, and so neither written nor read: name → the other."""
        return {"head.weight": "embedding.weight"} if self.settings.tied else {}

    def tie(self) -> None:
        """Makes the parameters of `shared` the same; after weights were replaced, too."""
        for name, other in self.shared().items():
            module, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(module), leaf, self.get_parameter(other))


def last_positions(logits: Tensor, lengths: Tensor | None) -> Tensor:
    """Logits [B, T, V] (or any [B, T, D]) → [B, 1, V] at each row's last real position."""
    if lengths is None:
        return logits[:, -1:]
    index = (lengths.to(logits.device) - 1).clamp_min(0)
    return logits[torch.arange(logits.shape[0], device=logits.device), index].unsqueeze(1)
