"""Reading with LongRoPE, whose rotations are others once a text has outgrown the first context.

A token's distribution is that of a text that ends before it: as long as the text is short it is read with the short
factors, and from the first token past the bound on, all of it is read with the long ones (as transformers generates
with Phi-3). Keys and values that were made with others are made anew, once a text. Shapes: B rows, T positions,
D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from idiolect.models.keyvalues import KeyValues


def step(
    model: Any, ids: Tensor, state: KeyValues, lengths: Tensor | None, last: bool, bound: int
) -> tuple[Tensor, KeyValues]:
    """`Decoder.step` where texts of more than `bound` tokens are long."""
    T, had = ids.shape[1], state.long
    assert had is not None
    real = torch.full_like(state.lengths, T) if lengths is None else lengths
    short = (bound - state.lengths).clamp_min(0).minimum(real)  # of this call, how many ids end short texts
    if not last and ((short > 0) & (short < real)).any():  # these, then the others
        before, state = step(model, ids, state, short, last, bound)
        index = torch.arange(T, device=ids.device)
        rest = ids.gather(1, (index + short[:, None]).clamp(max=T - 1))
        after, state = step(model, rest, state, real - short, last, bound)
        back = (index - short[:, None]).clamp_min(0)[..., None].expand_as(after)
        return torch.where((index < short[:, None])[..., None], before, after.gather(1, back)), state
    long = torch.where(real > 0, state.lengths + real > bound, had)
    stale = ((long != had) & (state.lengths > 0)).nonzero().flatten()
    if len(stale):
        _read_anew(model, state, stale, long[stale])
    state.long = long
    return model.advance(ids, state, lengths, last, long)


def _read_anew(model: Any, state: KeyValues, rows: Tensor, long: Tensor) -> None:
    """Makes the keys and values of some rows again, with the other rotations."""
    assert state.ids is not None
    lengths = state.lengths[rows]
    fresh = model.init_state(len(rows), state.capacity)
    model.advance(state.ids[rows, : int(lengths.max())], fresh, lengths, True, long)
    fresh.long = long
    state.put(rows, fresh)
