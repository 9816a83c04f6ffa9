"""How other people lay out tensors that we hold apart: fused projections, transposed matrices. By our names."""

from __future__ import annotations

from torch import Tensor, cat

from idiolect.interop.rows import Tensors

PROJECTIONS, GATED = ("query", "key", "value"), ("gate", "up")
"""What is fused into one matrix, row after row."""


def gpt2_to_theirs(tensors: Tensors) -> Tensors:
    """GPT-2's: query, key and value in one matrix; the matrices of its blocks transposed (its Conv1D)."""
    return {name: _transpose(name, tensor) for name, tensor in _fused(tensors, "attention", PROJECTIONS).items()}


def gpt2_to_ours(tensors: Tensors) -> Tensors:
    """Back from GPT-2's."""
    out = {}
    for name, tensor in tensors.items():
        parts = PROJECTIONS if ".attention.fused." in name else ("fused",)
        for part, piece in zip(parts, _transpose(name, tensor).chunk(len(parts))):
            out[name.replace("fused", part)] = piece.contiguous()
    return out


def phi3_to_theirs(tensors: Tensors) -> Tensors:
    """Phi-3's: query, key and value in one matrix, gate and up in another."""
    return _fused(_fused(tensors, "attention", PROJECTIONS), "mlp", GATED)


def phi3_to_ours(tensors: Tensors) -> Tensors:
    """Back from Phi-3's; how wide the queries are, the output projection tells."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        if ".attention.fused." in name:
            queries = tensors[name.replace("fused", "out")].shape[1]
            sizes = [queries, *[(len(tensor) - queries) // 2] * 2]
            pieces = dict(zip(PROJECTIONS, tensor.split(sizes), strict=True))
        elif ".mlp.fused." in name:
            pieces = dict(zip(GATED, tensor.chunk(2), strict=True))
        else:
            pieces = {"fused": tensor}
        out |= {name.replace("fused", part): piece.contiguous() for part, piece in pieces.items()}
    return out


def _fused(tensors: Tensors, place: str, parts: tuple[str, ...]) -> Tensors:
    """The named parts of every attention or MLP as one tensor, `fused`, in the place of the first."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        first = f".{place}.{parts[0]}."
        if first in name:
            others = [tensors[name.replace(first, f".{place}.{part}.")] for part in parts]
            out[name.replace(first, f".{place}.fused.")] = cat(others)
        elif not any(f".{place}.{part}." in name for part in parts[1:]):
            out[name] = tensor
    return out


def _transpose(name: str, tensor: Tensor) -> Tensor:
    return tensor.T.contiguous() if name.startswith("blocks.") and tensor.dim() == 2 else tensor
