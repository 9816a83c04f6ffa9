"""How models are written for other programs; torch-free."""

from __future__ import annotations

from typing import Literal

Kind = Literal["f32", "f16", "bf16", "q8_0"]
"""How a GGUF file keeps the numbers of matrices; vectors are f32 always."""
