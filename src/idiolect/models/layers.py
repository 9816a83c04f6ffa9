"""The parts a transformer is made of: norms, rotary positions, attention, MLP and the block that joins them.

Shapes: B rows, T positions, S positions attended to, D width, H query heads, K key/value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idiolect.models import fused, fused_block
from idiolect.models.settings import TransformerSettings

Cache = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes a call's keys and values [B, K, T, d]; returns those to attend to, [B, K, S, d]."""


class RmsNorm(nn.RMSNorm):
    """x / √(mean(x²) + ε) times a weight, in the type of x; autocast hands it bf16 where the weight is fp32."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] → [..., D]; bf16 where autocast would make it so for the products that read it."""
        if x.dtype == torch.float32 and fused.usable(x):
            return fused.norm(x, self.weight, None, self.eps or 0.0, centre=False)
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """(x - mean) / √(variance + ε) times a weight, plus a bias."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] → [..., D]; bf16 where autocast would make it so for the products that read it."""
        if x.dtype == torch.float32 and fused.usable(x):
            return fused.norm(x, self.weight, self.bias, self.eps, centre=True)
        return super().forward(x)


def norm(width: int, settings: TransformerSettings) -> nn.Module:
    """The norm of the settings: RMSNorm (Zhang and Sennrich 2019) or LayerNorm (Ba et al. 2016)."""
    kind = RmsNorm if settings.norm == "rms" else LayerNorm
    return kind(width, eps=settings.norm_epsilon)


def rotary(positions: Tensor, d: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [..., T, d] of rotary positions [..., T] (Su et al. 2021, arXiv 2104.09864, eq. 34).

    Component i turns with theta^(-2i/d), for i in 0 … d/2 - 1; components i and i + d/2 form a pair (the order of
    Hugging Face's Llama; the paper pairs neighbours). In float32 whatever the model's type.
    """
    frequencies = 1.0 / theta ** (torch.arange(0, d, 2, device=positions.device, dtype=torch.float32) / d)
    angles = positions[..., None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns each head's pairs of components: x [B, H, T, d], cosine and sine [..., T, d]."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cosine.to(x.dtype) + turned * sine.to(x.dtype)


def positions_within(segments: Tensor) -> Tensor:
    """Position of each token within its run of equal segment numbers: int64 [B, T] → int64 [B, T], from 0."""
    T = segments.shape[1]
    index = torch.arange(T, device=segments.device).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values


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


class Attention(nn.Module):
    """Multi-head attention with grouped key/value heads (Vaswani et al. 2017, eq. 1; Ainslie et al. 2023).

    softmax(Q Kᵀ / √d) V in each head; query head h reads key/value head h // (H / K).
    """

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        D, H, K, d = settings.width, settings.heads, settings.n_kv, settings.d_head
        bias = settings.attention_bias != "none"
        self.d = d
        self.query = nn.Linear(D, H * d, bias=bias)
        self.key = nn.Linear(D, K * d, bias=bias)
        self.value = nn.Linear(D, K * d, bias=bias)
        self.out = nn.Linear(H * d, D, bias=settings.attention_bias == "all")
        self.query_norm = RmsNorm(d, eps=settings.norm_epsilon) if settings.qk_norm else nn.Identity()
        self.key_norm = RmsNorm(d, eps=settings.norm_epsilon) if settings.qk_norm else nn.Identity()
        self.grouped = H != K
        self.dropout = settings.dropout

    def project(self, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] → queries [B, H, T, d], keys and values [B, K, T, d], rotated when rope is given."""
        q, k, v = (fused.linear(layer, x).unflatten(-1, (-1, self.d)) for layer in (self.query, self.key, self.value))
        q, k = self.query_norm(q).transpose(1, 2), self.key_norm(k).transpose(1, 2)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        return q, k, v.transpose(1, 2)

    def fuses(self, x: Tensor) -> bool:
        """Whether the fused kernel takes inputs like x, and so ranges in place of masks."""
        return fused.attends(x, self.d) and not (self.training and self.dropout)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        causal: bool = True,
        cache: Cache | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """x [B, T, D] → [B, T, D]. mask (bool, to [B, H, T, S]: True may be read) takes the place of `causal`.

        first (int32 [B, T]), where `fuses` allows it, is the first position that each causal query reads.
        """
        q, k, v = self.project(x, rope)
        if causal and mask is None and cache is None and self.fuses(x):
            heads = fused.attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), first)
            return fused.linear(self.out, heads.flatten(2))
        if cache is not None:
            k, v = cache(k, v)
        heads = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal and mask is None,
            dropout_p=self.dropout if self.training else 0.0,
            enable_gqa=self.grouped,
        )
        return self.out(heads.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, rope: tuple[Tensor, Tensor] | None, mask: Tensor) -> Tensor:
        """How much each head's queries read of each position: x [B, T, D], mask bool [T, T] → [B, H, T, T].

        The fused kernel never holds these; they are computed here for people to look at.
        """
        q, k, _ = self.project(x, rope)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = q @ k.transpose(-1, -2) / self.d**0.5
        return scores.masked_fill(~mask, -torch.inf).softmax(-1)


class Mlp(nn.Module):
    """The position-wise network: down(silu(gate(x)) · up(x)) (Shazeer 2020, SwiGLU), or down(gelu or relu(up(x)))."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        D, W, bias = settings.width, settings.d_mlp, settings.mlp_bias
        self.kind = settings.mlp
        if self.kind == "swiglu":
            self.gate = nn.Linear(D, W, bias=bias)
        self.up = nn.Linear(D, W, bias=bias)
        self.down = nn.Linear(W, D, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] → [B, T, D]."""
        u = fused.linear(self.up, x)
        inputs = (fused.linear(self.gate, x), u) if self.kind == "swiglu" else (u,)
        if self.kind == "relu":
            return fused.linear(self.down, F.relu(u))
        if not fused.usable(u):
            return self.down(F.silu(inputs[0]) * u if self.kind == "swiglu" else F.gelu(u, approximate="tanh"))
        if type(self.down) is nn.Linear and fused.plain(self.down):
            return fused.activated(self.down, self.kind, *inputs)
        return self.down(fused.swiglu(*inputs) if self.kind == "swiglu" else fused.gelu(u))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        self.attention_norm = norm(settings.width, settings)
        self.attention = Attention(settings)
        self.mlp_norm = norm(settings.width, settings)
        self.mlp = Mlp(settings)
        self.dropout = nn.Dropout(settings.dropout)

    def linears(self) -> list[nn.Linear]:
        """Query, key, value, out, up, down, and gate where there is one."""
        attention, mlp = self.attention, self.mlp
        gate = [mlp.gate] if mlp.kind == "swiglu" else []
        return [attention.query, attention.key, attention.value, attention.out, mlp.up, mlp.down, *gate]

    def fuses(self, x: Tensor) -> bool:
        """Whether `fused_block` computes what the modules would: x fp32 in bf16 training, none edited or watched."""
        attention, mlp = self.attention, self.mlp
        if x.dtype != torch.float32 or type(attention) is not Attention or type(mlp) is not Mlp:
            return False
        parts = [attention, mlp, self.attention_norm, self.mlp_norm, *self.linears()]
        return (
            mlp.kind != "relu"
            and isinstance(attention.query_norm, nn.Identity)
            and not (self.training and self.dropout.p)
            and attention.fuses(x)
            and type(self.attention_norm) is type(self.mlp_norm) in (RmsNorm, LayerNorm)
            and all(type(layer) is nn.Linear and fused.multiplies(x, layer.weight) for layer in self.linears())
            and all(len(layer.weight) % 2 == 0 for layer in self.linears())
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
    ) -> Tensor:
        """x [B, T, D] → [B, T, D]; the arguments are those of Attention."""
        if causal and mask is None and cache is None and self.fuses(x):
            return fused_block.forward(self, x, rope, first)
        x = x + self.dropout(self.attention(self.attention_norm(x), rope, mask, causal, cache, first))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))
