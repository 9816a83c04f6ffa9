"""The parts a transformer is made of: norms, rotary positions, attention, MLP and the block that joins them.

Shapes: B rows, T positions, S positions attended to, D width, H query heads, K key/value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idiolect.models import fused, fused_block
from idiolect.models.rope import frequencies, turns
from idiolect.models.settings import TransformerSettings

Cache = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes a call's keys and values [B, K, T, d]; returns those to attend to, [B, K, S, d]."""


class RmsNorm(nn.RMSNorm):
    """x / √(mean(x²) + ε) times a weight, in the type of x; autocast hands it bf16 where the weight is fp32."""

    rounds = True
    """Whether its result is only for products to read, and so bf16 where autocast would make it so for them."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] → [..., D]."""
        if self.rounds and x.dtype == torch.float32 and fused.usable(x):
            return fused.norm(x, self.weight, None, self.eps or 0.0, centre=False)
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class OffsetRmsNorm(nn.RMSNorm):
    """RmsNorm times 1 + weight, in float32 (Gemma)."""

    rounds = True
    """As in RmsNorm."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] → [..., D]."""
        if self.rounds and x.dtype == torch.float32 and fused.usable(x):
            return fused.norm(x, 1 + self.weight, None, self.eps or 0.0, centre=False)
        return F.rms_norm(x.float(), self.normalized_shape, 1 + self.weight.float(), self.eps).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """(x - mean) / √(variance + ε) times a weight, plus a bias."""

    rounds = True
    """As in RmsNorm."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] → [..., D]."""
        if self.rounds and x.dtype == torch.float32 and fused.usable(x):
            return fused.norm(x, self.weight, self.bias, self.eps, centre=True)
        return super().forward(x)


NORMS: Mapping[str, Any] = {"rms": RmsNorm, "rms-offset": OffsetRmsNorm, "layer": LayerNorm}


def norm(width: int, settings: TransformerSettings) -> nn.Module:
    """The norm of the settings: RMSNorm (Zhang and Sennrich 2019) or LayerNorm (Ba et al. 2016)."""
    out = NORMS[settings.norm](width, eps=settings.norm_epsilon)
    out.rounds = settings.norm_place != "residual"  # there, norms make the residual stream itself
    return out


STD = 0.02
"""Standard deviation of initial weights, as GPT-2."""


def initialise(name: str, weights: Tensor, generator: torch.Generator, settings: TransformerSettings) -> None:
    """Fills the parameter `name` of a transformer in place (Radford et al. 2019, section 2.3).

    Normal with deviation 0.02, divided by √(2 L) for the projections that write to the residual stream; norms 1;
    biases 0.
    """
    if name.endswith("bias"):
        weights.zero_()
    elif "norm" in name:
        weights.fill_(0.0 if settings.norm == "rms-offset" else 1.0)
    else:
        writes = name.endswith((".out.weight", ".down.weight"))
        weights.normal_(0.0, STD / (2 * settings.layers) ** 0.5 if writes else STD, generator=generator)


def rotary(positions: Tensor, d: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [..., T, d] of rotary positions [..., T]; see `rope.turns`."""
    return turns(positions, frequencies(d, theta, device=positions.device))


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns each head's pairs of components: x [B, H, T, d], cosine and sine [..., T, d].

    Where these are narrower than the heads, what lies past their width stays.
    """
    r = cosine.shape[-1]
    x, rest = x[..., :r], x[..., r:]
    turned = torch.cat((-x[..., r // 2 :], x[..., : r // 2]), dim=-1)
    out = x * cosine.to(x.dtype) + turned * sine.to(x.dtype)
    return torch.cat((out, rest), dim=-1) if rest.shape[-1] else out


def positions_within(segments: Tensor) -> Tensor:
    """Position of each token within its run of equal segment numbers: int64 [B, T] → int64 [B, T], from 0."""
    T = segments.shape[1]
    index = torch.arange(T, device=segments.device).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values


def lengths_within(segments: Tensor) -> Tensor:
    """Length of the run of equal segment numbers that each token lies in: int64 [B, T] → int64 [B, T]."""
    return positions_within(segments) + positions_within(segments.flip(1)).flip(1) + 1


def prompted(prompt: Tensor | None, x: Tensor) -> Tensor:
    """A soft prompt [n, D] before every row of x [B, T, D] → [B, n + T, D]."""
    return x if prompt is None else torch.cat((prompt.to(x.dtype).expand(len(x), -1, -1), x), dim=1)


def blank(ids: Tensor, lengths: Tensor | None) -> Tensor:
    """ids [B, T] with 0 at and past lengths [B]: a padding id that the model has no row for must do no harm."""
    if lengths is None:
        return ids
    return ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None], 0)


def reach(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Which keys a causal query may read: positions [..., T] and [S] → bool [..., T, S].

    A query reads keys at its own position or before it; with a window only the last `window` of them.
    """
    distance = queries[..., None] - keys
    allowed = distance >= 0
    return allowed if window is None else allowed & (distance < window)


def between(first: Tensor, last: Tensor) -> Tensor:
    """The mask of ranges: query t reads keys first[..., t] to last[t]: int [..., T] and [T] → bool [..., T, T]."""
    keys = torch.arange(len(last), device=last.device)
    return (first[..., None] <= keys) & (keys <= last[:, None])


class Heads(nn.Module):
    """Multi-head attention with grouped key/value heads (Vaswani et al. 2017, eq. 1; Ainslie et al. 2023).

    softmax(Q Kᵀ / √d) V in each head; query head h reads key/value head h // (H / K). `scale` takes the place of
    1 / √d; with a `softcap` c the scores s become c · tanh(s / c) (Gemma 2, arXiv 2408.00118, section 2). `joint` norms
    queries and keys over all heads together (OLMo 2, arXiv 2501.00656, section 3.1), where qk_norm asks for norms.
    """

    def __init__(
        self,
        settings: TransformerSettings,
        *,
        scale: float | None = None,
        softcap: float | None = None,
        joint: bool = False,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        D, H, K, d = settings.width, settings.heads, settings.n_kv, settings.d_head
        bias, kind = settings.attention_bias != "none", OffsetRmsNorm if settings.norm == "rms-offset" else RmsNorm
        self.d = d
        self.scale, self.softcap, self.joint = d**-0.5 if scale is None else scale, softcap, joint
        self.query = nn.Linear(D, H * d, bias=bias)
        self.key = nn.Linear(D, K * d, bias=bias)
        self.value = nn.Linear(D, K * d, bias=bias)
        self.out = nn.Linear(H * d, D, bias=settings.attention_bias == "all")
        self.query_norm, self.key_norm = (
            kind(heads * d if joint else d, eps=settings.norm_epsilon) if settings.qk_norm else nn.Identity()
            for heads in (H, K)
        )
        self.grouped = H != K
        self.dropout = settings.dropout if dropout is None else dropout
        """Share of what is read that is dropped while training."""

    def queries(self, x: Tensor) -> Tensor:
        """x [B, T, D] → queries [B, H, T, d]."""
        return self._heads(self.query, self.query_norm, x)

    def keys(self, x: Tensor) -> Tensor:
        """x [B, S, D] → keys [B, K, S, d]."""
        return self._heads(self.key, self.key_norm, x)

    def values(self, x: Tensor) -> Tensor:
        """x [B, S, D] → values [B, K, S, d]."""
        return fused.linear(self.value, x).unflatten(-1, (-1, self.d)).transpose(1, 2)

    def _heads(self, layer: nn.Linear, norm: nn.Module, x: Tensor) -> Tensor:
        x = fused.linear(layer, x)
        x = norm(x).unflatten(-1, (-1, self.d)) if self.joint else norm(x.unflatten(-1, (-1, self.d)))
        return x.transpose(1, 2)

    def fuses(self, x: Tensor) -> bool:
        """Whether the fused kernel takes inputs like x, and so ranges, lengths and biases in place of masks."""
        return self.softcap is None and not (self.training and self.dropout) and fused.attends(x, self.d)

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        first: Tensor | None = None,
        lengths: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """q [B, H, T, d], k and v [B, K, S, d] → [B, T, D]. mask, to [B, H, T, S], takes the place of `causal`.

        A mask is True where a key may be read, or numbers that are added to the scores. first, lengths and bias are
        `fused.attention`'s, where `fuses` allows them.
        """
        if mask is None and self.fuses(q):
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            heads = fused.attention(q, k, v, first, causal=causal, lengths=lengths, bias=bias, scale=self.scale)
            return fused.linear(self.out, heads.flatten(2))
        assert first is lengths is bias is None
        dropout = self.dropout if self.training else 0.0
        if self.softcap is not None:
            out = F.dropout(self.read(q, k, mask, causal), dropout) @ self.repeat(v)
        else:
            out = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask if mask is None or mask.dtype == torch.bool else mask.to(q.dtype),
                is_causal=causal and mask is None,
                dropout_p=dropout,
                scale=self.scale,
                enable_gqa=self.grouped,
            )
        return self.out(out.transpose(1, 2).flatten(2))

    def read(self, q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """What each query reads of each key, q [B, H, T, d] and k [B, K, S, d] → [B, H, T, S], whose rows sum to 1."""
        scores = (q @ self.repeat(k).transpose(-1, -2)).float() * self.scale
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if mask is None and causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1).to(q.dtype)

    def repeat(self, x: Tensor) -> Tensor:
        """[B, K, S, d] → [B, H, S, d]: each key/value head once for every query head that reads it."""
        return x.repeat_interleave(self.query.out_features // self.d // x.shape[1], dim=1) if self.grouped else x


class Attention(Heads):
    """Attention of a sequence to itself."""

    def project(self, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] → queries [B, H, T, d], keys and values [B, K, T, d], rotated when rope is given."""
        q, k = self.queries(x), self.keys(x)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        return q, k, self.values(x)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        causal: bool = True,
        cache: Cache | None = None,
        first: Tensor | None = None,
        lengths: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """x [B, T, D] → [B, T, D]; the other arguments are those of `mix`."""
        q, k, v = self.project(x, rope)
        if cache is not None:
            k, v = cache(k, v)
        return self.mix(q, k, v, mask, causal, first, lengths, bias)

    def weights(self, x: Tensor, rope: tuple[Tensor, Tensor] | None, mask: Tensor) -> Tensor:
        """How much each head's queries read of each position: x [B, T, D], mask to [B, H, T, T] → [B, H, T, T].

        The fused kernel never holds these; they are computed here for people to look at.
        """
        q, k, _ = self.project(x, rope)
        return self.read(q, k, mask, causal=False)


class CrossAttention(Heads):
    """Attention of one sequence to another, the memory, whose keys and values are made once."""

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """memory [B, S, D] → its keys and values, [B, K, S, d] each."""
        return self.keys(memory), self.values(memory)

    def forward(
        self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """x [B, T, D] → [B, T, D], of remembered keys and values; mask and lengths are those of `mix`."""
        return self.mix(self.queries(x), *memory, mask, lengths=lengths)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "geglu": partial(F.gelu, approximate="tanh"),
    "gelu": partial(F.gelu, approximate="tanh"),
    "gelu-exact": F.gelu,
    "relu": F.relu,
}


class Mlp(nn.Module):
    """The position-wise network: down(f(up(x))), or gated down(f(gate(x)) · up(x)) (Shazeer 2020, arXiv 2002.05202).

    `width` takes the place of the settings' hidden width.
    """

    def __init__(self, settings: TransformerSettings, width: int | None = None) -> None:
        super().__init__()
        D, W, bias = settings.width, width or settings.d_mlp, settings.mlp_bias
        self.kind, self.gated = settings.mlp, settings.gated
        if self.gated:
            self.gate = nn.Linear(D, W, bias=bias)
        self.up = nn.Linear(D, W, bias=bias)
        self.down = nn.Linear(W, D, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] → [..., D]."""
        u = fused.linear(self.up, x)
        inputs = (fused.linear(self.gate, x), u) if self.gated else (u,)
        if self.kind in fused.ACTIVATIONS and fused.usable(u):
            if type(self.down) is nn.Linear and fused.plain(self.down):
                return fused.activated(self.down, self.kind, *inputs)
            return self.down(fused.swiglu(*inputs) if self.gated else fused.gelu(u))
        active = ACTIVATIONS[self.kind](inputs[0])
        return fused.linear(self.down, active * u if self.gated else active)


class CappedHead(nn.Linear):
    """A head whose logits are c · tanh(x Wᵀ / c) (Gemma 2, arXiv 2408.00118, section 2)."""

    def __init__(self, width: int, vocabulary: int, softcap: float) -> None:
        super().__init__(width, vocabulary, bias=False)
        self.softcap = softcap

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] → [..., V]."""
        return self.capped(super().forward(x))

    def capped(self, logits: Tensor) -> Tensor:
        """c · tanh(logits / c)."""
        return torch.tanh(logits / self.softcap) * self.softcap


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); norm_place moves the norms.

    `attention` and `mlp` take the place of what the settings would make.
    """

    def __init__(
        self, settings: TransformerSettings, attention: Attention | None = None, mlp: nn.Module | None = None
    ) -> None:
        super().__init__()
        D, self.norm_place = settings.width, settings.norm_place
        self.attention_norm = norm(D, settings)
        self.attention = attention or Attention(settings)
        self.mlp_norm = norm(D, settings)
        self.mlp = mlp or Mlp(settings)
        self.dropout = nn.Dropout(settings.dropout)
        if self.norm_place == "both":
            self.attention_norm_after, self.mlp_norm_after = norm(D, settings), norm(D, settings)

    def linears(self) -> list[nn.Linear]:
        """Query, key, value, out, up, down, and gate where there is one."""
        attention, mlp = self.attention, self.mlp
        assert isinstance(mlp, Mlp)
        gate = [mlp.gate] if mlp.gated else []
        return [attention.query, attention.key, attention.value, attention.out, mlp.up, mlp.down, *gate]

    def fuses(self, x: Tensor) -> bool:
        """Whether `fused_block` computes what the modules would: x fp32 in bf16 training, none edited or watched."""
        attention, mlp = self.attention, self.mlp
        if x.dtype != torch.float32 or type(attention) is not Attention or type(mlp) is not Mlp:
            return False
        parts = [attention, mlp, self.attention_norm, self.mlp_norm, *self.linears()]
        return (
            self.norm_place == "before"
            and attention.scale == attention.d**-0.5
            and mlp.kind in fused.ACTIVATIONS
            and isinstance(attention.query_norm, nn.Identity)
            and not (self.training and self.dropout.p)
            and attention.fuses(x)
            and type(self.attention_norm) is type(self.mlp_norm) in (RmsNorm, LayerNorm)
            and all(fused_block.takes(layer, x) for layer in self.linears())
            and all(map(fused.plain, parts))
        )

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        causal: bool = True,
        cache: Cache | None = None,
        first: Tensor | None = None,
        lengths: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """x [B, T, D] → [B, T, D]; the arguments are those of Attention."""
        plain = causal and mask is None and cache is None and bias is None and self.fuses(x)
        if plain and (rope is None or rope[0].shape[-1] == self.attention.d):  # the kernel turns whole heads
            return fused_block.forward(self, x, rope, first)

        def attend(read: Tensor) -> Tensor:
            return self.attention(read, rope, mask, causal, cache, first, lengths, bias)

        return self.add(self.add(x, attend, "attention_norm"), self.mlp, "mlp_norm")

    def add(self, x: Tensor, sublayer: Callable[[Tensor], Tensor], name: str) -> Tensor:
        """x [B, T, D] plus what a sublayer makes of it, with the norm of that name in its place."""
        normed = self.get_submodule(name)
        if self.norm_place == "residual":
            total: Tensor = normed(x + self.dropout(sublayer(x)))
            return total
        if self.norm_place == "after":
            return x + self.dropout(normed(sublayer(x)))
        out = sublayer(normed(x))
        if self.norm_place == "both":
            out = self.get_submodule(f"{name}_after")(out)
        return x + self.dropout(out)

    def attended(self, x: Tensor) -> Tensor:
        """What the attention reads of the residual stream x [B, T, D]."""
        return self.attention_norm(x) if self.norm_place in ("before", "both") else x
