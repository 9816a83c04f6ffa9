"""How many parameters a model has, by formula, before it is built.

Symbols: V vocabulary, L layers, D width, H query heads, K key/value heads, d head width, W hidden width of the MLP,
T context, G gates of a recurrent layer (rnn 1, gru 3, lstm 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from idiolect.adapt.settings import LabelledSettings
from idiolect.models.settings import (
    CbowSettings,
    DecoderSettings,
    EncoderDecoderSettings,
    EncoderSettings,
    EncoderSideSettings,
    NGramSettings,
    RecurrentSettings,
    Seq2SeqSettings,
    SideSettings,
    TransformerSettings,
)

Settings = NGramSettings | RecurrentSettings | Seq2SeqSettings | CbowSettings | TransformerSettings | LabelledSettings
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
OUTSIDE = ("embedding", "positions", "head")
"""Parts that grow with the vocabulary or the context; scaling laws leave them out of N."""


@dataclass(frozen=True)
class Parameters:
    """Parameters by part. A head that shares the embedding's matrix counts there."""

    parts: Mapping[str, int]
    """Part → parameters; for an n-gram, order → the most sequences it can hold."""
    bound: bool = False
    """Whether the numbers are upper bounds (n-grams: what a text really holds is known once it is counted)."""

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parts.values())

    @property
    def inner(self) -> int:
        """Parameters without embeddings and head: the N of Kaplan et al. 2020."""
        return sum(count for name, count in self.parts.items() if name not in OUTSIDE)


def count(settings: Settings, vocabulary: int, tokens: int | None = None) -> Parameters:
    """The parameters of a model of these settings. `tokens` of training text bound what an n-gram can hold."""
    if isinstance(settings, NGramSettings):
        return _ngram(settings, vocabulary, tokens)
    if isinstance(settings, LabelledSettings):
        return _labelled(settings, vocabulary)
    if isinstance(settings, RecurrentSettings):
        return _recurrent(settings, vocabulary)
    if isinstance(settings, EncoderSettings):
        return _encoder(settings, vocabulary)
    if isinstance(settings, Seq2SeqSettings):
        return _seq2seq(settings, vocabulary)
    if isinstance(settings, CbowSettings):  # input vectors, and output vectors
        return _parts(embedding=vocabulary * settings.width, head=vocabulary * settings.width)
    if isinstance(settings, EncoderDecoderSettings):
        return _encoder_decoder(settings, vocabulary)
    return _decoder(settings, vocabulary)


def _decoder(s: TransformerSettings, V: int) -> Parameters:
    """L (D d (2 H + 2 K) + 2 or 3 D W) in matrices, besides norms, biases, V D of the embedding and of the head."""
    L, norm = s.layers, s.width * (2 if s.norm == "layer" else 1)
    D, norms = s.width, 4 if s.norm_place == "both" else 2  # of a block
    joint = isinstance(s, DecoderSettings) and s.qk_norm_joint
    heads = s.d_head * (s.heads + s.n_kv if joint else 2) if s.qk_norm else 0
    return _parts(
        embedding=V * D,
        positions=s.context * D if s.position == "learned" else 0,
        attention=attention_matrices(s),
        mlp=mlp_matrices(s),
        biases=L * _attention_biases(s) + _mlp_biases(s),
        norms=L * (norms * norm + heads) + (norm if s.norm_place != "residual" else 0),
        head=0 if s.tied else V * D,
    )


def _encoder(s: EncoderSettings, V: int) -> Parameters:
    """Those of a decoder of these settings, and what an encoder may have besides."""
    D, norm, transformed = s.width, s.width * (2 if s.norm == "layer" else 1), s.head == "transform"
    more = {
        "embedding": s.token_types * D,
        "positions": s.position_offset * D,
        "norms": norm if s.embedding_norm else 0,
        "transform": D * D + D + norm if transformed else 0,
        "head": V if transformed else 0,
        "pooler": D * D + D if s.pooler else 0,
    }
    parts = _decoder(s, V).parts
    return _parts(**{name: parts.get(name, 0) + more.get(name, 0) for name in {**parts, **more}})


def _encoder_decoder(s: EncoderDecoderSettings, V: int) -> Parameters:
    """A decoder whose blocks have a second attention with its norm, and an encoder: blocks without one, and a norm.

    An encoder of settings of its own counts as one part, without what makes logits of its output.
    """
    norm = s.width * (2 if s.norm == "layer" else 1)
    decoder, one = dict(_decoder(s, V).parts), s.model_copy(update={"layers": 1})
    attention, biases = attention_matrices(one), _attention_biases(s)
    more = {
        "attention": s.layers * attention,
        "biases": s.layers * biases,
        "norms": s.layers * (norm * (2 if s.norm_place == "both" else 1) + (2 * s.d_head if s.qk_norm else 0)),
        "distances": s.relative_buckets * s.heads if s.position == "relative" else 0,
    }
    if isinstance(s.encoder, EncoderSettings):
        more["encoder"] = _encoder(
            s.encoder.model_copy(update={"head": "none", "pooler": False, "tied": True}), V
        ).total
    elif s.encoder is not None:
        more["encoder"] = sum(_side(s.encoder, s.encoder.layers, V).values())
    else:
        for name, size in _side(s, s.n_encoder, 0 if s.shared_embedding else V).items():
            more[name] = more.get(name, 0) + size
    return _parts(**{name: decoder.get(name, 0) + more.get(name, 0) for name in {**decoder, **more}})


def _side(s: SideSettings, layers: int, V: int) -> dict[str, int]:
    """An encoder of `layers` blocks with an embedding of V ids of its own, or with one for frames."""
    frames = s.source_features
    return {
        **_decoder(s.model_copy(update={"layers": layers}), 0).parts,
        "embedding": 0 if frames else V * s.width,
        "frames": (frames + 1) * s.width if frames else 0,
        "positions": (s.longest_source or 0) * s.width if s.position == "learned" else 0,
        "distances": s.relative_buckets * s.heads if s.position == "relative" else 0,
    }


def _recurrent(s: RecurrentSettings, V: int) -> Parameters:
    """L G (2 D² + D), and D G more biases in each layer of a GRU; the head has a bias."""
    L, D, G = s.layers, s.width, GATES[s.kind]
    biases = 2 * G * D if s.kind == "gru" else G * D
    return _parts(
        embedding=V * s.width,
        recurrent=L * (2 * G * D * D + biases),
        head=V if s.tied else V * D + V,
    )


def _labelled(s: LabelledSettings, V: int) -> Parameters:
    """Those of the body, D C + C for C labels, and D² + D for a layer in between."""
    D, C = s.base.width, len(s.labels)
    reads = s.reads
    parts = _side(reads, reads.layers, V) if isinstance(reads, EncoderSideSettings) else count(reads, V).parts
    body = {name: n for name, n in parts.items() if name not in ("head", "transform", "pooler")}
    return _parts(**body, labels=D * C + C + (D * D + D if s.hidden != "none" else 0))


def _seq2seq(s: Seq2SeqSettings, V: int) -> Parameters:
    """A layer with inputs of width I has G D (I + D) weights; E embedding, C annotation (`models.seq2seq`)."""
    L, D, E, C, directions = s.layers, s.width, s.d_embedding, s.d_annotation, 2 if s.bidirectional else 1
    biases = GATES[s.cell] * D * (2 if s.cell == "gru" else 1)
    encoder, decoder = recurrent_matrices(s)
    return _parts(
        embedding=V * E,
        frames=(s.source_features + 1) * E if s.source_features else 0,
        encoder=encoder + directions * L * biases,
        decoder=decoder + L * biases + L * D * (C + 1),  # and what its first vectors are made by
        attention=D * (D + C + 1) if s.attention == "bahdanau" else 0,
        readout=E * (E + D + C + 1),
        head=V if s.tied else V * E + V,
    )


def recurrent_matrices(s: Seq2SeqSettings) -> tuple[int, int]:
    """Weights of the recurrent layers of the encoder and of the decoder."""
    L, D, E, C, gates = s.layers, s.width, s.d_embedding, s.d_annotation, GATES[s.cell] * s.width
    encoder = (2 if s.bidirectional else 1) * gates * (E + (L - 1) * C + L * D)
    return encoder, gates * (E + C + (L - 1) * D + L * D)


def _ngram(s: NGramSettings, V: int, tokens: int | None) -> Parameters:
    """At most V^k sequences of k tokens exist, and a text of n tokens holds at most n of them."""
    most = tokens if tokens is not None else V**s.order
    parts = {f"{k}-grams": min(V**k, most) if k > 1 else V for k in range(1, s.order + 1)}
    if s.smoothing == "infinite":  # besides, the text itself and its suffix array
        parts |= {"text": most, "suffixes": most}
    return Parameters(parts, bound=True)


def attention_matrices(s: TransformerSettings) -> int:
    """Weights of all attention projections of one stack of blocks: L D d (2 H + 2 K)."""
    return s.layers * s.width * s.d_head * 2 * (s.heads + s.n_kv)


def mlps(s: TransformerSettings, active: bool = False) -> list[tuple[int, int]]:
    """(how many, their hidden width) of the MLPs of one stack of blocks: one a layer, or one an expert.

    `active`: of experts only those that a token goes through.
    """
    e = s.experts if isinstance(s, DecoderSettings) else None
    if e is None:
        return [(s.layers, s.d_mlp)]
    dense, sparse = len(e.dense_layers), s.layers - len(e.dense_layers)
    shared = [] if e.shared_width is None else [(sparse, e.shared_width)]
    return [(dense, s.d_mlp), (sparse * (e.per_token if active else e.count), e.width or s.d_mlp), *shared]


def mlp_matrices(s: TransformerSettings, active: bool = False) -> int:
    """Weights of all MLPs of one stack of blocks: 2 L D W, and 3 L D W when gated.

    A layer with experts has D for each of them besides, which choose among them, and D for the shared one's gate.
    """
    e, inside = s.experts if isinstance(s, DecoderSettings) else None, sum(n * W for n, W in mlps(s, active))
    choose = 0 if e is None else (s.layers - len(e.dense_layers)) * (e.count + (e.shared_width is not None))
    return s.width * ((3 if s.gated else 2) * inside + choose)


def idle(s: DecoderSettings) -> int:
    """Parameters of the experts that a token does not go through."""
    if s.experts is None:
        return 0
    W, factors = s.experts.width or s.d_mlp, 3 if s.gated else 2
    one = factors * s.width * W + ((factors - 1) * W + s.width if s.mlp_bias else 0)
    return (s.layers - len(s.experts.dense_layers)) * (s.experts.count - s.experts.per_token) * one


def matrices(s: TransformerSettings, active: bool = False) -> int:
    """Weights of the matrices of all blocks; where there are two stacks, of both, and of what joins them.

    `active`: of experts only those that a token goes through.
    """
    here = attention_matrices(s) + mlp_matrices(s, active)
    if not isinstance(s, EncoderDecoderSettings):
        return here
    encoder = s.encoder or s.model_copy(update={"layers": s.n_encoder})
    return here + attention_matrices(s) + attention_matrices(encoder) + mlp_matrices(encoder)


def kaplan(layers: int, width: int, attention_width: int, mlp_width: int) -> int:
    """N ≈ 2 D L (2 d_attn + d_ff): Kaplan et al. 2020, arXiv 2001.08361, table 1.

    For ungated MLPs and as many key/value heads as query heads, without biases, norms and embeddings. With d_attn = D
    and d_ff = 4 D it is 12 L D². Other shapes: `attention_matrices` + `mlp_matrices`.
    """
    return 2 * width * layers * (2 * attention_width + mlp_width)


def _attention_biases(s: TransformerSettings) -> int:
    qkv = (s.heads + 2 * s.n_kv) * s.d_head
    return {"none": 0, "qkv": qkv, "all": qkv + s.width}[s.attention_bias]


def _mlp_biases(s: TransformerSettings) -> int:
    return sum(n * ((2 if s.gated else 1) * W + s.width) for n, W in mlps(s)) if s.mlp_bias else 0


def _parts(**parts: int) -> Parameters:
    return Parameters({name: count for name, count in parts.items() if count})
