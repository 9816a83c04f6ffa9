"""What llama.cpp can compute of our decoders: its name for each family, its tensors' names, its metadata.

Checked against llama.cpp as llama-cpp-python 0.3.36 carries it: `src/models/*.cpp` says which tensors an architecture
reads and what it does with them, `llama_model_rope_type` in `src/llama-model.cpp` which components its rotary positions
pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idiolect.models import rope
from idiolect.models.decoder_settings import LinearRope, Llama3Rope, YarnRope
from idiolect.models.settings import DecoderSettings

Metadata = dict[str, Any]
"""Keys of a GGUF file → bool, int, float, text, or a list of one of these."""
BLOCK = "blk."
"""Begins their name of what every block has."""
EACH = ".*."
"""Stands for the number of an expert in the name of our module."""


@dataclass(frozen=True)
class Made:
    """A tensor of theirs, and what of ours makes it up."""

    name: str
    parts: list[Tensor]
    """Below each other, or where `stacked` each in a place of its own."""
    stacked: bool = False
    heads: int = 0
    """Heads whose rows are put in the order of neighbours; 0: rows stay in their order."""
    offset: float = 0.0
    """What is added to all numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape; a matrix of one row is a vector."""
        rest = tuple(self.parts[0].shape)
        if self.stacked:
            return (len(self.parts), *rest)
        rows = sum(len(part) for part in self.parts)
        return rest[1:] if rows == 1 and len(rest) > 1 else (rows, *rest[1:])

    def tensor(self) -> Tensor:
        """The tensor itself; made anew where it is not one of ours."""
        made = torch.stack(self.parts) if self.stacked else self.parts[0]
        if len(self.parts) > 1 and not self.stacked:
            made = torch.cat(self.parts)
        made = neighbours(made, self.heads) if self.heads else made
        return (made.float() + self.offset if self.offset else made).reshape(self.shape)


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
    lacks: Callable[[DecoderSettings], str] = nothing
    """What of the settings it would not compute, in words; empty when it computes all."""
    more: Callable[[DecoderSettings], Metadata] = lambda settings: {}
    """Metadata beside that of `metadata`, without the architecture's name before the keys."""
    neighbours: bool = False
    """Its rotary positions pair components 2i and 2i + 1 of a head, ours i and i + d/2."""
    untied: bool = False
    """It wants an output matrix even where that is the embedding."""


def metadata(settings: DecoderSettings, architecture: Architecture, vocabulary: int) -> Metadata:
    """The keys that say how the model is built."""
    s, norm = settings, "layer_norm_epsilon" if settings.norm == "layer" else "layer_norm_rms_epsilon"
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
        values |= {"rope.dimension_count": s.d_rope, "rope.freq_base": s.rope_theta} | _scaled(s)
    if s.experts is not None:
        values |= {"expert_count": s.experts.count, "expert_used_count": s.experts.per_token}
    values |= architecture.more(s)
    return {f"{architecture.name}.{key}": value for key, value in values.items()}


def _scaled(s: DecoderSettings) -> Metadata:
    """How rotary positions are scaled, where no factors of their own say it."""
    scaling = s.rope_scaling
    if isinstance(scaling, LinearRope):
        return {"rope.scaling.type": "linear", "rope.scaling.factor": scaling.factor}
    if not isinstance(scaling, YarnRope):
        return {}
    found = {"type": "yarn", "factor": scaling.factor, "original_context_length": scaling.original_context}
    if scaling.attention_factor is not None:  # beside the usual one
        found["attn_factor"] = scaling.attention_factor / (0.1 * math.log(max(1.0, scaling.factor)) + 1.0)
    return {f"rope.scaling.{key}": value for key, value in found.items()}


def tensors(state: Mapping[str, Tensor], settings: DecoderSettings, architecture: Architecture) -> Iterator[Made]:
    """Their tensors. state: ours by name, those left out that repeat another."""
    heads = {"attn_q": settings.heads, "attn_k": settings.n_kv} if architecture.neighbours else {}
    left = set(state)
    for theirs, modules in architecture.names.items():
        inside, stacked = theirs.startswith(BLOCK), EACH in modules[0]
        for i in range(settings.layers if inside else 1):
            name = theirs.replace(BLOCK, f"{BLOCK}{i}.") if inside else theirs
            for kind in ("weight", "bias"):
                ours = [f"blocks.{i}.{module}.{kind}" if inside else f"{module}.{kind}" for module in modules]
                if stacked and settings.experts is not None:
                    ours = [ours[0].replace(EACH, f".{e}.") for e in range(settings.experts.count)]
                if found := [state[key] for key in ours if key in state]:
                    assert len(found) == len(ours), f"{name} is made of {ours}"
                    left -= set(ours)
                    above = 1.0 if settings.norm == "rms-offset" and theirs.endswith("_norm") else 0.0
                    yield Made(f"{name}.{kind}", found, stacked, heads.get(theirs.removeprefix(BLOCK), 0), above)
    assert not left, f"{architecture.name} has no name for {min(left)}"
    if architecture.untied and "head.weight" not in state:
        yield Made("output.weight", [state["embedding.weight"]])
    if isinstance(settings.rope_scaling, Llama3Rope):
        yield Made("rope_freqs.weight", [factors(settings)])


def factors(s: DecoderSettings) -> Tensor:
    """What a scaling divides each rotary frequency by, [d/2]."""
    return rope.frequencies(s.d_rope, s.rope_theta) / rope.frequencies(s.d_rope, s.rope_theta, s.rope_scaling)


def neighbours(rows: Tensor, heads: int) -> Tensor:
    """Rows [H · d, …] of a query or key projection, so ordered that what ours pairs are neighbours."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


# --- what they lack -----------------------------------------------------------------------------------------------


def _first(*checks: Callable[[DecoderSettings], str]) -> Callable[[DecoderSettings], str]:
    """What the first of the checks finds."""
    return lambda s: next((found for check in checks if (found := check(s))), "")


def _windows(s: DecoderSettings) -> str:
    """For those that have none."""
    return f"a sliding window ({s.window})" if s.window is not None and s.window < s.context else ""


def _square(s: DecoderSettings) -> str:
    """For those whose queries are as wide as the model."""
    return "" if s.heads * s.d_head == s.width else "heads whose widths do not sum to the model's"


def _biases(s: DecoderSettings) -> str:
    """For those that have none at the end of attention or in the MLP."""
    return "a bias after attention" if s.attention_bias == "all" else "a bias in the MLP" if s.mlp_bias else ""


def _scalings(*kinds: str) -> Callable[[DecoderSettings], str]:
    """For those that know these ways of scaling rotary positions; llama.cpp takes longrope's factors by its own context
    and not by the length of a text."""

    def check(s: DecoderSettings) -> str:
        scaling = s.rope_scaling
        if scaling is None or scaling.kind not in kinds:
            return "" if scaling is None else f"rotary positions of kind {scaling.kind}"
        usual = not isinstance(scaling, YarnRope) or (scaling.fast, scaling.slow, scaling.truncate) == (32.0, 1.0, True)
        return "" if usual else "yarn with other bounds than 32 and 1, rounded"

    return check


def _experts(normalised: bool) -> Callable[[DecoderSettings], str]:
    """For those with experts in every layer, whose weights are divided by their sum or not."""

    def check(s: DecoderSettings) -> str:
        if s.experts is not None and s.experts.dense_layers:
            return "layers without experts among those with them"
        odd = s.experts is not None and s.experts.normalised is not normalised
        return f"experts whose weights are {'shares of all' if normalised else 'divided by their sum'}" if odd else ""

    return check


def _activation(s: DecoderSettings) -> str:
    return "" if s.mlp == "gelu" else f"an MLP of {s.mlp}"


def _gemma(widest: int, capped: bool) -> Callable[[DecoderSettings], str]:
    """widest: the layers of the family's largest model, by which llama.cpp takes another scale of scores."""

    def check(s: DecoderSettings) -> str:
        scale = (s.width // s.heads if s.layers == widest else s.d_head) ** -0.5
        if not math.isclose(s.attention_scale or s.d_head**-0.5, scale, rel_tol=1e-6):
            return f"scores of attention multiplied by {s.attention_scale}"
        if capped and (s.attention_softcap is None or s.logit_softcap is None):
            return "scores or logits without a cap"
        if not capped and s.attention_softcap is not None:
            return "capped scores of attention"
        local = s.window is not None and len(s.global_layers) < s.layers and s.rope_local_theta is None
        return "scaled rotary positions in layers with a window" if not capped and local and s.rope_scaling else ""

    return check


def _unrotated(s: DecoderSettings) -> str:
    fourth = tuple(range(3, s.layers, 4))
    return "" if s.unrotated_layers == fourth else f"the layers {[*s.unrotated_layers]} and no others without rotation"


# --- the table ----------------------------------------------------------------------------------------------------


def _gemma_more(s: DecoderSettings) -> Metadata:
    """A window as long as the context is none."""
    sliding = [s.window_of(layer) is not None for layer in range(s.layers)]
    found: Metadata = {"attention.sliding_window": s.window or s.context, "attention.sliding_window_pattern": sliding}
    caps = {"attn_logit_softcapping": s.attention_softcap, "final_logit_softcapping": s.logit_softcap}
    found |= {key: value for key, value in caps.items() if value is not None}
    return found | {"rope.freq_base_swa": s.rope_local_theta or s.rope_theta}


def _gemma3_more(s: DecoderSettings) -> Metadata:
    """Where no layer has a window, it must not be told of one: such layers are rotated in another way there."""
    found = _gemma_more(s)
    if not any(found["attention.sliding_window_pattern"]):
        del found["attention.sliding_window"], found["attention.sliding_window_pattern"], found["rope.freq_base_swa"]
    return found


def _experts_more(s: DecoderSettings) -> Metadata:
    if s.experts is None:
        return {}
    widths = {"expert_feed_forward_length": s.experts.width or s.d_mlp}
    shared = s.experts.shared_width
    return widths if shared is None else widths | {"expert_shared_feed_forward_length": shared}


EDGES = {"token_embd": ("embedding",), "output_norm": ("norm",), "output": ("head",)}
MLP = {"blk.ffn_gate": ("mlp.gate",), "blk.ffn_up": ("mlp.up",), "blk.ffn_down": ("mlp.down",)}
NORMS = {"blk.attn_norm": ("attention_norm",), "blk.ffn_norm": ("mlp_norm",)}
AFTER = {"blk.post_attention_norm": ("attention_norm",), "blk.post_ffw_norm": ("mlp_norm",)}
BOTH = {"blk.post_attention_norm": ("attention_norm_after",), "blk.post_ffw_norm": ("mlp_norm_after",)}
QKV = ("attention.query", "attention.key", "attention.value")
ATTENTION = {
    **{f"blk.attn_{short}": (module,) for short, module in zip("qkv", QKV, strict=True)},
    "blk.attn_output": ("attention.out",),
    "blk.attn_q_norm": ("attention.query_norm",),
    "blk.attn_k_norm": ("attention.key_norm",),
}
FUSED = {"blk.attn_qkv": QKV, "blk.attn_output": ("attention.out",)}
EXPERTS = {
    "blk.ffn_gate_inp": ("mlp.router",),
    "blk.ffn_gate_exps": ("mlp.experts.*.gate",),
    "blk.ffn_up_exps": ("mlp.experts.*.up",),
    "blk.ffn_down_exps": ("mlp.experts.*.down",),
}
SHARED = {
    "blk.ffn_gate_inp_shexp": ("mlp.shared_gate",),
    "blk.ffn_gate_shexp": ("mlp.shared.gate",),
    "blk.ffn_up_shexp": ("mlp.shared.up",),
    "blk.ffn_down_shexp": ("mlp.shared.down",),
}
LLAMA = {**EDGES, **NORMS, **ATTENTION, **MLP}
MIXTURE = {**EDGES, **NORMS, **ATTENTION, **EXPERTS}
GPT2 = {**EDGES, "position_embd": ("position",), **NORMS, **FUSED, **MLP}
PHI3 = {**EDGES, **NORMS, **FUSED, "blk.ffn_up": ("mlp.gate", "mlp.up"), "blk.ffn_down": ("mlp.down",)}

PLAIN = _scalings("linear", "yarn")
ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": Architecture("gpt2", GPT2, _activation),
    "llama": Architecture("llama", LLAMA, _scalings("linear", "yarn", "llama3"), neighbours=True),
    "mistral": Architecture("llama", LLAMA, _first(_windows, _scalings("linear", "yarn", "llama3")), neighbours=True),
    "mixtral": Architecture(
        "llama",
        MIXTURE,
        _first(_windows, _scalings("linear", "yarn", "llama3"), _experts(normalised=True)),
        neighbours=True,
    ),
    "qwen2": Architecture("qwen2", LLAMA, _first(_windows, _square, PLAIN)),
    "qwen3": Architecture("qwen3", LLAMA, _first(_windows, _biases, PLAIN)),
    "qwen2_moe": Architecture(
        "qwen2moe",
        {**MIXTURE, **SHARED},
        _first(_windows, _square, PLAIN, _experts(normalised=False)),
        _experts_more,
        untied=True,
    ),
    "qwen3_moe": Architecture(
        "qwen3moe", MIXTURE, _first(_windows, _biases, PLAIN, _experts(normalised=True)), _experts_more
    ),
    "gemma2": Architecture(
        "gemma2", {**LLAMA, **BOTH}, _first(_biases, _scalings("linear"), _gemma(46, capped=True)), _gemma_more
    ),
    "gemma3_text": Architecture(
        "gemma3", {**LLAMA, **BOTH}, _first(_biases, _scalings("linear"), _gemma(62, capped=False)), _gemma3_more
    ),
    "phi3": Architecture("phi3", PHI3, _first(_windows, _square, PLAIN)),
    "olmo2": Architecture(
        "olmo2", {**EDGES, **AFTER, **ATTENTION, **MLP}, _first(_square, _biases, PLAIN), untied=True
    ),
    "smollm3": Architecture("smollm3", LLAMA, _first(_windows, _biases, PLAIN, _unrotated), neighbours=True),
}
"""The architecture of each model type of `interop.families` that llama.cpp computes."""
