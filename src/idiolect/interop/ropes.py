"""Rotary positions in Hugging Face's words: rope_theta, rope_scaling and rope_parameters of a config.json."""

from __future__ import annotations

import math
from typing import Any

from idiolect.errors import UserError
from idiolect.interop.rows import Config
from idiolect.models.decoder_settings import LinearRope, Llama3Rope, LongRope, YarnRope
from idiolect.models.settings import DecoderSettings

ORIGINAL = "original_max_position_embeddings"
KNOWN = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL),
    "yarn": (
        *("factor", "beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim"),
        ORIGINAL,
    ),
    "longrope": ("factor", "short_factor", "long_factor", "attention_factor", ORIGINAL),
}
"""The kinds that are read, and the keys that each may have."""


def table(c: Config) -> Config:
    """The rotary table of a config.json: where it has both, the older name is the one that counts."""
    return dict(c.get("rope_scaling") or c.get("rope_parameters") or {})


def read(c: Config, rope: Config) -> Config:
    """Our settings of a rotary table. Raises UserError for kinds that we do not do, KeyError for what is missing."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in KNOWN:
        known = ", ".join(KNOWN)
        why = " (its rotations depend on how a text was fed to the model)" if kind == "dynamic" else ""
        raise UserError(f"rotary positions of the kind {kind!r} are not supported{why}", f"those that are: {known}")
    strange = rope.keys() - {"rope_type", "type", "rope_theta", "partial_rotary_factor", *KNOWN[kind]}
    if strange:
        what = f"rotary positions of the kind {kind!r} with {min(map(str, strange))} are not supported"
        raise UserError(what, f"its keys may be {', '.join(KNOWN[kind]) or 'rope_theta'}")
    if kind == "yarn" and "factor" not in rope:  # null says that the contexts tell
        raise KeyError("factor")
    given = {key: value for key, value in rope.items() if value is not None}
    original: int = given.get(ORIGINAL) or c.get(ORIGINAL) or c["max_position_embeddings"]
    if kind != "default" and c.get(ORIGINAL) not in (None, original):
        raise UserError(f"{ORIGINAL} is {c[ORIGINAL]!r} in one place and {original!r} in another", "make them agree")
    share = given.get("partial_rotary_factor", c.get("partial_rotary_factor"))
    theta = given.get("rope_theta", c.get("rope_theta", 10000.0))
    if theta is None:
        raise KeyError("rope_theta")
    return {
        "rope_theta": theta,
        "rope_share": 1.0 if share is None else share,
        "rope_scaling": _scaling(kind, given, original, c["max_position_embeddings"]),
    }


def _scaling(kind: str, rope: Config, original: int, context: int) -> Config | None:
    found: Config = {"kind": kind, "original_context": original}
    if kind == "linear":
        return {"kind": kind, "factor": rope["factor"]}
    if kind == "llama3":
        words = {"low_frequency_factor": "low_freq_factor", "high_frequency_factor": "high_freq_factor"}
        return found | {"factor": rope["factor"]} | {ours: rope[theirs] for ours, theirs in words.items()}
    if kind == "yarn":
        factor = rope.get("factor", context / original)
        found |= {"factor": factor, "truncate": rope.get("truncate", True)}
        found |= {"fast": rope.get("beta_fast") or 32.0, "slow": rope.get("beta_slow") or 1.0}
        if "attention_factor" in rope:
            return found | {"attention_factor": rope["attention_factor"]}
        if rope.get("mscale") and rope.get("mscale_all_dim"):
            one, other = (_sharper(factor, rope[key]) for key in ("mscale", "mscale_all_dim"))
            return found | {"attention_factor": one / other}
        return found
    if kind == "longrope":
        found |= {"short": rope["short_factor"], "long": rope["long_factor"]}
        factor = rope.get("factor", context / original)
        if "attention_factor" in rope:
            return found | {"attention_factor": rope["attention_factor"]}
        if factor != context / original:
            return found | {"attention_factor": math.sqrt(1 + math.log(max(1.0, factor)) / math.log(original))}
        return found
    return None


def _sharper(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def write(s: DecoderSettings) -> Config:
    """The rotary table of settings: rope_parameters, and rope_scaling too where transformers 4 would look for it."""
    scaling, out = s.rope_scaling, {"rope_type": "default", "rope_theta": s.rope_theta}
    found: dict[str, Any] = {}
    if isinstance(scaling, LinearRope):
        found = {"factor": scaling.factor}
    elif isinstance(scaling, Llama3Rope):
        found = {"low_freq_factor": scaling.low_frequency_factor, "high_freq_factor": scaling.high_frequency_factor}
        found |= {"factor": scaling.factor, ORIGINAL: scaling.original_context}
    elif isinstance(scaling, YarnRope):
        found = {"factor": scaling.factor, "beta_fast": scaling.fast, "beta_slow": scaling.slow}
        found |= {"truncate": scaling.truncate, ORIGINAL: scaling.original_context}
    elif isinstance(scaling, LongRope):
        found = {"short_factor": list(scaling.short), "long_factor": list(scaling.long)}
        found |= {ORIGINAL: scaling.original_context}
    if isinstance(scaling, YarnRope | LongRope) and scaling.attention_factor is not None:
        found["attention_factor"] = scaling.attention_factor
    if scaling is not None:
        out |= {"rope_type": scaling.kind, **found}
    return out
