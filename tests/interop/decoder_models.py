"""The models of transformers that stand for each decoder family.

Configurations have grouped heads, heads whose width is not width / heads, an odd epsilon, and windows and first rotary
contexts that a prompt of T tokens outgrows.
"""

import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

V, T, CONTEXT = 43, 23, 97
EPSILON = 3e-4
SHAPE = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 29,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": EPSILON,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
WIDE = SHAPE | {"head_dim": 10}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50.0,
    "factor": 3.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 19,
}
YARN = {"rope_type": "yarn", "rope_theta": 50.0, "factor": 5.0, "original_max_position_embeddings": 19}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.5}
LONG = {"rope_type": "longrope", "rope_theta": 300.0, "short_factor": [1.0, 1.5], "long_factor": [2.0, 5.0]}
MIXTURE = {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 7,
    "router_aux_loss_coef": 0.02,
}
THEIRS = {
    "gpt2": GPT2Config(
        vocab_size=V, n_layer=3, n_head=3, n_embd=33, n_inner=29, n_positions=CONTEXT, layer_norm_epsilon=EPSILON
    ),
    "gpt2-exact": GPT2Config(
        vocab_size=V, n_layer=2, n_head=3, n_embd=33, n_positions=CONTEXT, activation_function="gelu"
    ),
    "llama": LlamaConfig(**WIDE, attention_bias=True, mlp_bias=True),
    "llama-llama3": LlamaConfig(**WIDE, rope_parameters=LLAMA3, tie_word_embeddings=True),
    "llama-linear": LlamaConfig(**SHAPE, rope_parameters=LINEAR),
    "mistral": MistralConfig(**WIDE, sliding_window=7),
    "mistral-full": MistralConfig(**WIDE, sliding_window=None),
    "qwen2": Qwen2Config(**WIDE, use_sliding_window=True, sliding_window=7, max_window_layers=1),
    "qwen2-yarn": Qwen2Config(**WIDE, rope_parameters=YARN),
    "qwen3": Qwen3Config(
        **WIDE,
        attention_bias=True,
        use_sliding_window=True,
        sliding_window=7,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
        rope_parameters=YARN | {"truncate": False, "mscale": 0.7, "mscale_all_dim": 1.3, "beta_fast": 8.0},
    ),
    "qwen2_moe": Qwen2MoeConfig(
        **WIDE,
        **MIXTURE,
        shared_expert_intermediate_size=11,
        mlp_only_layers=[1],
        use_sliding_window=True,
        sliding_window=7,
        norm_topk_prob=False,
    ),
    "qwen3_moe": Qwen3MoeConfig(**WIDE, **MIXTURE, norm_topk_prob=True, decoder_sparse_step=2),
    "qwen3_moe-window": Qwen3MoeConfig(**WIDE, **MIXTURE, use_sliding_window=True, sliding_window=5),
    "mixtral": MixtralConfig(**WIDE, num_local_experts=5, num_experts_per_tok=3, sliding_window=7),
    "gemma2": Gemma2Config(
        **WIDE,
        sliding_window=7,
        query_pre_attn_scalar=7,
        attn_logit_softcapping=2.5,
        final_logit_softcapping=5.0,
        attention_bias=True,
    ),
    "gemma2-uncapped": Gemma2Config(
        **WIDE, attn_logit_softcapping=None, final_logit_softcapping=None, layer_types=["full_attention"] * 3
    ),
    "gemma3_text": Gemma3TextConfig(
        **WIDE,
        sliding_window=7,
        query_pre_attn_scalar=11,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters={
            "full_attention": LINEAR,
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
        },
    ),
    "gemma3_text-local": Gemma3TextConfig(**WIDE, sliding_window=7, final_logit_softcapping=5.0),
    "phi3": Phi3Config(
        **(SHAPE | {"hidden_size": 32}),
        original_max_position_embeddings=19,
        rope_parameters=LONG | {"partial_rotary_factor": 0.5},
        sliding_window=13,
    ),
    "phi3-plain": Phi3Config(**SHAPE, tie_word_embeddings=True),
    "olmo2": Olmo2Config(**WIDE, attention_bias=True, rope_parameters=LLAMA3),
    "smollm3": SmolLM3Config(**WIDE, no_rope_layers=[1, 0, 1], mlp_bias=True, rope_parameters=YARN),
    "smollm3-window": SmolLM3Config(
        **WIDE, no_rope_layers=[1, 1, 0], use_sliding_window=True, sliding_window=7, attention_bias=True
    ),
}


def loud(model):
    """Every parameter redrawn from N(0, 0.3) around its default: 1 for norms, but 0 for Gemma's, and for all others."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(sorted(model.named_parameters())):
            norm = ("norm" in name or ".ln_" in name) and name.endswith("weight")
            around = 1.0 if norm and not model.config.model_type.startswith("gemma") else 0.0
            parameter.normal_(around, 0.3, generator=torch.Generator().manual_seed(i))
    model.tie_weights()
    return model.eval()
