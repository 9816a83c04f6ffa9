"""The Hugging Face model types that our encoder-decoder can be: how config.json spells each, and its tensors' names."""

from __future__ import annotations

from typing import Any

from idiolect.interop.rows import Config, Family, Tensors
from idiolect.models.settings import EncoderDecoderSettings

PROJECTIONS = {
    "relu": "relu",
    "gelu": "gelu_new",
    "gelu-exact": "gelu",
    "geglu": "gated-gelu",  # which means the tanh approximation
    "swiglu": "gated-silu",
}
"""Our kinds of MLP, and what feed_forward_proj calls them."""
KINDS: dict[str, Any] = {name: kind for kind, name in PROJECTIONS.items()} | {"gated-gelu_new": "geglu"}


def _fits(s: EncoderDecoderSettings) -> bool:
    plain = not (s.attention_bias != "none" or s.mlp_bias or s.qk_norm or s.scaled_embedding or s.scaled_scores)
    style = (s.norm, s.norm_place, s.position) == ("rms", "before", "relative")
    return plain and style and s.n_kv == s.heads and s.source_features is s.encoder is None and s.shared_embedding


def _write(s: EncoderDecoderSettings) -> Config:
    found: Config = {
        "is_encoder_decoder": True,
        "num_layers": s.n_encoder,
        "num_decoder_layers": s.layers,
        "num_heads": s.heads,
        "d_model": s.width,
        "d_kv": s.d_head,
        "d_ff": s.d_mlp,
        "n_positions": s.context,
        "feed_forward_proj": PROJECTIONS[s.mlp],
        "layer_norm_epsilon": s.norm_epsilon,
        "relative_attention_num_buckets": s.relative_buckets,
        "relative_attention_max_distance": s.relative_distance,
        "dropout_rate": s.dropout,
        "scale_decoder_outputs": s.scaled_head,
        "tie_word_embeddings": s.tied or s.scaled_head,  # before transformers 5 it also meant the line above
    }
    return found if s.source_context is None else found | {"source_context": s.source_context}  # a key of ours alone


def _read(c: Config) -> Config:
    width, heads, mlp = c["d_model"], c["num_heads"], KINDS[c.get("feed_forward_proj", "relu")]
    usual = EncoderDecoderSettings.model_construct(mlp=mlp, width=width, mlp_width=None).d_mlp
    layers, start = c.get("num_decoder_layers") or c["num_layers"], c.get("decoder_start_token_id", 0)
    return {
        "layers": layers,
        "encoder_layers": None if c["num_layers"] == layers else c["num_layers"],
        "heads": heads,
        "width": width,
        "head_width": None if c["d_kv"] * heads == width else c["d_kv"],
        "mlp": mlp,
        "mlp_width": None if c["d_ff"] == usual else c["d_ff"],
        "context": c.get("n_positions", 512),
        "source_context": c.get("source_context"),
        "norm_epsilon": c.get("layer_norm_epsilon", 1e-6),
        "relative_buckets": c.get("relative_attention_num_buckets", 32),
        "relative_distance": c.get("relative_attention_max_distance", 128),
        "dropout": c.get("dropout_rate", 0.1),
        "scaled_head": c.get("scale_decoder_outputs", c.get("tie_word_embeddings") is not False),
        "tied": False,  # unless the head's matrix is absent; what config.json says of it, transformers 5 does not read
        "start_id": None if start == c.get("bos_token_id") else start,
    }


def _to_theirs(tensors: Tensors) -> Tensors:
    """A gated MLP's matrix beside the gate has another name there than that of an MLP without one."""
    gated = {name for name in tensors if ".mlp.up." in name and name.replace("up", "gate") in tensors}
    return {name.replace(".up.", ".gated.") if name in gated else name: x for name, x in tensors.items()}


def _to_ours(tensors: Tensors) -> Tensors:
    return {name.replace(".mlp.gated.", ".mlp.up."): tensor for name, tensor in tensors.items()}


def _canonical(name: str) -> str | None:
    """None for copies of the one embedding, and for a bias between target and source that old files carry."""
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    return None if name in copies or name.endswith(".EncDecAttention.relative_attention_bias.weight") else name


def _sublayers(side: str, *sublayers: tuple[str, str, str]) -> dict[str, str]:
    """(our norm, our module, theirs) of each sublayer of a side's blocks → the names of the tensors' modules."""
    parts = {
        "attention": {"query": "q", "key": "k", "value": "v", "out": "o"},
        "mlp": {"gate": "wi_0", "gated": "wi_1", "up": "wi", "down": "wo"},
    }
    found = {f"{side}.blocks.": f"{side}.block."}
    for number, (norm, module, theirs) in enumerate(sublayers):
        at = f"{side}.block.layer.{number}"
        found[f"{side}.blocks.{norm}"] = f"{at}.layer_norm"
        for part, called in parts["mlp" if module == "mlp" else "attention"].items():
            found[f"{side}.blocks.{module}.{part}"] = f"{at}.{theirs}.{called}"
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias"
    return found | {f"{side}.norm": f"{side}.final_layer_norm", f"{side}.relative": f"{side}.{bias}"}


_SELF, _MLP = ("attention_norm", "attention", "SelfAttention"), ("mlp_norm", "mlp", "DenseReluDense")
T5_NAMES = {
    "embedding": "shared",
    "head": "lm_head",
    **_sublayers("encoder", _SELF, _MLP),
    **_sublayers("decoder", _SELF, ("cross_norm", "cross", "EncDecAttention"), _MLP),
}
T5_FIXED = {"feed_forward_proj": tuple(KINDS)}


def _t5(architecture: str, **said: bool) -> Family:
    return Family(
        EncoderDecoderSettings,
        architecture,
        lambda s: _fits(s) and all(getattr(s, name) == value for name, value in said.items()),
        _write,
        lambda c: _read(c) | said,
        T5_FIXED,
        T5_NAMES,
        to_theirs=_to_theirs,
        to_ours=_to_ours,
        canonical=_canonical,
        absent={"lm_head.weight": {"tied": True}},
    )


SEQUENCES = {
    "t5": _t5("T5ForConditionalGeneration"),
    "mt5": _t5("MT5ForConditionalGeneration", scaled_head=False),
}
"""Tried in this order when a model is saved; what mT5 can express, T5 can."""
