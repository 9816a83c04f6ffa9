"""The Hugging Face model types that our encoder can be: how config.json spells each, and its tensors' names."""

from __future__ import annotations

from typing import Any

from idiolect.interop.rows import Config, Family
from idiolect.models.settings import EncoderSettings

ACTIVATIONS = {"gelu-exact": "gelu", "gelu": "gelu_new", "relu": "relu"}
"""Our kinds of MLP, and the activations they are called by."""
KINDS = {name: kind for kind, name in ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu"}


def _fits(s: EncoderSettings) -> bool:
    """What all of them share."""
    shape = s.n_kv == s.heads and s.heads * s.d_head == s.width
    norms = s.norm == "layer" and s.norm_place == "residual" and s.embedding_norm and not s.qk_norm
    parts = s.position == "learned" and s.attention_bias == "all" and s.mlp_bias and s.head != "plain"
    return shape and norms and parts and s.mlp in ACTIVATIONS and s.tied


def _shared(c: Config) -> Config:
    """What all of them read alike: the arrangement."""
    return {
        "norm": "layer",
        "norm_place": "residual",
        "embedding_norm": True,
        "position": "learned",
        "attention_bias": "all",
        "mlp_bias": True,
        "tied": True,
        "head": "transform",
    }


def _bert_write(s: EncoderSettings) -> Config:
    return {
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "hidden_size": s.width,
        "intermediate_size": s.d_mlp,
        "max_position_embeddings": s.position_offset + s.context,
        "type_vocab_size": s.token_types,
        "hidden_act": ACTIVATIONS[s.mlp],
        "layer_norm_eps": s.norm_epsilon,
        "tie_word_embeddings": True,
        **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), s.dropout),
    }


def _bert_read(c: Config, offset: int = 0) -> Config:
    return _shared(c) | {
        "layers": c["num_hidden_layers"],
        "heads": c["num_attention_heads"],
        "width": c["hidden_size"],
        "mlp_width": None if c["intermediate_size"] == 4 * c["hidden_size"] else c["intermediate_size"],
        "context": c["max_position_embeddings"] - offset,
        "position_offset": offset,
        "token_types": c.get("type_vocab_size", 2),
        "mlp": KINDS[c.get("hidden_act", "gelu")],
        "norm_epsilon": c.get("layer_norm_eps", 1e-12),
        "dropout": c.get("hidden_dropout_prob", 0.1),
        "pooler": True,
    }


def _roberta_read(c: Config) -> Config:
    """RoBERTa counts positions from the one after its padding id."""
    return _bert_read(c, c.get("pad_token_id", 1) + 1)


def _distilbert_write(s: EncoderSettings) -> Config:
    return {
        "n_layers": s.layers,
        "n_heads": s.heads,
        "dim": s.width,
        "hidden_dim": s.d_mlp,
        "max_position_embeddings": s.context,
        "activation": ACTIVATIONS[s.mlp],
        "sinusoidal_pos_embds": False,  # they are learnt, or were made so once and are stored
        "tie_word_embeddings": True,
        **dict.fromkeys(("dropout", "attention_dropout"), s.dropout),
    }


def _distilbert_read(c: Config) -> Config:
    return _shared(c) | {
        "layers": c["n_layers"],
        "heads": c["n_heads"],
        "width": c["dim"],
        "mlp_width": None if c["hidden_dim"] == 4 * c["dim"] else c["hidden_dim"],
        "context": c["max_position_embeddings"],
        "mlp": KINDS[c.get("activation", "gelu")],
        "norm_epsilon": DISTILBERT_EPSILON,
        "dropout": c.get("dropout", 0.1),
    }


DISTILBERT_EPSILON = 1e-12
"""Which its code has in place of a setting."""


def _canonical(name: str, body: str, head: str) -> str | None:
    """A stored tensor's name with the prefix that files of the bare body leave out, and norms as they are called now.

    None for buffers of old files, for the second copy of a tied head, and for BERT's head for the next sentence.
    """
    if name.endswith((".position_ids", ".token_type_ids")):
        return None
    if ".seq_relationship." in name or name.startswith((f"{head}.decoder.", f"{head}.predictions.decoder.")):
        return None
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return name if name.startswith((f"{body}.", f"{head}.", "vocab_")) else f"{body}.{name}"


def _bert_names(body: str, head: str, transform: str, norm: str) -> dict[str, str]:
    return {
        "embedding": f"{body}.embeddings.word_embeddings",
        "position": f"{body}.embeddings.position_embeddings",
        "types": f"{body}.embeddings.token_type_embeddings",
        "embedding_norm": f"{body}.embeddings.LayerNorm",
        "pooler": f"{body}.pooler.dense",
        "head": head,
        "transform.dense": transform,
        "transform.norm": norm,
        "blocks.": f"{body}.encoder.layer.",
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "mlp.up": "intermediate.dense",
        "mlp.down": "output.dense",
        "mlp_norm": "output.LayerNorm",
    }


BERT_NAMES = _bert_names(
    "bert", "cls.predictions", "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"
)
ROBERTA_NAMES = _bert_names("roberta", "lm_head", "lm_head.dense", "lm_head.layer_norm")
DISTILBERT_NAMES = {
    "embedding": "distilbert.embeddings.word_embeddings",
    "position": "distilbert.embeddings.position_embeddings",
    "embedding_norm": "distilbert.embeddings.LayerNorm",
    "head": "vocab_projector",
    "transform.dense": "vocab_transform",
    "transform.norm": "vocab_layer_norm",
    "blocks.": "distilbert.transformer.layer.",
    "attention.query": "attention.q_lin",
    "attention.key": "attention.k_lin",
    "attention.value": "attention.v_lin",
    "attention.out": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "mlp.up": "ffn.lin1",
    "mlp.down": "ffn.lin2",
    "mlp_norm": "output_layer_norm",
}
BERT_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": tuple(KINDS),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
ROBERTA_FIXED = BERT_FIXED | {"hidden_act": ("gelu",)}  # its head has no other
WITHOUT_POOLER, WITHOUT_HEAD = {"pooler": False}, {"head": "none"}


def _roberta(architecture: str, bare: str) -> Family:
    return Family(
        EncoderSettings,
        architecture,
        lambda s: _fits(s) and s.position_offset > 0 and s.token_types > 0 and s.mlp == "gelu-exact",
        lambda s: _bert_write(s) | {"pad_token_id": s.position_offset - 1},
        _roberta_read,
        ROBERTA_FIXED,
        ROBERTA_NAMES,
        canonical=lambda name: _canonical(name, "roberta", "lm_head"),
        absent={"roberta.pooler.dense.weight": WITHOUT_POOLER, "lm_head.bias": WITHOUT_HEAD},
        bare=("roberta.", bare),
    )


ENCODERS = {
    "bert": Family(
        EncoderSettings,
        "BertForMaskedLM",
        lambda s: _fits(s) and s.position_offset == 0 and s.token_types > 0,
        _bert_write,
        _bert_read,
        BERT_FIXED,
        BERT_NAMES,
        canonical=lambda name: _canonical(name, "bert", "cls"),
        absent={"bert.pooler.dense.weight": WITHOUT_POOLER, "cls.predictions.bias": WITHOUT_HEAD},
        bare=("bert.", "BertModel"),
    ),
    "roberta": _roberta("RobertaForMaskedLM", "RobertaModel"),
    "xlm-roberta": _roberta("XLMRobertaForMaskedLM", "XLMRobertaModel"),
    "distilbert": Family(
        EncoderSettings,
        "DistilBertForMaskedLM",
        lambda s: (
            _fits(s)
            and s.position_offset == s.token_types == 0
            and not s.pooler
            and s.norm_epsilon == DISTILBERT_EPSILON
        ),
        _distilbert_write,
        _distilbert_read,
        {"activation": tuple(KINDS), "tie_word_embeddings": (True,)},
        DISTILBERT_NAMES,
        canonical=lambda name: _canonical(name, "distilbert", "vocab_projector"),
        absent={"vocab_projector.bias": WITHOUT_HEAD},
        bare=("distilbert.", "DistilBertModel"),
    ),
}
"""Tried in this order when a model is saved; what RoBERTa can express, XLM-RoBERTa is."""
