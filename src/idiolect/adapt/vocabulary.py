"""New tokens for a built model: rows of its embedding and of its head.

V ids of the model, D width.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from idiolect.adapt.report import Report
from idiolect.models.build import build
from idiolect.models.contract import Network


def grow(model: Network, vocabulary: int, fresh: Collection[int] = ()) -> tuple[Network, Report]:
    """The model with `vocabulary` ids (at least V); `model` is used up.

    The rows of new ids, and of the `fresh` ones among the V (padding of the vocabulary that now gets a meaning), are
    the mean of all other rows: a new token is then about as likely as any, and leaves the others' order alone.
    """
    V = model.vocabulary
    made = build(model.settings, vocabulary, device="meta")
    assert isinstance(made, Network)
    tensors, touched = dict(model.state_dict()), rows_of(model)
    new = [*sorted(fresh), *range(V, vocabulary)]
    old = torch.ones(V, dtype=torch.bool)
    old[[i for i in new if i < V]] = False
    for name in touched:
        rows = tensors[name]
        grown = torch.cat([rows, rows.new_zeros(vocabulary - V, *rows.shape[1:])])
        grown[new] = rows[old.to(rows.device)].mean(0)
        tensors[name] = grown
    made.load_state_dict(tensors, assign=True)
    made.tie()
    made.model_type = model.model_type
    made.fresh = fresh_rows(made)
    return made, Report.of(made, tuple(touched))


def rows_of(model: Network) -> list[str]:
    """The tensors that have a row for each id: those that a model of one id more has larger."""
    other = build(model.settings, model.vocabulary + 1, device="meta")
    assert isinstance(other, Network)
    sizes = {name: tensor.shape for name, tensor in other.state_dict().items()}
    return [name for name, tensor in model.state_dict().items() if tensor.shape != sizes[name]]


def fresh_rows(model: Network) -> tuple[str, ...]:
    """Those of them that are parameters of their own."""
    names = {name for name, _ in model.named_parameters()}
    return tuple(name for name in rows_of(model) if name in names)
