"""Rotary positions: the frequencies that components turn with, and how they are changed for longer texts.

Shapes: B rows, T positions, d components of a head that turn.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from idiolect.models.decoder_settings import LinearRope, Llama3Rope, LongRope, RopeScaling, YarnRope


def frequencies(
    d: int,
    theta: float,
    scaling: RopeScaling | None = None,
    *,
    long: bool = False,
    device: torch.device | None = None,
) -> Tensor:
    """theta^(-2i/d) for i in 0 … d/2 - 1 (Su et al. 2021, arXiv 2104.09864, eq. 15), as a scaling changes it: [d/2].

    `long` is whether the text has outgrown longrope's first context. In float32, and bit for bit those of transformers'
    modeling_rope_utils: at position 100,000 a last digit is an angle.
    """
    periods = theta ** (torch.arange(0, d, 2, device=device, dtype=torch.float32) / d)
    if isinstance(scaling, LongRope):
        return 1.0 / (torch.tensor(scaling.long if long else scaling.short, device=device) * periods)
    if isinstance(scaling, YarnRope):
        return _yarn(periods, theta, scaling)
    plain = 1.0 / periods
    if isinstance(scaling, Llama3Rope):
        return _llama3(plain, scaling)
    return plain / scaling.factor if isinstance(scaling, LinearRope) else plain


def turns(positions: Tensor, frequencies: Tensor, magnitude: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines [..., T, d], times `magnitude`: positions [..., T], frequencies [d/2] or [..., T or 1, d/2].

    Components i and i + d/2 form a pair (the order of Hugging Face's Llama; the paper pairs neighbours). In float32
    whatever the model's type.
    """
    angles = positions[..., None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * magnitude, angles.sin() * magnitude


def magnitude(scaling: RopeScaling | None, context: int) -> float:
    """What a scaling multiplies queries and keys by, so that scores do not flatten in long texts."""
    if isinstance(scaling, YarnRope):
        derived = 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
        return scaling.attention_factor or derived
    if isinstance(scaling, LongRope):
        longer = math.log(max(1.0, context / scaling.original_context))
        return scaling.attention_factor or math.sqrt(1 + longer / math.log(scaling.original_context))
    return 1.0


def _llama3(plain: Tensor, s: Llama3Rope) -> Tensor:
    """A component that turns n times within the original context: n < low: divided; n > high: kept; else blended."""
    wavelength = 2 * math.pi / plain
    low, high = s.low_frequency_factor, s.high_frequency_factor
    share = (s.original_context / wavelength - low) / (high - low)
    blended = (1 - share) * plain / s.factor + share * plain
    out = torch.where(wavelength > s.original_context / low, plain / s.factor, blended)
    return torch.where(wavelength < s.original_context / high, plain, out)


def _yarn(periods: Tensor, theta: float, s: YarnRope) -> Tensor:
    """A ramp over the components, from kept (1) to divided (0): Peng et al. 2023, eq. 17 to 23."""
    pairs = len(periods)

    def component(turns: float) -> float:
        """Which component turns that often within the original context."""
        return 2 * pairs * math.log(s.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = component(s.fast), component(s.slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    if low == high:
        high += 0.001  # a step in place of a ramp
    kept = 1 - ((torch.arange(pairs, dtype=torch.float32, device=periods.device) - low) / (high - low)).clamp(0, 1)
    return 1.0 / (s.factor * periods) * (1 - kept) + 1.0 / periods * kept
