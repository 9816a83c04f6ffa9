"""Peak memory of training, itemised, before anything is allocated; and what would fit when it does not.

The formula of activations is that of what autograd keeps for the backward pass; tests compare it with what autograd
really keeps, and the whole estimate with what processes really take.

Symbols: n positions of a micro-batch (B rows of T), L layers, D width, H query heads, K key/value heads, d head width,
W hidden width of the MLP, V vocabulary, e bytes of a product's result (fp32 4, bf16 and fp16 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idiolect.adapt.settings import LabelledSettings
from idiolect.errors import Exit, UserError
from idiolect.models.settings import (
    CbowSettings,
    DecoderSettings,
    EncoderDecoderSettings,
    EncoderSideSettings,
    NGramSettings,
    RecurrentSettings,
    Seq2SeqSettings,
    TransformerSettings,
)
from idiolect.plan.parameters import Settings, count, matrices, mlps
from idiolect.train.settings import TrainSettings

if TYPE_CHECKING:
    from idiolect.adapt.report import Report

Network = RecurrentSettings | Seq2SeqSettings | TransformerSettings
FRAMEWORK = {"cpu": 250 << 20, "cuda": 700 << 20, "mps": 200 << 20}
"""What comes besides tensors until a step has run: torch's later imports (its compiler's alone are 80 MB), threads,
kernels' scratch, the accelerator's context, and what encoding the text leaves behind."""
CHUNK = {"cpu": 1 << 22, "cuda": 1 << 27, "mps": 1 << 27}
"""Most logits held at once; `train.crossentropy` owns the numbers, a test holds them equal."""
FEWEST_ROWS = 2048
"""Rows of logits that a chunk has at least; likewise."""
TOGETHER = 1 << 24
"""Most numbers that Muon iterates at once; `train.optimisers` owns it, a test holds them equal."""
FRAGMENTS = {
    **dict.fromkeys(("decoder", "encoder", "encoder-decoder", "encoder-side"), 0.75),
    "rnn": 0.4,
    "gru": 0.2,
    "lstm": 0.2,
    "seq2seq": 0.2,
    "cbow": 0.4,
}
"""Lost between the allocations that come and go in a step, as a share of them, as measured with glibc's malloc …"""
FUSED = ("decoder", "encoder", "encoder-decoder", "encoder-side", "lstm", "seq2seq")
"""The families whose products may be our own."""
MIXED = 1.5
"""… and this much more where they come and go between others that stay: micro-batches, recomputed layers."""
FRAGMENTS_ELSEWHERE = 0.1
"""The same on an accelerator, whose allocator is torch's own."""
SHORTEST = 32
"""The shortest context that is offered in place of one that does not fit."""
COUNTING, COUNTING_ROOM = 50, 32 << 20
"""Bytes a token of text while n-grams are counted, and besides."""
STORED = 24
"""Bytes of a distinct sequence kept, with its probability and its backoff weight."""
RECURRENT = {"rnn": 2, "gru": 8, "lstm": 18}
"""Vectors of D that a layer keeps a position: for the LSTM mostly the workspace of its fused kernel."""
SEQ2SEQ = {"rnn": 11, "gru": 29, "lstm": 69}
"""The same of a layer of the encoder, in both directions, and one of the decoder, a position of each."""
LOOP = {"rnn": 4, "gru": 9, "lstm": 12}
"""Vectors that the decoder keeps besides to read the source, without the energies."""


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of training, by what takes them."""

    items: dict[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.items.values())

    def as_dict(self) -> dict[str, int]:
        """Item → bytes, with "total" last."""
        return {**self.items, "total": self.total}


def training_memory(
    model: Settings,
    train: TrainSettings,
    vocabulary: int,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    packed: bool = True,
    tokens: int = 0,
    process: int = 0,
    edit: Report | None = None,
) -> Memory:
    """Peak bytes of a training run: on a CPU all that the process holds, on an accelerator what it holds there.

    `packed`: rows may hold several documents, so attention has a mask. `tokens` of text are what an n-gram counts.
    `process` is what this process holds before: Python, torch, their libraries (`devices.resident_memory`). `edit` says
    what of the model trains, and what it has besides; unset: all of it does.
    """
    if device != "cpu":
        process = 0
    if isinstance(model, NGramSettings):
        kept = count(model, vocabulary, tokens).total * STORED
        items = {"weights": kept, "counting": COUNTING_ROOM + tokens * COUNTING, "process": process}
        return Memory(_without_zeros(**items))
    if isinstance(model, CbowSettings):
        return _word_vectors(model, train, vocabulary, device, process)
    N = count(model, vocabulary).total
    if isinstance(model, LabelledSettings):  # the body's, and logits that are few
        vocabulary, model = len(model.labels), model.reads
    e = 4 if precision == "fp32" else 2
    rows = max(1, train.batch_tokens // model.context)
    B, T = -(-rows // train.micro_batches), model.context
    fused = device == "cpu" and precision == "bf16"  # `models.fused`, where there is a compiler for it
    products = fused and model.kind in FUSED and _products()
    if isinstance(model, Seq2SeqSettings):
        layer, ends = _seq2seq(model, B, T, e, products)
    elif isinstance(model, EncoderDecoderSettings):
        layer, ends = _encoder_decoder(model, B, T, e, fused, products)
    else:
        layer, ends = _layer(model, B, T, e, packed, fused, products), _ends(model, B, T, packed, products)
    activations = ends + model.layers * layer.kept
    if train.activation_checkpointing:  # the inputs of all layers, and one layer in full while it is recomputed
        activations = ends + model.layers * B * T * model.width * 4 + layer.kept
    trained, weights = N, 4 * N
    if edit is not None:
        trained, weights = edit.trainable, 4 * edit.total - edit.saved
    items = _without_zeros(
        weights=weights,
        gradients=4 * trained,
        optimizer=_optimizer(model, train, trained),
        casts=0 if e == 4 else e * (_cast_still(model) if products else _matrices(model)),
        activations=activations,
        backward=layer.passing,
        logits=_logits(model, vocabulary, B * T, e, device, fused, products),
        batch=3 * 8 * train.micro_batches * B * T,
    )
    share = FRAGMENTS[model.kind] if device == "cpu" else FRAGMENTS_ELSEWHERE
    if train.micro_batches > 1 or train.activation_checkpointing:
        share *= MIXED
    passing = items["activations"] + items["backward"] + items["logits"]
    items |= {"fragments": int(share * passing), "framework": FRAMEWORK[device], "process": process}
    return Memory(_without_zeros(**items))


def _word_vectors(s: CbowSettings, train: TrainSettings, V: int, device: str, process: int) -> Memory:
    """A matrix of input and one of output vectors, and for each label the vectors that it is told from."""
    places, D, N = -(-train.batch_tokens // train.micro_batches), s.width, 2 * V * s.width
    labels = places if s.mode == "cbow" else places * 2 * s.window
    drawn = 0 if s.loss == "softmax" else labels * (1 + s.negatives)
    around = labels if s.mode == "skipgram" else places * (s.context if s.left_only else 2 * s.window)
    summed = 4 * places * D * (2 + s.window) if s.left_only else 0  # the mean, a word at a time
    items = _without_zeros(
        weights=4 * N,
        gradients=4 * N,
        optimizer=_optimizer(s, train, N),
        activations=4 * D * (drawn + 2 * labels) + summed,
        backward=4 * D * (drawn + labels),
        logits=0 if drawn else _logits(s, V, labels, 4, device, False, False),
        batch=2 * 8 * train.micro_batches * (around + drawn),
    )
    passing = items["activations"] + items["backward"] + items.get("logits", 0)
    share = FRAGMENTS["cbow"] if device == "cpu" else FRAGMENTS_ELSEWHERE
    return Memory(items | {"fragments": int(share * passing), "framework": FRAMEWORK[device], "process": process})


def _cast_still(s: Network) -> int:
    """Numbers of the matrices that autocast casts where `_products`: those with odd rows, which ours do not take."""
    if not isinstance(s, TransformerSettings):  # an LSTM's rows are as long as its head's
        return _matrices(s) if s.width % 2 else 0
    D, L, heads, inner = s.width, s.layers, s.heads * s.d_head, mlps(s)
    into = D * (L * (heads + 2 * s.n_kv * s.d_head) + sum(n * W for n, W in inner) * (2 if s.gated else 1))
    out = L * D * heads if heads % 2 else 0
    own = s.mlp in ("swiglu", "gelu")  # whose second matrix is cast anew each time
    return (into if D % 2 else 0) + out + (0 if own else D * sum(n * W for n, W in inner if W % 2))


def _products() -> bool:
    """Whether products read the fp32 weights as they lie on this CPU, so that no casts of them are kept."""
    from idiolect.models import fused  # torch with it, and perhaps a compiler

    return fused.products()


@dataclass(frozen=True)
class _Layer:
    """Bytes of one layer for a micro-batch."""

    kept: int
    """From the forward pass until the layer's backward."""
    passing: int
    """Gradients of activations alive at once in the layer's backward."""


def _layer(
    s: RecurrentSettings | TransformerSettings, B: int, T: int, e: int, packed: bool, fused: bool, products: bool
) -> _Layer:
    n, D = B * T, s.width
    dropped = 4 if s.dropout else 0
    if isinstance(s, RecurrentSettings):
        if (
            s.kind == "lstm" and products and D % 2 == 0
        ):  # rounded inputs, gates and outputs, cells in fp32; all but cells in backward
            return _Layer(n * D * (e * 6 + 4 + dropped), n * D * e * 7)
        vectors = RECURRENT[s.kind]
        return _Layer(n * D * (4 * vectors + dropped), n * D * 4 * (vectors // 2 + 2))
    return _block(s, B, T, e, packed, fused)


def _block(s: TransformerSettings, B: int, T: int, e: int, packed: bool, fused: bool) -> _Layer:
    """A layer of a transformer; where only some have experts, what one of them takes on average."""
    n, D, q, kv = B * T, s.width, s.heads * s.d_head, s.n_kv * s.d_head
    d = s if isinstance(s, DecoderSettings) else None
    norm = 4 * D * (1 if s.norm == "layer" else 2)  # its input; RMSNorm its normalised form besides
    norms = 2 * norm
    inputs = e * D * (2 if e == 4 else 3 + (2 if s.gated else 1))  # of the projections; autocast casts for each anew
    apart = s.norm_place in ("after", "residual")  # projections read the residual stream, and norms are torch's own
    if fused and not apart:  # norms keep their input and two numbers a position, and write what the products read
        norms, inputs = 2 * (4 * D + 8), 2 * e * D
    if s.norm_place == "both":
        norms += 2 * norm
    heads = e * (2 * q + 2 * kv) + 4 * s.heads  # queries, keys, values, result; the log of each head's sum
    if s.qk_norm:
        heads += 2 * 4 * (q + kv)
    if d is not None and d.rope_share < 1 and e == 4:
        heads += e * int((q + kv) * d.rope_share)  # what turns, apart from what does not
    hidden, width = _hidden(s, e, fused)
    passing = 4 * (4 * width + 2 * D)
    capped, whole = d is not None and d.attention_softcap is not None, 4 * s.heads * T
    masked = packed and not capped and (s.dropout or not fused or s.kind == "encoder")
    scores = e * T if masked else 0  # the mask, as numbers
    if capped:  # tanh and softmax in fp32, and what the values are weighed with; each head has its keys and values
        scores = 2 * whole + (0 if e == 4 else e * s.heads * T)
        heads += 2 * e * (q - kv)
    if s.dropout:  # dropout within attention needs the scores whole, in fp32: softmax, mask and their product
        scores = (4 if capped else 3) * whole
        heads += 0 if capped else (3 * 4 - 3 * e) * q + 2 * e * (q - kv)  # queries, keys and values in fp32, one a head
        hidden += 2 * e * D  # the masks of the residual branches
    if isinstance(s, EncoderSideSettings) and s.position == "relative" and not fused:
        scores += 2 * whole  # with the biases of distances
    if s.dropout or capped:
        passing = max(passing, 3 * whole)
    return _Layer(n * (norms + inputs + heads + hidden + scores), n * passing)


def _hidden(s: TransformerSettings, e: int, fused: bool) -> tuple[int, int]:
    """(bytes that the MLPs of a layer keep for a position, the numbers in their hidden layers)."""
    own = fused and s.mlp in ("swiglu", "gelu")  # keeps its inputs, and makes the activation again
    vectors = {"relu": 1, "swiglu": 2 if own else 4, "geglu": 4}.get(s.mlp, 1 if own else 2)
    width = sum(n * W for n, W in mlps(s, active=True)) // s.layers
    x = s.experts if isinstance(s, DecoderSettings) else None
    if x is None:
        return e * vectors * width, width
    # a position's copies for its experts, and what they make of it in two orders; their probabilities, and the choice
    routed = (3 * e * x.per_token + (0 if e == 4 else 4)) * s.width + 4 * x.count + 8 * 4 * x.per_token
    shared = 0 if x.shared_width is None else e * s.width
    return e * vectors * width + (routed + shared) * (s.layers - len(x.dense_layers)) // s.layers, width


def _seq2seq(s: Seq2SeqSettings, B: int, T: int, e: int, products: bool) -> tuple[_Layer, int]:
    """A layer of each side, and what lies around the layers, where half of B T positions are the target's.

    Attention keeps the energies before their sum, D for each position of the source at each of the target.
    """
    n, D = B * T // 2, s.width
    vectors = 13 if s.cell == "lstm" and products else SEQ2SEQ[s.cell]
    reading = T + LOOP[s.cell] if s.attention == "bahdanau" else 0
    kept = 4 * n * D * (vectors * (3 if s.bidirectional else 2) // 3 + (3 if s.dropout else 0))
    return _Layer(kept, n * D * 4 * (vectors // 2 + 2)), n * (8 + 4 * D * reading + 4 * 5 * s.d_embedding)


def _encoder_decoder(
    s: EncoderDecoderSettings, B: int, T: int, e: int, fused: bool, products: bool
) -> tuple[_Layer, int]:
    """A layer of each side, and what lies around the layers, where half of B T positions are the target's.

    Attention itself drops nothing. Without the fused kernel biases of distances are added to scores, which torch then
    keeps whole.
    """
    n, plain = B * T // 2, s.model_copy(update={"dropout": 0.0})
    block = _layer(plain, B, T // 2, e, False, fused, products)
    q, kv = s.heads * s.d_head, s.n_kv * s.d_head
    norm = 4 * s.width * (2 if s.norm != "layer" and not fused else 1)
    cross = norm + e * s.width + e * (2 * q + 2 * kv) + 4 * s.heads
    dropped = e * s.width if s.dropout else 0  # the mask of what a sublayer adds, as numbers
    scores = 2 * 4 * s.heads * T if s.position == "relative" and not fused else 0
    encoder = s.encoder.layers if s.encoder else s.n_encoder
    kept = (s.layers + encoder) * block.kept + n * s.layers * cross
    kept += n * (2 * encoder + 3 * s.layers) * dropped + n * (encoder + s.layers) * scores
    return _Layer(kept // s.layers, block.passing), 2 * _ends(plain, B, T // 2, False, products)


def _ends(s: RecurrentSettings | TransformerSettings, B: int, T: int, packed: bool, products: bool) -> int:
    """What is kept before the first layer and after the last: ids, final norm, hidden vectors, their gradient."""
    n, D = B * T, s.width
    vectors = 2 if isinstance(s, RecurrentSettings) else 3 if s.norm == "layer" else 4
    rotations = 0
    if isinstance(s, TransformerSettings) and packed and s.position == "rope":
        plain = s.mlp in ("swiglu", "gelu") and s.norm_place == "before" and s.kind == "decoder"
        whole = products and plain and not s.qk_norm and not s.dropout  # `models.fused_block` casts no tables
        rotations = (2 if whole else 4) * 4 * s.d_head
    return n * (8 + 4 * D * (vectors + (1 if s.dropout else 0)) + rotations)


def _logits(s: Network | CbowSettings, V: int, n: int, e: int, device: str, fused: bool, products: bool) -> int:
    """A chunk of logits with its probabilities, and the head's gradient, which the chunked path makes at once."""
    rows, width = max(FEWEST_ROWS, CHUNK[device] // V), s.width
    if isinstance(s, Seq2SeqSettings):
        n, width = n // 2, s.d_embedding
    if isinstance(s, DecoderSettings) and s.logit_softcap is not None:  # what the cap's slope multiplies, besides
        uncapped = s.model_copy(update={"logit_softcap": None})
        return min(n, rows) * V * e + _logits(uncapped, V, n, e, device, fused, False)
    if products:  # in place, in bf16; the weight's gradient in fp32
        return min(n, rows) * (V + 4) * e + 4 * V * width
    if fused:  # in place, in bf16; the weight cast, its gradient, and the sum of several chunks' gradients in fp32
        return min(n, rows) * V * e + (2 * e + (4 + e if n > rows else 0)) * V * width
    if n <= rows:  # the plain path: logits, their logarithms, their gradient
        return n * V * (e + 3 * 4)
    return rows * V * (e + 4 + (0 if e == 4 else e)) + (2 if s.tied else 1) * 4 * V * width


def _optimizer(s: Network | CbowSettings, train: TrainSettings, N: int) -> int:
    """The optimiser's state, and what its step works with."""
    if train.optimizer == "sgd":
        return 4 * N if train.momentum else 0
    if train.optimizer == "adamw" or isinstance(s, CbowSettings):  # which has nothing for Muon, as its build will say
        return 8 * N
    inner = min(_matrices(s), N)
    largest = s.width * (s.d_mlp if isinstance(s, TransformerSettings) else s.width * 4)
    together = max(largest, min(inner, TOGETHER))  # gradients scaled, moved on, stacked and rounded, all at once
    return 4 * inner + 8 * (N - inner) + (3 * 4 + 2) * together


def _matrices(s: Network) -> int:
    """Weights of the hidden matrices."""
    return matrices(s) if isinstance(s, TransformerSettings) else count(s, 0).inner


def _without_zeros(**items: int) -> dict[str, int]:
    return {name: size for name, size in items.items() if size}


def check_fits(
    model: Settings,
    train: TrainSettings,
    vocabulary: int,
    available: int,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    packed: bool = True,
    tokens: int = 0,
    process: int = 0,
    edit: Report | None = None,
) -> Memory:
    """The memory of the run, if it fits into `available` bytes, what the process holds already counted in both.

    Raises UserError (exit 7) otherwise, naming the smallest change of the recipe that does fit by this same estimate:
    more micro-batches (the same result), else activation checkpointing besides (the same result), else a shorter
    context, else a narrower model.
    """

    def needed(m: Settings, t: TrainSettings) -> Memory:
        here: dict[str, Any] = {
            "device": device,
            "precision": precision,
            "packed": packed,
            "tokens": tokens,
            "process": process,
        }
        return training_memory(m, t, vocabulary, edit=edit, **here)

    memory = needed(model, train)
    if memory.total <= available:
        return memory
    largest = max(memory.items, key=lambda name: memory.items[name])
    what = (
        f"training needs about {size(memory.total)} and {size(available)} are available "
        f"(most of it {largest}: {size(memory.items[largest])})"
    )
    for words, m, t in _smaller(model, train):
        other = needed(m, t)
        if other.total <= available:
            raise UserError(what, f"this would fit, in {size(other.total)}: {words}", Exit.OUT_OF_MEMORY)
    raise UserError(what, "nothing like it fits: take another model, or a machine with more", Exit.OUT_OF_MEMORY)


def _smaller(model: Settings, train: TrainSettings) -> Iterator[tuple[str, Settings, TrainSettings]]:
    """Recipes that need less, the least change first, with the overrides that make them."""
    if isinstance(model, LabelledSettings):
        for words, base, smaller in _smaller(model.base, train):
            yield words, model.model_copy(update={"base": base}), smaller
        return
    if isinstance(model, NGramSettings):
        for order in range(model.order - 1, 0, -1):
            yield f"model.order={order}", model.model_copy(update={"order": order}), train
        return
    if isinstance(model, CbowSettings):
        for m in (2**power for power in range(1, train.batch_tokens.bit_length())):
            yield f"train.micro_batches={m}", model, train.model_copy(update={"micro_batches": m})
        return
    rows = max(1, train.batch_tokens // model.context)
    splits = [m for m in range(train.micro_batches + 1, rows + 1) if rows % m == 0]
    for m in splits:
        yield f"train.micro_batches={m}", model, train.model_copy(update={"micro_batches": m})
    again = train.model_copy(update={"activation_checkpointing": True})
    words = "train.activation_checkpointing=true"
    yield words, model, again
    for m in splits:
        yield f"train.micro_batches={m} {words}", model, again.model_copy(update={"micro_batches": m})
    # from here on the result is another one: shorter rows, each a micro-batch of its own, then a narrower model
    for context in (model.context // 2, model.context // 4):
        if context >= SHORTEST:
            m = max(1, train.batch_tokens // context)
            shorter = model.model_copy(update={"context": context})
            least = again.model_copy(update={"micro_batches": m})
            yield f"model.context={context} train.micro_batches={m} {words}", shorter, least
    least = again.model_copy(update={"micro_batches": rows})
    for narrower in _narrower(model):
        yield f"model.width={narrower.width} train.micro_batches={rows} {words}", narrower, least


def _narrower(model: Network) -> Iterator[Network]:
    """The same model in ever smaller widths that its heads still divide."""
    part = math.lcm(2 * model.heads, 8) if isinstance(model, TransformerSettings) else 8
    width = model.width
    while width > part:
        width = max(part, int(width * 0.9) // part * part)
        yield model.model_copy(update={"width": width})


def size(bytes_: int) -> str:
    """Bytes as people read them: 1.5 GB."""
    value, unit = float(bytes_), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):  # noqa: B007
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"
