"""The Hugging Face model types that our decoder can be, and what they call its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from idiolect.interop import decoder_configs as configs
from idiolect.interop import layouts, ropes
from idiolect.interop.llamas import (
    all_or_none,
    asked,
    expresses,
    llama_read,
    llama_write,
    qwen_windows,
    qwen_write,
    whole,
)
from idiolect.interop.rows import Config, Family, Tensors, same
from idiolect.models.settings import DecoderSettings

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
AFTER_NAMES = {"attention_norm": "post_attention_layernorm", "mlp_norm": "post_feedforward_layernorm"}
GEMMA_NAMES = {
    "attention_norm_after": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_norm_after": "post_feedforward_layernorm",
}
PHI3_NAMES = {"attention.fused": "self_attn.qkv_proj", "mlp.fused": "mlp.gate_up_proj"}
QWEN_MOE_NAMES = {
    "mlp.router": "mlp.gate",
    "mlp.experts.": "mlp.experts.",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
    "mlp.shared.gate": "mlp.shared_expert.gate_proj",
    "mlp.shared.up": "mlp.shared_expert.up_proj",
    "mlp.shared.down": "mlp.shared_expert.down_proj",
    "mlp.shared_gate": "mlp.shared_expert_gate",
}
MIXTRAL_NAMES = {
    "mlp.router": "block_sparse_moe.gate",
    "mlp.experts.": "block_sparse_moe.experts.",
    "gate": "w1",
    "up": "w3",
    "down": "w2",
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
GPT2_FIXED: Mapping[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu", "relu"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
}
NO_WINDOW = {"sliding_window": (None,), "layer_types": (None,)}
FIXED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}
OLMO2 = {"norm_place": "after", "qk_norm": True, "qk_norm_joint": True}
QWEN_MOE = {"decoder_sparse_step": 1, "mlp_only_layers": None, "norm_topk_prob": False, "router_aux_loss_coef": 0.001}
GEMMA = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
GEMMA_FIXED = {
    **FIXED,
    "hidden_act": ("gelu_pytorch_tanh", "gelu_new", "gelu", None),  # which its code does not read
    "hidden_activation": ("gelu_pytorch_tanh", "gelu_new"),
    "use_bidirectional_attention": (None, False),
}


def _llama_row(
    architecture: str,
    fits: Callable[[DecoderSettings], bool],
    write: Callable[[DecoderSettings], Config],
    read: Callable[[Config], Config],
    *,
    defaults: Config,
    fixed: Mapping[str, tuple[Any, ...]] = FIXED,
    names: Mapping[str, str] | None = None,
    to_theirs: Callable[[Tensors], Tensors] = same,
    to_ours: Callable[[Tensors], Tensors] = same,
) -> Family:
    """A row of Llama's descendants, whose files may leave out the prefix of the body's tensors."""
    return Family(
        DecoderSettings,
        architecture,
        fits,
        write,
        read,
        fixed,
        LLAMA_NAMES | dict(names or {}),
        to_theirs,
        to_ours,
        canonical=lambda name: name if name.startswith(("model.", "lm_head.")) else f"model.{name}",
        defaults={"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_dropout": 0.0, **defaults},
    )


DECODERS = {
    "gpt2": Family(
        DecoderSettings,
        "GPT2LMHeadModel",
        configs.gpt2_fits,
        configs.gpt2_write,
        configs.gpt2_read,
        GPT2_FIXED,
        GPT2_NAMES,
        layouts.gpt2_to_theirs,
        layouts.gpt2_to_ours,
        canonical=lambda name: name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}",
    ),
    "llama": _llama_row(
        "LlamaForCausalLM",
        lambda s: expresses("attention_bias mlp_bias")(s) and all_or_none(s) and whole(s),
        lambda s: llama_write(s) | {"mlp_bias": s.mlp_bias},
        llama_read,
        defaults={"num_key_value_heads": None},
        fixed={**FIXED, **NO_WINDOW},
    ),
    "mistral": _llama_row(
        "MistralForCausalLM",
        expresses("window"),
        lambda s: llama_write(s) | {"sliding_window": s.window},
        lambda c: llama_read(c) | {"window": c["sliding_window"]},
        defaults={"num_key_value_heads": 8, "sliding_window": 4096},
        fixed={**FIXED, "layer_types": (None,)},
    ),
    "mixtral": _llama_row(
        "MixtralForCausalLM",
        configs.mixtral_fits,
        configs.mixtral_write,
        configs.mixtral_read,
        defaults={
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "sliding_window": None,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "router_aux_loss_coef": 0.001,
        },
        fixed={**FIXED, "layer_types": (None,), "router_jitter_noise": (0.0,)},
        names=MIXTRAL_NAMES,
    ),
    "qwen2": _llama_row(
        "Qwen2ForCausalLM",
        expresses("window global_layers", attention_bias="qkv"),
        qwen_write,
        lambda c: llama_read(c) | qwen_windows(c) | {"attention_bias": "qkv"},
        defaults={"num_key_value_heads": 32},
    ),
    "qwen3": _llama_row(
        "Qwen3ForCausalLM",
        lambda s: expresses("window global_layers attention_bias", qk_norm=True)(s) and all_or_none(s),
        qwen_write,
        lambda c: llama_read(c) | qwen_windows(c) | {"qk_norm": True},
        defaults={"num_key_value_heads": 32, "head_dim": 128},
    ),
    "qwen2_moe": _llama_row(
        "Qwen2MoeForCausalLM",
        lambda s: (
            expresses("window global_layers experts attention_bias")(s)
            and s.attention_bias != "all"
            and s.experts is not None
            and s.experts.shared_width is not None
        ),
        lambda s: (
            qwen_write(s)
            | configs.experts_write(s)
            | {
                "qkv_bias": s.attention_bias == "qkv",
                "shared_expert_intermediate_size": s.experts and s.experts.shared_width,
            }
        ),
        lambda c: (
            llama_read(c)
            | configs.qwen2_moe_windows(c)
            | configs.experts_read(c)
            | {"attention_bias": "qkv" if c["qkv_bias"] else "none"}
        ),
        defaults=QWEN_MOE
        | {
            "num_key_value_heads": 16,
            "num_experts_per_tok": 4,
            "num_experts": 60,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "qkv_bias": True,
        },
        names=QWEN_MOE_NAMES,
    ),
    "qwen3_moe": _llama_row(
        "Qwen3MoeForCausalLM",
        lambda s: (
            expresses("window experts attention_bias", qk_norm=True)(s)
            and all_or_none(s)
            and s.experts is not None
            and s.experts.shared_width is None
        ),
        lambda s: (
            llama_write(s)
            | configs.experts_write(s)
            | {"use_sliding_window": s.window is not None, "sliding_window": s.window}
        ),
        lambda c: llama_read(c) | {"window": asked(c), "qk_norm": True} | configs.experts_read(c),
        defaults=QWEN_MOE
        | {
            "num_key_value_heads": 4,
            "num_experts_per_tok": 8,
            "num_local_experts": 128,
            "moe_intermediate_size": 768,
        },
        fixed={**FIXED, "layer_types": (None,)},
        names=QWEN_MOE_NAMES,
    ),
    "olmo2": _llama_row(
        "Olmo2ForCausalLM",
        lambda s: (
            expresses("attention_bias", norm_place="after", qk_norm=True, qk_norm_joint=True)(s) and all_or_none(s)
        ),
        llama_write,
        lambda c: llama_read(c) | {"norm_place": "after", "qk_norm": True, "qk_norm_joint": True},
        defaults={"num_key_value_heads": None, "rms_norm_eps": 1e-5},
        fixed={**FIXED, **NO_WINDOW, "clip_qkv": (None,)},
        names=AFTER_NAMES,
    ),
    "gemma2": _llama_row(
        "Gemma2ForCausalLM",
        configs.gemma_fits(""),
        configs.gemma_write,
        configs.gemma2_read,
        defaults=GEMMA | {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
        fixed=GEMMA_FIXED,
        names=GEMMA_NAMES,
    ),
    "gemma3_text": _llama_row(
        "Gemma3ForCausalLM",
        configs.gemma_fits("rope_local_theta", qk_norm=True),
        configs.gemma3_write,
        configs.gemma3_read,
        defaults=GEMMA | {"final_logit_softcapping": None, "attn_logit_softcapping": None},
        fixed=GEMMA_FIXED,
        names=GEMMA_NAMES,
    ),
    "phi3": _llama_row(
        "Phi3ForCausalLM",
        configs.phi3_fits,
        configs.phi3_write,
        configs.phi3_read,
        defaults={"num_key_value_heads": None, "rms_norm_eps": 1e-5, "sliding_window": None, ropes.ORIGINAL: 4096},
        fixed={name: allowed for name, allowed in FIXED.items() if name != "partial_rotary_factor"},
        names=PHI3_NAMES,
        to_theirs=layouts.phi3_to_theirs,
        to_ours=layouts.phi3_to_ours,
    ),
    "smollm3": _llama_row(
        "SmolLM3ForCausalLM",
        lambda s: expresses("window global_layers unrotated_layers attention_bias mlp_bias")(s) and all_or_none(s),
        configs.smollm3_write,
        configs.smollm3_read,
        defaults={
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "rope_theta": 2e6,
            "sliding_window": None,
            "no_rope_layers": None,
            "no_rope_layer_interval": 4,
        },
    ),
}
"""Tried in this order when a model is saved."""
