"""Settings of every model family; torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from idiolect.config import Settings
from idiolect.models.decoder_settings import ExpertSettings, LongRope, RopeScaling, YarnRope

CONTEXT = Field(default=256, ge=1)


class FamilySettings(Settings):
    """What the settings of every family have."""

    kind: str
    """The family."""
    from_: Path | None = Field(default=None, alias="from", exclude=True)
    """A model folder (or run folder) to start from: its settings, its tokenizer and its weights."""

    free: ClassVar[tuple[str, ...]] = ()
    """Settings that no weight depends on, so that a model made from another may have others."""

    def matrices(self, vocabulary: int) -> list[int]:
        """Numbers in some matrices that any model of these settings has; a folder that holds fewer is damaged."""
        return []

    def tensors(self) -> int:
        """A model of these settings has no fewer tensors."""
        return getattr(self, "layers", 1)


class NGramSettings(FamilySettings):
    """Counts of token sequences."""

    kind: Literal["ngram"] = "ngram"
    """The family."""
    order: int = Field(default=5, ge=1, le=32)
    """Longest sequence counted, in tokens, the predicted one included; `infinite` adds the longest match to it."""
    smoothing: Literal["mle", "add-k", "stupid-backoff", "kneser-ney", "infinite", "arpa"] = "kneser-ney"
    """mle, add-k, stupid-backoff (unnormalised), kneser-ney (interpolated modified) or infinite (unbounded context);
    arpa marks a model that was read from an ARPA file."""
    k: float = Field(default=1.0, gt=0)
    """What add-k adds to every count."""
    backoff: float = Field(default=0.4, gt=0, le=1)
    """The factor of stupid backoff for each shorter context."""
    strength: float = Field(default=300.0, gt=0)
    """Weight of kneser-ney in `infinite`, against n e^2 of a match found n times and e tokens longer than it sees."""


class RecurrentSettings(FamilySettings):
    """A recurrent network: Elman (rnn), LSTM or GRU."""

    free: ClassVar[tuple[str, ...]] = ("context", "dropout")

    kind: Literal["rnn", "lstm", "gru"]
    """The family."""
    layers: int = Field(default=1, ge=1)
    """Recurrent layers."""
    width: int = Field(default=256, ge=1)
    """Hidden units a layer; also the width of the embedding."""
    context: int = CONTEXT
    """Tokens in a training window; the state starts at zero in each."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of activations dropped while training, between layers and before the head."""
    tied: bool = False
    """Use the embedding matrix as the output matrix."""
    nonlinearity: Literal["tanh", "logistic"] = "tanh"
    """Of the Elman network only; logistic is the sigma of the textbook equations."""
    forget_bias: float = 1.0
    """Initial bias b of the LSTM's forget gates: at first a cell holds what it has for about e^b tokens."""

    def matrices(self, vocabulary: int) -> list[int]:
        """As in every family."""
        return [vocabulary * self.width, self.width * self.width]


class Seq2SeqSettings(FamilySettings):
    """A recurrent encoder and a recurrent decoder, with or without attention between them."""

    kind: Literal["seq2seq"] = "seq2seq"
    """The family."""
    cell: Literal["rnn", "lstm", "gru"] = "gru"
    """What every layer is: Elman, LSTM or GRU."""
    layers: int = Field(default=1, ge=1)
    """Recurrent layers of the encoder, and of the decoder."""
    width: int = Field(default=256, ge=1)
    """Hidden units a layer, in each direction of the encoder; also of the attention's comparison."""
    embedding_width: int | None = Field(default=None, ge=1)
    """Width of the embedding, and of what the output matrix reads; unset: width."""
    bidirectional: bool = True
    """The encoder reads the source in both directions."""
    attention: Literal["none", "bahdanau"] = "bahdanau"
    """What the decoder knows of the source: one vector, or at each step a new sum over all of its positions."""
    context: int = CONTEXT
    """Longest target, in tokens."""
    source_context: int | None = Field(default=None, ge=1)
    """Longest source, in positions; unset: no limit."""
    source_features: int | None = Field(default=None, ge=1)
    """Numbers in each frame of a source that is no text; unset: the source is tokens."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of activations dropped while training: after the embedding, between layers, before the output matrix."""
    tied: bool = True
    """Use the embedding matrix, which source and target share, as the output matrix, too."""

    @property
    def d_embedding(self) -> int:
        """Width of the embedding."""
        return self.embedding_width or self.width

    @property
    def longest_source(self) -> int | None:
        """Most positions of a source; None: no limit."""
        return self.source_context

    @property
    def d_annotation(self) -> int:
        """Width of what the encoder says of each position."""
        return self.width * (2 if self.bidirectional else 1)

    def matrices(self, vocabulary: int) -> list[int]:
        """As in every family."""
        E, D = self.d_embedding, self.width
        return [vocabulary * E, D * D, D * E, (self.source_features or 0) * E]


class CbowSettings(FamilySettings):
    """Word vectors learnt from the words around them (word2vec)."""

    kind: Literal["cbow"] = "cbow"
    """The family."""
    layers: ClassVar[int] = 0  # nothing lies between input and output vectors,
    tied: ClassVar[bool] = False  # which are two sets
    width: int = Field(default=100, ge=1)
    """Width of a word's vector."""
    window: int = Field(default=5, ge=1, le=256)
    """Words taken on each side of a place; with left_only, the words before it."""
    mode: Literal["cbow", "skipgram"] = "cbow"
    """cbow predicts a word from the mean of those around it, skipgram each word around from the one in the middle."""
    loss: Literal["negative", "softmax"] = "negative"
    """negative: tell the true word from drawn ones; softmax: its probability among all words, slower by far."""
    negatives: int = Field(default=5, ge=1)
    """Words drawn against each true one by the loss `negative`."""
    subsample: float = Field(default=1e-3, ge=0)
    """Occurrences of a word whose share of the text, f, is above this are left out with probability 1 - √(this / f);
    0 leaves none out. Of no effect with left_only, which has to learn how frequent words are."""
    dynamic_window: bool = True
    """Draw the window of each place from 1 to `window`, so that near words count more. Of no effect with left_only."""
    left_only: bool = False
    """Only the words before a place: the model can then continue texts. For mode = "cbow" and loss = "softmax"."""
    context: int = CONTEXT
    """Tokens in a training row of a left_only model."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.left_only and (self.mode, self.loss) != ("cbow", "softmax"):
            raise ValueError('left_only continues texts, which takes mode = "cbow" and loss = "softmax"')
        return self

    def matrices(self, vocabulary: int) -> list[int]:
        """As in every family."""
        return [vocabulary * self.width]


class TransformerSettings(FamilySettings):
    """What transformers of every shape share: blocks of attention and an MLP on a residual stream."""

    free: ClassVar[tuple[str, ...]] = ("dropout",)

    layers: int = Field(default=4, ge=1)
    """Transformer blocks."""
    heads: int = Field(default=4, ge=1)
    """Query heads a block."""
    kv_heads: int | None = Field(default=None, ge=1)
    """Key/value heads a block (grouped-query attention); unset: as many as heads."""
    width: int = Field(default=128, ge=1)
    """Width of the residual stream (d_model)."""
    head_width: int | None = Field(default=None, ge=1)
    """Width of one head (d_head); unset: width / heads, which must divide."""
    mlp_width: int | None = Field(default=None, ge=1)
    """Hidden width of the MLP; unset: 4 x width, or where it is gated 8/3 x width rounded up to 8."""
    context: int = CONTEXT
    """Longest sequence, in tokens."""
    norm: Literal["rms", "rms-offset", "layer"] = "rms"
    """RMSNorm, RMSNorm whose weight is held as what it is above 1 (Gemma), or LayerNorm."""
    norm_place: Literal["before", "after", "both", "residual"] = "before"
    """Where a sublayer has its norm: before it, after it (OLMo 2), both (Gemma 2), or after its result was added to the
    residual stream (the 2017 transformer, BERT), which then needs no norm at its end."""
    norm_epsilon: float = Field(default=1e-5, gt=0)
    """Added to the variance in a norm."""
    position: Literal["rope", "learned", "sinusoidal", "relative", "none"] = "rope"
    """Rotary positions, a learnt embedding, sinusoids added to the embedding, biases of scores by distance, or none."""
    rope_theta: float = Field(default=10000.0, gt=0)
    """Base of the rotary frequencies."""
    mlp: Literal["swiglu", "geglu", "gelu", "gelu-exact", "relu"] = "swiglu"
    """swiglu and geglu are gated, by SiLU and by GELU; gelu and geglu take its tanh approximation, as GPT-2 and T5,
    gelu-exact the error function, as BERT."""
    tied: bool = True
    """Use the embedding matrix as the output matrix."""
    attention_bias: Literal["none", "qkv", "all"] = "none"
    """Which attention projections have a bias."""
    mlp_bias: bool = False
    """Whether the MLP's projections have a bias."""
    qk_norm: bool = False
    """RMSNorm of each query and key head (Qwen3)."""
    window: int | None = Field(default=None, ge=1)
    """Sliding window: a token attends to this many tokens, itself included; unset: to all before it."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of activations dropped while training (embedding, attention, residual branches)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = []
        if self.head_width is None and self.width % self.heads:
            problems.append(f"heads ({self.heads}) must divide width ({self.width}), or head_width must be given")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            problems.append(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads})")
        if self.position == "rope" and (self.d_rope % 2 or not self.d_rope):
            problems.append(f"rotary positions need an even head_width, not {self.d_rope}")
        problems += self.problems()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def problems(self) -> list[str]:
        """What else does not fit together in a family's own settings."""
        return []

    @property
    def d_rope(self) -> int:
        """Components of a head that rotary positions turn."""
        return self.d_head

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.head_width or self.width // self.heads

    @property
    def d_mlp(self) -> int:
        """Hidden width of the MLP."""
        if self.mlp_width is not None:
            return self.mlp_width
        return -(-self.width * 8 // 3 // 8) * 8 if self.gated else 4 * self.width

    @property
    def gated(self) -> bool:
        """Whether the MLP multiplies what it makes by a gate."""
        return self.mlp in ("swiglu", "geglu")

    @property
    def n_kv(self) -> int:
        """Key/value heads."""
        return self.kv_heads or self.heads

    def matrices(self, vocabulary: int) -> list[int]:
        """As in every family."""
        learned = self.context if self.position == "learned" else 1
        return [n * self.width for n in (vocabulary, learned, self.d_mlp, self.heads * self.d_head)]


class DecoderSettings(TransformerSettings):
    """A causal transformer: GPT-2's, Llama's and their descendants'."""

    kind: Literal["decoder"] = "decoder"
    """The family."""
    position: Literal["rope", "learned", "none"] = "rope"
    """Rotary positions, a learnt embedding, or none."""
    scaled_embedding: bool = False
    """Whether embeddings are multiplied by the square root of the width (Gemma)."""
    attention_scale: float | None = Field(default=None, gt=0)
    """What the products of queries and keys are multiplied by; unset: 1 / sqrt(head width)."""
    attention_softcap: float | None = Field(default=None, gt=0)
    """Scores s become c tanh(s / c), so that none is above c (Gemma 2); unset: they stay."""
    logit_softcap: float | None = Field(default=None, gt=0)
    """The same for the logits."""
    qk_norm_joint: bool = False
    """Whether qk_norm is taken over all heads together (OLMo 2), not of each."""
    global_layers: tuple[int, ...] = ()
    """Layers, from 0, without the window (Gemma 2: every second, Gemma 3: every sixth)."""
    unrotated_layers: tuple[int, ...] = ()
    """Layers, from 0, without rotary positions (SmolLM3: every fourth)."""
    rope_share: float = Field(default=1.0, gt=0, le=1)
    """Share of a head's components that rotary positions turn, the first ones (Phi-3)."""
    rope_local_theta: float | None = Field(default=None, gt=0)
    """Base of the rotary frequencies in layers with a window, which are not scaled then (Gemma 3); unset: rope_theta,
    scaled as elsewhere."""
    rope_scaling: RopeScaling | None = None
    """How rotary frequencies are changed for texts longer than a model was first trained on; unset: not at all."""
    experts: ExpertSettings | None = None
    """A mixture of experts in the place of the MLP; unset: none."""

    def problems(self) -> list[str]:
        """Settings that contradict others, or have no effect beside them."""
        listed = {"global_layers": self.global_layers, "unrotated_layers": self.unrotated_layers}
        if self.experts is not None:
            listed["experts.dense_layers"] = self.experts.dense_layers
        out = [
            f"{name} must be layers from 0 to {self.layers - 1} in ascending order, and not all of them"
            for name, layers in listed.items()
            if list(layers) != sorted(set(layers))
            or (layers and not 0 <= layers[0] <= layers[-1] < self.layers)
            or len(layers) == self.layers
        ]
        if self.window is None and self.global_layers:
            out.append("global_layers need a window")
        if self.rope_local_theta is not None and not self.global_layers:
            out.append("rope_local_theta needs layers without the window beside those with it (global_layers)")
        turned = {"unrotated_layers": (), "rope_share": 1.0, "rope_local_theta": None, "rope_scaling": None}
        if self.position != "rope":
            out += [f"{name} needs rotary positions" for name, unset in turned.items() if getattr(self, name) != unset]
        if self.qk_norm_joint and not self.qk_norm:
            out.append("qk_norm_joint needs qk_norm")
        if isinstance(self.rope_scaling, YarnRope) and self.rope_theta <= 1:
            out.append("yarn needs a rope_theta above 1")
        if isinstance(self.rope_scaling, LongRope):
            sizes = [len(self.rope_scaling.short), len(self.rope_scaling.long)]
            if sizes != [self.d_rope // 2] * 2:
                out.append(f"longrope needs {self.d_rope // 2} short and long factors, not {sizes[0]} and {sizes[1]}")
        e = self.experts
        if e is not None and e.width is not None and self.mlp_width is not None and not e.dense_layers:
            out.append("mlp_width has no effect where every layer has experts of another width (experts.width)")
        return out

    @property
    def d_rope(self) -> int:
        """As in every transformer."""
        return int(self.d_head * self.rope_share)

    def window_of(self, layer: int) -> int | None:
        """The sliding window of a layer."""
        return None if layer in self.global_layers else self.window

    def sparse(self, layer: int) -> bool:
        """Whether a layer has experts."""
        return self.experts is not None and layer not in self.experts.dense_layers

    def matrices(self, vocabulary: int) -> list[int]:
        """As in every family."""
        if self.experts is None:
            return super().matrices(vocabulary)
        e, mlp = self.experts, [self.d_mlp] if self.experts.dense_layers else []
        learned = self.context if self.position == "learned" else 1
        widths = (vocabulary, learned, self.heads * self.d_head, e.count, e.width or self.d_mlp, *mlp)
        return [n * self.width for n in widths]

    def tensors(self) -> int:
        """As in every family."""
        e = self.experts
        return self.layers if e is None else self.layers + e.count * (self.layers - len(e.dense_layers))


class EncoderSettings(TransformerSettings):
    """A transformer that reads a whole text at once; its settings cover BERT, RoBERTa and DistilBERT."""

    kind: Literal["encoder"] = "encoder"
    """The family."""
    position: Literal["rope", "learned", "none"] = "rope"
    """Rotary positions, a learnt embedding, or none."""
    position_offset: int = Field(default=0, ge=0)
    """Rows of the learnt positions before the first one's (RoBERTa: its padding id + 1)."""
    token_types: int = Field(default=0, ge=0)
    """Kinds of token that an embedding tells apart, the first unless said otherwise (BERT: first and second text)."""
    embedding_norm: bool = False
    """A norm of the embedding, before the first block."""
    head: Literal["plain", "transform", "none"] = "plain"
    """What makes logits of the last block's output: a matrix; a dense layer, an activation, a norm, then a matrix with
    a bias (BERT); or nothing, in folders that hold only the body."""
    pooler: bool = False
    """A dense layer for the first position, kept for folders that have it; nothing here reads it."""

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        problems = []
        if self.window is not None:
            problems.append("an encoder has no window: it reads all of a text")
        if self.position_offset and self.position != "learned":
            problems.append("position_offset needs position = learned")
        if self.head == "none" and not self.tied:
            problems.append("head = none has no matrix of its own: tied must be true")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class SideSettings(TransformerSettings):
    """What the encoder and the decoder of one transformer have in common, whichever reads what."""

    position: Literal["rope", "learned", "sinusoidal", "relative", "none"] = "relative"
    """As in every transformer; none of them reaches from target to source."""
    source_context: int | None = Field(default=None, ge=1)
    """Longest source, in tokens; unset: no limit, but `context` where positions are learned."""
    source_features: int | None = Field(default=None, ge=1)
    """Numbers in a frame, of a source that is frames (sound, a picture's rows); unset: it is tokens."""
    scaled_embedding: bool = False
    """Multiply what is embedded by √width, as the 2017 transformer."""
    scaled_scores: bool = False
    """Divide the scores of attention by √head_width; T5 does not, and makes its first queries smaller instead."""
    relative_buckets: int = Field(default=32, ge=4)
    """Buckets of distances, with position = "relative"."""
    relative_distance: int = Field(default=128, ge=2)
    """Distance from which all are in one bucket."""

    @model_validator(mode="after")
    def _check_side(self) -> Self:
        problems = []
        if self.window is not None:
            problems.append("an encoder-decoder has no window")
        if self.relative_buckets % 2 or self.relative_distance <= self.relative_buckets // 2:
            problems.append("relative_buckets must be even, and relative_distance above half of them")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def longest_source(self) -> int | None:
        """Positions that a source can have; None: no limit."""
        return self.source_context or (self.context if self.position == "learned" else None)


class EncoderSideSettings(SideSettings):
    """The encoder of an encoder-decoder, under another decoder."""

    kind: Literal["encoder-side"] = "encoder-side"
    """What it is."""


class EncoderDecoderSettings(SideSettings):
    """A transformer that reads a source and writes a target, in the T5 and the 2017 styles; the default is T5's."""

    free: ClassVar[tuple[str, ...]] = ("dropout", "freeze_encoder")

    kind: Literal["encoder-decoder"] = "encoder-decoder"
    """The family."""
    encoder_layers: int | None = Field(default=None, ge=1)
    """Blocks of the encoder; unset: as many as the decoder has (layers)."""
    encoder: Annotated[EncoderSettings | EncoderSideSettings, Field(discriminator="kind")] | None = None
    """An encoder of settings of its own, as one that was trained before; unset: one like the decoder."""
    freeze_encoder: bool = Field(default=False, exclude=True)
    """Leave the encoder's weights as they are while training, but for an embedding that the decoder shares."""
    shared_embedding: bool = True
    """Use one embedding for source and target, where the source is tokens and the encoder has none of its own."""
    scaled_head: bool = True
    """Divide by √width before the head, as T5."""
    start_id: int | None = Field(default=None, ge=0)
    """The id that a target is written after; unset: the one that begins a text (T5: the padding id)."""

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        problems = []
        if self.encoder is not None and self.encoder.width != self.width:
            problems.append(f"the encoder's width ({self.encoder.width}) must be the decoder's ({self.width})")
        if self.encoder is not None and (self.encoder_layers, self.source_features) != (None, None):
            problems.append("an encoder of its own settings takes no encoder_layers or source_features from here")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def n_encoder(self) -> int:
        """Blocks of the encoder."""
        return self.encoder_layers or self.layers

    def tensors(self) -> int:
        """As in every family."""
        return self.layers + (self.n_encoder if self.encoder is None else self.encoder.tensors())

    @property
    def longest_source(self) -> int | None:
        """Positions that a source can have; None: no limit."""
        if self.encoder is None:
            return super().longest_source
        own = self.encoder.context if isinstance(self.encoder, EncoderSettings) else self.encoder.longest_source
        limits = [limit for limit in (own, self.source_context) if limit is not None]
        return min(limits, default=None)


FAMILIES: dict[str, type[FamilySettings]] = {
    "ngram": NGramSettings,
    "rnn": RecurrentSettings,
    "lstm": RecurrentSettings,
    "gru": RecurrentSettings,
    "seq2seq": Seq2SeqSettings,
    "decoder": DecoderSettings,
    "encoder": EncoderSettings,
    "encoder-decoder": EncoderDecoderSettings,
    "cbow": CbowSettings,
}
"""The settings of each model.kind."""

_Transformers = DecoderSettings | EncoderSettings | EncoderDecoderSettings
NetworkSettings = RecurrentSettings | Seq2SeqSettings | _Transformers | CbowSettings
"""Of the families that have weights and are trained in steps."""
ModelSettings = Annotated[NGramSettings | NetworkSettings, Field(discriminator="kind")]
