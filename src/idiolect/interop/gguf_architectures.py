"""What llama.cpp can compute of our decoders: its name for each family, its tensors' names, its metadata.

Checked against llama.cpp as llama-cpp-python 0.3.36 carries it: `src/models/*.cpp` says which tensors an architecture
reads, and `llama_model_rope_type` in `src/llama-model.cpp` which components its rotary positions pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from idiolect.models.settings import DecoderSettings

Metadata = dict[str, Any]
"""Keys of a GGUF file → bool, int, float, text, or a list of one of these."""
BLOCK = "blk."
"""Begins their name of what every block has."""


def nothing(settings: DecoderSettings) -> str:
    """What an architecture lacks that computes all that its family does."""
    return ""


@dataclass(frozen=True)
class Architecture:
    """One architecture of llama.cpp."""

    name: str
    """As `general.architecture` spells it."""
    names: Mapping[str, tuple[str, ...]]
    """Their tensors → our modules, whose rows are joined where there are several. What `blk.` begins is in each block;
    a tensor whose modules the model has not is left out."""
    neighbours: bool = False
    """Its rotary positions pair components 2i and 2i + 1 of a head, ours i and i + d/2."""
    lacks: Callable[[DecoderSettings], str] = nothing
    """What of the settings it would not compute, in words; empty when it computes all."""
    more: Callable[[DecoderSettings], Metadata] = lambda settings: {}
    """Metadata beside that of `metadata`, without the architecture's name before the keys."""


def metadata(settings: DecoderSettings, architecture: Architecture, vocabulary: int) -> Metadata:
    """The keys that say how the model is built."""
    s, norm = settings, "layer_norm_rms_epsilon" if settings.norm == "rms" else "layer_norm_epsilon"
    values: Metadata = {
        "vocab_size": vocabulary,
        "context_length": s.context,
        "embedding_length": s.width,
        "block_count": s.layers,
        "feed_forward_length": s.d_mlp,
        "attention.head_count": s.heads,
        "attention.head_count_kv": s.n_kv,
        "attention.key_length": s.d_head,
        "attention.value_length": s.d_head,
        f"attention.{norm}": s.norm_epsilon,
    }
    if s.position == "rope":
        values |= {"rope.dimension_count": s.d_head, "rope.freq_base": s.rope_theta}
    values |= architecture.more(s)
    return {f"{architecture.name}.{key}": value for key, value in values.items()}


def tensors(
    state: Mapping[str, Tensor], settings: DecoderSettings, architecture: Architecture
) -> Iterator[tuple[str, list[Tensor], int]]:
    """Their name of each tensor, ours that make it up one below the other, and the heads whose rows are to be put in
    the order of neighbours (0: none).

    state: our tensors by name, those left out that repeat another.
    """
    heads = {"attn_q": settings.heads, "attn_k": settings.n_kv} if architecture.neighbours else {}
    left = set(state)
    for theirs, modules in architecture.names.items():
        inside = theirs.startswith(BLOCK)
        for i in range(settings.layers if inside else 1):
            name = theirs.replace(BLOCK, f"{BLOCK}{i}.") if inside else theirs
            for kind in ("weight", "bias"):
                ours = [f"blocks.{i}.{module}.{kind}" if inside else f"{module}.{kind}" for module in modules]
                if found := [state[key] for key in ours if key in state]:
                    assert len(found) == len(ours), f"{name} is made of {ours}"
                    left -= set(ours)
                    yield f"{name}.{kind}", found, heads.get(theirs.removeprefix(BLOCK), 0)
    assert not left, f"{architecture.name} has no name for {min(left)}"


def neighbours(rows: Tensor, heads: int) -> Tensor:
    """Rows [H · d, …] of a query or key projection, so ordered that what ours pairs are neighbours."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _long_texts(s: DecoderSettings) -> str:
    if s.rope_scaling is not None:
        return f"scaled rotary positions ({s.rope_scaling.kind})"
    return f"a sliding window ({s.window})" if s.window is not None and s.window < s.context else ""


def _gpt2_lacks(s: DecoderSettings) -> str:
    return "" if s.mlp == "gelu" else f"an MLP of {s.mlp}"


def _qwen2_lacks(s: DecoderSettings) -> str:
    return _long_texts(s) or ("" if s.heads * s.d_head == s.width else "heads whose widths do not sum to the model's")


def _qwen3_lacks(s: DecoderSettings) -> str:
    return _long_texts(s) or ("" if s.attention_bias == "none" else "a bias in attention beside its norms")


EDGES = {"token_embd": ("embedding",), "output_norm": ("norm",), "output": ("head",)}
LLAMA_NAMES = {
    **EDGES,
    "blk.attn_norm": ("attention_norm",),
    "blk.attn_q": ("attention.query",),
    "blk.attn_k": ("attention.key",),
    "blk.attn_v": ("attention.value",),
    "blk.attn_output": ("attention.out",),
    "blk.attn_q_norm": ("attention.query_norm",),
    "blk.attn_k_norm": ("attention.key_norm",),
    "blk.ffn_norm": ("mlp_norm",),
    "blk.ffn_gate": ("mlp.gate",),
    "blk.ffn_up": ("mlp.up",),
    "blk.ffn_down": ("mlp.down",),
}
GPT2_NAMES = {
    **EDGES,
    "position_embd": ("position",),
    "blk.attn_norm": ("attention_norm",),
    "blk.attn_qkv": ("attention.query", "attention.key", "attention.value"),
    "blk.attn_output": ("attention.out",),
    "blk.ffn_norm": ("mlp_norm",),
    "blk.ffn_up": ("mlp.up",),
    "blk.ffn_down": ("mlp.down",),
}

ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": Architecture("gpt2", GPT2_NAMES, lacks=_gpt2_lacks),
    "llama": Architecture("llama", LLAMA_NAMES, neighbours=True, lacks=_long_texts),
    "mistral": Architecture("llama", LLAMA_NAMES, neighbours=True, lacks=_long_texts),
    "qwen2": Architecture("qwen2", LLAMA_NAMES, lacks=_qwen2_lacks),
    "qwen3": Architecture("qwen3", LLAMA_NAMES, lacks=_qwen3_lacks),
}
"""The architecture of each model type of `interop.families` that llama.cpp computes."""
