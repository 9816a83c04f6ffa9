"""What the config.json files of Llama and its descendants share, and which settings a family can express."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from idiolect.errors import UserError
from idiolect.interop import ropes
from idiolect.interop.rows import Config
from idiolect.models.settings import DecoderSettings

MOST_LAYERS = 1 << 16
"""More than any model has: lists of layers are not made for what a damaged file says."""
SLIDING, FULL = "sliding_attention", "full_attention"


def expresses(free: str, **fixed: Any) -> Callable[[DecoderSettings], bool]:
    """Whether settings have the `fixed` values and, but for those named in `free`, everything else by default."""
    same = {name: field.default for name, field in DecoderSettings.model_fields.items()} | fixed
    for name in ("from_", *SHAPE.split(), *free.split()):
        del same[name]
    return lambda s: all(getattr(s, name) == value for name, value in same.items())


SHAPE = "layers heads kv_heads width head_width mlp_width context norm_epsilon tied dropout rope_theta rope_scaling"
"""What differs among the models of every family (of GPT-2, less the rotary ones)."""


def all_or_none(s: DecoderSettings) -> bool:
    """Whether all projections of attention have a bias, or none."""
    return s.attention_bias != "qkv"


def whole(s: DecoderSettings) -> bool:
    """Whether heads divide the width: some of transformers' classes want it, though head_dim is given."""
    return s.width % s.heads == 0


def llama_write(s: DecoderSettings) -> Config:
    """What they all write alike."""
    rope = ropes.write(s)
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
        "rope_theta": s.rope_theta,  # where transformers 4 looks, and
        "rope_scaling": rope if s.rope_scaling else None,
        "rope_parameters": rope,  # where transformers 5 does
        "tie_word_embeddings": s.tied,
        "attention_bias": s.attention_bias == "all",
        "attention_dropout": s.dropout,
    }


def count_layers(c: Config) -> int:
    """The number of layers. Raises UserError for one that no model has: it may be made lists of."""
    layers: int = c["num_hidden_layers"]
    if layers > MOST_LAYERS:
        raise UserError(f"{layers} layers are more than any model has", "check the model's config.json")
    return layers


def llama_read(c: Config, partial: bool = False) -> Config:
    """What they all read alike; `c` holds the family's own defaults, `partial` is whether heads may turn in part."""
    layers, width, heads = count_layers(c), c["hidden_size"], c["num_attention_heads"]
    rope = ropes.read(c, ropes.table(c))
    if rope["rope_share"] != 1 and not partial:
        raise UserError("rotary positions of a part of each head are not supported for this model_type", "load another")
    if c["rms_norm_eps"] is None:
        raise KeyError("rms_norm_eps")
    settings = DecoderSettings.model_construct(mlp="swiglu", width=width, mlp_width=None)
    return {
        "layers": layers,
        "heads": heads,
        "kv_heads": None if c["num_key_value_heads"] in (None, heads) else c["num_key_value_heads"],
        "head_width": None if c.get("head_dim") in (None, heads and width / heads) else c["head_dim"],
        "width": width,
        "mlp_width": None if c["intermediate_size"] == settings.d_mlp else c["intermediate_size"],
        "context": c["max_position_embeddings"],
        "norm_epsilon": c["rms_norm_eps"],
        "tied": c["tie_word_embeddings"],
        "attention_bias": "all" if c.get("attention_bias") else "none",
        "mlp_bias": c.get("mlp_bias", False),
        "dropout": c["attention_dropout"] or 0.0,
        **rope,
    }


def windows(c: Config, window: int | None, kinds: list[str] | None) -> Config:
    """The window and the layers without it, of each layer's kind (None: all alike). Raises UserError for others."""
    layers = count_layers(c)
    if kinds is None:
        return {"window": window}
    if len(kinds) != layers or not set(kinds) <= {SLIDING, FULL} or (SLIDING in kinds and not window):
        what = "layer_types do not give each layer full attention, or sliding attention of a window that is there"
        raise UserError(what, "only models of such layers can be loaded")
    full = [layer for layer, kind in enumerate(kinds) if kind == FULL]
    return {"window": None} if len(full) == layers else {"window": window, "global_layers": full}


def kinds_of(s: DecoderSettings) -> list[str]:
    """Each layer's kind of attention, as config.json has it."""
    return [FULL if s.window_of(layer) is None else SLIDING for layer in range(s.layers)]


def asked(c: Config) -> int | None:
    """The window of families that have a switch for it beside."""
    window: int | None = c.get("sliding_window", 4096) if c.get("use_sliding_window") else None
    return window


def qwen_write(s: DecoderSettings) -> Config:
    """What the dense Qwens write."""
    return llama_write(s) | {
        "use_sliding_window": s.window is not None,
        "sliding_window": s.window,
        "max_window_layers": s.layers if s.window is None else 0,
        "layer_types": kinds_of(s),
    }


def qwen_windows(c: Config) -> Config:
    """By layer_types, else in the layers from max_window_layers on."""
    layers, window = count_layers(c), asked(c)
    full = layers if window is None else min(c.get("max_window_layers", 28), layers)
    return windows(c, window, c.get("layer_types") or [FULL] * full + [SLIDING] * (layers - full))
