"""The Hugging Face model types that our decoder can be: how config.json spells each, and its tensors' names."""

from __future__ import annotations

from torch import Tensor, cat

from idiolect.errors import UserError
from idiolect.interop.rows import Config, Family, Tensors
from idiolect.models.settings import DecoderSettings


def _fuse(tensors: Tensors) -> Tensors:
    """GPT-2's layout: query, key and value in one matrix; the matrices of its blocks transposed (its Conv1D)."""
    out = {}
    for name, tensor in tensors.items():
        if ".attention.query." in name:
            parts = [tensors[name.replace("query", part)] for part in ("query", "key", "value")]
            name, tensor = name.replace("query", "fused"), cat(parts)
        if ".attention.key." not in name and ".attention.value." not in name:
            out[name] = _transpose(name, tensor)
    return out


def _split(tensors: Tensors) -> Tensors:
    """From GPT-2's layout to ours."""
    out = {}
    for name, tensor in tensors.items():
        parts = ("query", "key", "value") if ".attention.fused." in name else ("fused",)
        for part, piece in zip(parts, _transpose(name, tensor).chunk(len(parts))):
            out[name.replace("fused", part)] = piece.contiguous()
    return out


def _transpose(name: str, tensor: Tensor) -> Tensor:
    return tensor.T.contiguous() if name.startswith("blocks.") and tensor.dim() == 2 else tensor


def _gpt2_fits(s: DecoderSettings) -> bool:
    shape = s.n_kv == s.heads and s.heads * s.d_head == s.width
    parts = (s.norm, s.norm_place, s.position, s.attention_bias, s.mlp_bias) == (
        "layer",
        "before",
        "learned",
        "all",
        True,
    )
    return shape and parts and s.mlp in ("gelu", "relu") and not s.qk_norm and s.window is None


def _gpt2_write(s: DecoderSettings) -> Config:
    return {
        "n_layer": s.layers,
        "n_head": s.heads,
        "n_embd": s.width,
        "n_inner": s.d_mlp,
        "n_positions": s.context,
        "activation_function": "gelu_new" if s.mlp == "gelu" else "relu",
        "layer_norm_epsilon": s.norm_epsilon,
        "tie_word_embeddings": s.tied,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), s.dropout),
    }


def _gpt2_read(c: Config) -> Config:
    return {
        "layers": c["n_layer"],
        "heads": c["n_head"],
        "width": c["n_embd"],
        "mlp_width": None if c.get("n_inner") in (None, 4 * c["n_embd"]) else c["n_inner"],
        "context": c["n_positions"],
        "mlp": "relu" if c.get("activation_function") == "relu" else "gelu",
        "norm_epsilon": c.get("layer_norm_epsilon", 1e-5),
        "tied": c.get("tie_word_embeddings", True),
        "dropout": c.get("resid_pdrop", 0.1),
        "norm": "layer",
        "position": "learned",
        "attention_bias": "all",
        "mlp_bias": True,
    }


def _llama_fits(s: DecoderSettings) -> bool:
    """What Llama and its descendants share."""
    return (s.norm, s.norm_place, s.position, s.mlp) == ("rms", "before", "rope", "swiglu")


def _llama_write(s: DecoderSettings) -> Config:
    return {
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.n_kv,
        "head_dim": s.d_head,
        "hidden_size": s.width,
        "intermediate_size": s.d_mlp,
        "max_position_embeddings": s.context,
        "hidden_act": "silu",
        "rms_norm_eps": s.norm_epsilon,
        "rope_theta": s.rope_theta,  # where transformers 4 looks
        "rope_parameters": {"rope_type": "default", "rope_theta": s.rope_theta},
        "tie_word_embeddings": s.tied,
        "attention_bias": s.attention_bias == "all",
        "attention_dropout": s.dropout,
    }


def _llama_read(c: Config) -> Config:
    width, heads = c["hidden_size"], c["num_attention_heads"]
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"rotary positions of the kind {kind!r} are not supported", "load a model without rope scaling")
    settings = DecoderSettings.model_construct(mlp="swiglu", width=width, mlp_width=None)
    return {
        "layers": c["num_hidden_layers"],
        "heads": heads,
        "kv_heads": None if c["num_key_value_heads"] in (None, heads) else c["num_key_value_heads"],
        "head_width": None if c.get("head_dim") is None or c["head_dim"] * heads == width else c["head_dim"],
        "width": width,
        "mlp_width": None if c["intermediate_size"] == settings.d_mlp else c["intermediate_size"],
        "context": c["max_position_embeddings"],
        "norm_epsilon": c.get("rms_norm_eps", 1e-6),
        "rope_theta": rope.get("rope_theta", c.get("rope_theta", 10000.0)),
        "tied": c.get("tie_word_embeddings", False),
        "attention_bias": "all" if c.get("attention_bias") else "none",
        "mlp_bias": c.get("mlp_bias", False),
        "dropout": c.get("attention_dropout", 0.0),
    }


def _qwen_write(s: DecoderSettings) -> Config:
    kind = "full_attention" if s.window is None else "sliding_attention"
    return _llama_write(s) | {
        "use_sliding_window": s.window is not None,
        "sliding_window": s.window,
        "max_window_layers": s.layers if s.window is None else 0,
        "layer_types": [kind] * s.layers,
    }


def _qwen_window(c: Config) -> int | None:
    """The window of all layers. Raises UserError when only some have one."""
    layers = c["num_hidden_layers"]
    full = min(c.get("max_window_layers", layers), layers) if c.get("use_sliding_window") else layers
    kinds = c.get("layer_types") or ["full_attention"] * full + ["sliding_attention"] * (layers - full)
    if len(set(kinds)) > 1:
        raise UserError("layers with and without a sliding window are not supported", "load a model with one kind")
    return c["sliding_window"] if kinds[0] == "sliding_attention" else None


LLAMA_NAMES = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "blocks.": "model.layers.",
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
GPT2_NAMES = {
    "embedding": "transformer.wte",
    "position": "transformer.wpe",
    "norm": "transformer.ln_f",
    "head": "lm_head",
    "blocks.": "transformer.h.",
    "attention_norm": "ln_1",
    "attention.fused": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
LLAMA_FIXED = {"hidden_act": ("silu", "swish"), "partial_rotary_factor": (1.0, None)}

DECODERS = {
    "gpt2": Family(
        DecoderSettings,
        "GPT2LMHeadModel",
        _gpt2_fits,
        _gpt2_write,
        _gpt2_read,
        {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh", "relu"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        GPT2_NAMES,
        to_theirs=_fuse,
        to_ours=_split,
        canonical=lambda name: name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}",
    ),
    "llama": Family(
        DecoderSettings,
        "LlamaForCausalLM",
        lambda s: (
            _llama_fits(s)
            and s.attention_bias != "qkv"
            and not s.qk_norm
            and s.window is None
            and s.width % s.heads == 0  # transformers wants it, though head_dim is given
        ),
        lambda s: _llama_write(s) | {"mlp_bias": s.mlp_bias},
        lambda c: _llama_read({"num_key_value_heads": None, **c}),
        LLAMA_FIXED,
        LLAMA_NAMES,
    ),
    "mistral": Family(
        DecoderSettings,
        "MistralForCausalLM",
        lambda s: _llama_fits(s) and s.attention_bias == "none" and not s.mlp_bias and not s.qk_norm,
        lambda s: _llama_write(s) | {"sliding_window": s.window},
        lambda c: _llama_read(c) | {"window": c["sliding_window"]},
        LLAMA_FIXED,
        LLAMA_NAMES,
    ),
    "qwen2": Family(
        DecoderSettings,
        "Qwen2ForCausalLM",
        lambda s: _llama_fits(s) and s.attention_bias == "qkv" and not s.mlp_bias and not s.qk_norm,
        _qwen_write,
        lambda c: _llama_read(c) | {"window": _qwen_window(c), "attention_bias": "qkv"},
        LLAMA_FIXED,
        LLAMA_NAMES,
    ),
    "qwen3": Family(
        DecoderSettings,
        "Qwen3ForCausalLM",
        lambda s: _llama_fits(s) and s.attention_bias != "qkv" and not s.mlp_bias and s.qk_norm,
        _qwen_write,
        lambda c: _llama_read(c) | {"window": _qwen_window(c), "qk_norm": True},
        LLAMA_FIXED,
        LLAMA_NAMES,
    ),
}
"""Tried in this order when a model is saved."""
