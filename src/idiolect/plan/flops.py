"""Floating-point operations of training, and the share of a machine's rate that a run reaches (MFU).

Symbols: N_m parameters that multiply every token, D_t tokens, L layers, H heads, d head width, T positions.
"""

from __future__ import annotations

from dataclasses import dataclass

from idiolect.adapt.settings import LabelledSettings
from idiolect.models.settings import (
    CbowSettings,
    DecoderSettings,
    EncoderDecoderSettings,
    EncoderSettings,
    RecurrentSettings,
    Seq2SeqSettings,
    TransformerSettings,
)
from idiolect.plan.parameters import GATES, Settings, matrices, recurrent_matrices


@dataclass(frozen=True)
class Flops:
    """Operations to train on one token; a multiplication and an addition are two."""

    matrices: int
    """6 N_m: each weight multiplies once forward and twice backward. The head counts, the embedding only looks up."""
    attention: int
    """12 L H d T: queries times keys and weights times values, counted whole, not the causal half."""

    @property
    def total(self) -> int:
        """Both."""
        return self.matrices + self.attention


def flops_per_token(settings: Settings, vocabulary: int, length: int | None = None, predicted: float = 1.0) -> Flops:
    """Operations of forward and backward for each token of a sequence of `length` (default: the context).

    `predicted`: the share of the tokens that an encoder's head reads, those that are to be filled in.

    Kaplan et al. 2020, section 2.1 (C ≈ 6 N D), with the head and attention added as in Chowdhery et al. 2022
    (PaLM), appendix B. Norms, activations and the optimiser are left out (together about a hundredth). A sliding
    window shortens attention to the window; of experts those count that a token goes through. N-grams are counted, not
    trained: none. Of a sequence-to-sequence model half of the tokens are read and half are written, in sequences of
    `length` each. Of word vectors a token is a place, whose words are multiplied with the output vectors of the
    vocabulary or of the drawn words.
    """
    if isinstance(settings, LabelledSettings):  # the head's are too few to count
        return flops_per_token(settings.reads, 0, length, 0.0)
    if isinstance(settings, RecurrentSettings):
        D = settings.width
        return Flops(6 * (settings.layers * GATES[settings.kind] * 2 * D * D + vocabulary * D), 0)
    if isinstance(settings, Seq2SeqSettings):
        return _seq2seq(settings, vocabulary, length or settings.context)
    if isinstance(settings, EncoderDecoderSettings):
        return _encoder_decoder(settings, vocabulary, length or settings.context)
    if isinstance(settings, TransformerSettings):
        head = vocabulary * settings.width
        if isinstance(settings, EncoderSettings) and settings.head == "transform":
            head += settings.width**2
        inner = matrices(settings, active=True) + round(predicted * head)
        return Flops(6 * inner, 12 * settings.heads * settings.d_head * _spans(settings, length))
    if isinstance(settings, CbowSettings):
        labels = 1.0  # of a place
        if settings.mode == "skipgram":
            labels = settings.window + 1 if settings.dynamic_window else 2 * settings.window
        against = vocabulary if settings.loss == "softmax" else 1 + settings.negatives
        return Flops(int(6 * labels * against * settings.width), 0)
    return Flops(0, 0)


def _spans(s: TransformerSettings, length: int | None) -> int:
    """Positions that each token reads, of all layers together."""
    whole = length or s.context
    windows = [s.window_of(layer) if isinstance(s, DecoderSettings) else s.window for layer in range(s.layers)]
    return sum(min(whole, window or s.context) for window in windows)


def _seq2seq(s: Seq2SeqSettings, V: int, S: int) -> Flops:
    """Of a pair of one position of the source and one of the target, half. Attention reads S annotations three times:
    for their energies, for what they add to the gates, for their sum.
    """
    D, E, C = s.width, s.d_embedding, s.d_annotation
    inner = sum(recurrent_matrices(s)) + E * (E + D + C) + V * E
    if s.attention == "none":
        return Flops(3 * inner, 0)
    return Flops(3 * (inner + D * (D + C)), 3 * S * (D + GATES[s.cell] * D + C))


def _encoder_decoder(s: EncoderDecoderSettings, V: int, S: int) -> Flops:
    """Of a pair of one position of the source and one of the target, half; the target's read both sequences."""
    encoder = s.encoder or s.model_copy(update={"layers": s.n_encoder})
    reads = encoder.layers * encoder.heads * encoder.d_head + 2 * s.layers * s.heads * s.d_head
    return Flops(3 * (matrices(s) + (s.source_features or 0) * s.width + V * s.width), 6 * reads * S)


def mfu(flops_per_token: float, tokens_per_second: float, peak: float) -> float:
    """Model FLOPs utilisation: flops_per_token · tokens_per_second / peak, the peak in operations a second.

    Chowdhery et al. 2022, appendix B; the peak here is the best matrix product measured on the same machine.
    """
    if peak <= 0:
        raise ValueError(f"the machine's rate must be above 0, not {peak}")
    return flops_per_token * tokens_per_second / peak
