"""How the config.json of each Hugging Face decoder says what our settings say; `llamas` has what many share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from idiolect.errors import UserError
from idiolect.interop import ropes
from idiolect.interop.llamas import (
    FULL,
    SLIDING,
    all_or_none,
    asked,
    count_layers,
    expresses,
    kinds_of,
    llama_read,
    llama_write,
    qwen_write,
    whole,
    windows,
)
from idiolect.interop.rows import Config
from idiolect.models.decoder_settings import LongRope
from idiolect.models.settings import DecoderSettings

# GPT-2


def gpt2_fits(s: DecoderSettings) -> bool:
    """Whether GPT-2 can express them."""
    fixed = {"norm": "layer", "position": "learned", "attention_bias": "all", "mlp_bias": True}
    shape = s.n_kv == s.heads and s.heads * s.d_head == s.width
    plain = expresses("mlp", **fixed)(s) and (s.rope_scaling, s.rope_theta) == (None, 10000.0)
    return shape and plain and s.mlp in GPT2_ACTIVATIONS


GPT2_ACTIVATIONS = {"gelu": "gelu_new", "gelu-exact": "gelu", "relu": "relu"}


def gpt2_write(s: DecoderSettings) -> Config:
    """What GPT-2's config.json says."""
    return {
        "n_layer": s.layers,
        "n_head": s.heads,
        "n_embd": s.width,
        "n_inner": s.d_mlp,
        "n_positions": s.context,
        "activation_function": GPT2_ACTIVATIONS[s.mlp],
        "layer_norm_epsilon": s.norm_epsilon,
        "tie_word_embeddings": s.tied,
        **dict.fromkeys(DROPOUTS, s.dropout),
    }


def gpt2_read(c: Config) -> Config:
    """Our settings of GPT-2's."""
    activations = {name: mlp for mlp, name in GPT2_ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu"}
    return {
        "layers": c["n_layer"],
        "heads": c["n_head"],
        "width": c["n_embd"],
        "mlp_width": None if c.get("n_inner") in (None, 4 * c["n_embd"]) else c["n_inner"],
        "context": c["n_positions"],
        "mlp": activations[c.get("activation_function", "gelu_new")],
        "norm_epsilon": c.get("layer_norm_epsilon", 1e-5),
        "tied": c.get("tie_word_embeddings", True),
        "dropout": _dropout(c, 0.1),
        "norm": "layer",
        "position": "learned",
        "attention_bias": "all",
        "mlp_bias": True,
    }


DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


def _dropout(c: Config, default: float, names: tuple[str, ...] = DROPOUTS) -> float:
    """The one rate of dropout. Raises UserError when a config.json has several."""
    rates = {c.get(name, default) for name in names}
    if len(rates) > 1:
        raise UserError(f"{', '.join(names)} differ, and a model here has one dropout", "make them equal")
    rate: float = rates.pop()
    return rate


# Mixtures of experts


def experts_read(c: Config) -> Config:
    """Of both Qwen mixtures. Where no layer has experts, the model has none."""
    layers, step, plain = count_layers(c), c["decoder_sparse_step"], c["mlp_only_layers"] or []
    count = c.get("num_experts", c.get("num_local_experts"))
    dense = [layer for layer in range(layers) if not count or layer in plain or (layer + 1) % step]
    if len(dense) == layers:
        return {}
    experts = {
        "count": count,
        "per_token": c["num_experts_per_tok"],
        "width": c["moe_intermediate_size"],
        "shared_width": c.get("shared_expert_intermediate_size"),
        "normalised": c["norm_topk_prob"],
        "dense_layers": dense,
        "balance": c["router_aux_loss_coef"],
    }
    return {"experts": {key: value for key, value in experts.items() if value is not None}} | (
        {} if dense else {"mlp_width": None}
    )


def experts_write(s: DecoderSettings) -> Config:
    """What both Qwen mixtures write of their experts."""
    e = s.experts
    assert e is not None
    return {
        "num_experts": e.count,
        "num_experts_per_tok": e.per_token,
        "moe_intermediate_size": e.width or s.d_mlp,
        "norm_topk_prob": e.normalised,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(e.dense_layers),
        "router_aux_loss_coef": e.balance,
    }


def qwen2_moe_windows(c: Config) -> Config:
    """By layer_types, else in every second of the layers before max_window_layers."""
    layers, window = count_layers(c), asked(c)
    last = 0 if window is None else c.get("max_window_layers", 28)
    kinds = [SLIDING if layer % 2 == 0 and layer < last else FULL for layer in range(layers)]
    return windows(c, window, c.get("layer_types") or kinds)


def mixtral_fits(s: DecoderSettings) -> bool:
    """Whether Mixtral can express them."""
    e = s.experts
    plain = e is not None and e.normalised and e.shared_width is None and not e.dense_layers
    return plain and e is not None and e.width in (None, s.d_mlp) and expresses("window experts")(s)


def mixtral_read(c: Config) -> Config:
    """Our settings of Mixtral's."""
    experts = {"count": c["num_local_experts"], "per_token": c["num_experts_per_tok"]}
    return llama_read(c) | {
        "window": c["sliding_window"],
        "experts": experts | {"balance": c["router_aux_loss_coef"]},
    }


def mixtral_write(s: DecoderSettings) -> Config:
    """What Mixtral's config.json says."""
    e = s.experts
    assert e is not None
    return llama_write(s) | {
        "sliding_window": s.window,
        "num_local_experts": e.count,
        "num_experts_per_tok": e.per_token,
        "router_aux_loss_coef": e.balance,
    }


# Gemma


def _scalar(s: DecoderSettings) -> int:
    """The whole number whose inverse root multiplies the scores."""
    return s.d_head if s.attention_scale is None else round(max(s.attention_scale, 1e-9) ** -2)


def gemma_fits(free: str, **fixed: Any) -> Callable[[DecoderSettings], bool]:
    """Whether a Gemma can express settings; `free` and `fixed` are what differs between them."""
    style = {"norm": "rms-offset", "norm_place": "both", "mlp": "geglu", "scaled_embedding": True}
    free += " window global_layers attention_bias attention_scale attention_softcap logit_softcap"
    fits = expresses(free, **style, **fixed)
    return lambda s: fits(s) and all_or_none(s) and whole(s) and s.attention_scale in (None, max(1, _scalar(s)) ** -0.5)


def gemma_write(s: DecoderSettings) -> Config:
    """What both Gemmas write alike."""
    out = llama_write(s) | {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": _scalar(s),
        "attn_logit_softcapping": s.attention_softcap,
        "final_logit_softcapping": s.logit_softcap,
        "sliding_window": s.window or s.context,  # masks are made of it even where no layer has it
        "layer_types": kinds_of(s),
    }
    del out["hidden_act"]
    return out


def _gemma_read(c: Config, kinds: list[str]) -> Config:
    scalar = c["query_pre_attn_scalar"]
    return llama_read(c) | {
        "norm": "rms-offset",
        "norm_place": "both",
        "mlp": "geglu",
        "scaled_embedding": True,
        "attention_scale": None if scalar == c["head_dim"] else scalar**-0.5,
        "attention_softcap": c["attn_logit_softcapping"],
        "logit_softcap": c["final_logit_softcapping"],
        **windows(c, c["sliding_window"], kinds),
    }


def gemma2_read(c: Config) -> Config:
    """Without layer_types, every second layer has the window, the first one too."""
    layers = count_layers(c)
    return _gemma_read(c, c.get("layer_types") or [FULL if layer % 2 else SLIDING for layer in range(layers)])


def gemma3_read(c: Config) -> Config:
    """Without layer_types, every sixth layer is without the window. Its two kinds of layer have rotations of their own.

    These stand in rope_parameters, or, in older files, in rope_theta, rope_scaling and rope_local_base_freq.
    """
    layers, every = count_layers(c), c.get("sliding_window_pattern", 6)
    kinds = c.get("layer_types") or [SLIDING if (layer + 1) % every else FULL for layer in range(layers)]
    ropes_of = dict(c.get("rope_parameters") or {})
    wide = {"rope_theta": c.get("rope_theta", 1e6)} | (ropes_of.get(FULL) or {}) | (c.get("rope_scaling") or {})
    local = {"rope_theta": c.get("rope_local_base_freq", 1e4)} | (ropes_of.get(SLIDING) or {})
    if set(ropes_of) - {FULL, SLIDING}:
        raise UserError("rope_parameters are not those of the two kinds of layer", "check the model's config.json")
    found = _gemma_read({**c, "rope_scaling": None, "rope_parameters": None}, kinds) | {"qk_norm": True}
    wide, local = ropes.read(c, wide), ropes.read(c, local)
    if SLIDING not in kinds or FULL not in kinds or wide == local:
        return found | (local if FULL not in kinds else wide)
    if local["rope_scaling"] is not None:
        raise UserError("scaled rotary positions in layers with a window are not supported", "load a model without")
    return found | wide | {"rope_local_theta": local["rope_theta"]}


def gemma3_write(s: DecoderSettings) -> Config:
    """What Gemma 3's config.json says."""
    rope = ropes.write(s)
    local = rope if s.rope_local_theta is None else {"rope_type": "default", "rope_theta": s.rope_local_theta}
    return gemma_write(s) | {
        "rope_parameters": {FULL: rope, SLIDING: local},
        "rope_local_base_freq": local["rope_theta"],
    }


# Others


def phi3_fits(s: DecoderSettings) -> bool:
    """Whether Phi-3 can express them."""
    long = isinstance(s.rope_scaling, LongRope) and s.d_head == s.width // s.heads
    return expresses("window rope_share")(s) and (s.rope_scaling is None or long)


def phi3_write(s: DecoderSettings) -> Config:
    """What Phi-3's config.json says."""
    shares = {"partial_rotary_factor": s.rope_share}
    out = llama_write(s) | dict.fromkeys(("resid_pdrop", "embd_pdrop"), s.dropout) | shares
    long = s.rope_scaling
    original = long.original_context if isinstance(long, LongRope) else s.context
    return out | {
        "rope_parameters": out["rope_parameters"] | shares,
        "rope_scaling": None if long is None else out["rope_scaling"] | shares,
        ropes.ORIGINAL: original,
        "sliding_window": s.window,
    }


def phi3_read(c: Config) -> Config:
    """Our settings of Phi-3's."""
    rope = ropes.table(c)
    if rope.get("rope_type", rope.get("type")) in ("su", "yarn"):  # as its first files called it
        rope = {key: value for key, value in rope.items() if key != "type"} | {"rope_type": "longrope"}
    if rope.get("rope_type", rope.get("type", "default")) not in ("default", "longrope"):
        raise UserError(f"Phi-3 with rotary positions {rope} is not supported", "load a model with longrope or without")
    names = ("resid_pdrop", "embd_pdrop", "attention_dropout")
    found = llama_read({**c, "rope_scaling": None, "rope_parameters": rope}, partial=True)
    return found | {"window": c["sliding_window"], "dropout": _dropout(c, 0.0, names)}


def smollm3_read(c: Config) -> Config:
    """Without a list, every fourth layer has no rotary positions; where there is a window, these have it."""
    layers, every, window = count_layers(c), c["no_rope_layer_interval"], asked(c)
    turned = c["no_rope_layers"] or [(layer + 1) % every for layer in range(layers)]  # 0: not turned
    unrotated = [layer for layer in range(layers) if not turned[layer]]
    kinds = [SLIDING if window and layer in unrotated else FULL for layer in range(layers)]
    found = llama_read(c) | windows(c, window, c.get("layer_types") or kinds)
    if len(unrotated) == layers:
        return found | {"position": "none", "rope_theta": None, "rope_scaling": None}
    return found | {"unrotated_layers": unrotated}


def smollm3_write(s: DecoderSettings) -> Config:
    """What SmolLM3's config.json says."""
    return qwen_write(s) | {
        "no_rope_layers": [int(layer not in s.unrotated_layers) for layer in range(s.layers)],
        "mlp_bias": s.mlp_bias,
    }
