"""GGUF files: decoders as llama.cpp reads them, a tensor at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from idiolect import files
from idiolect.errors import UserError, missing_extra
from idiolect.interop import families
from idiolect.interop.gguf_architectures import ARCHITECTURES, Architecture, Metadata, metadata, tensors
from idiolect.interop.gguf_vocabularies import vocabulary
from idiolect.interop.rows import Check, Config, unchecked
from idiolect.interop.settings import Kind
from idiolect.models.build import Model
from idiolect.models.contract import Network
from idiolect.tokens.tokenizer import Tokenizer

STORED: dict[torch.dtype, Kind] = {torch.float16: "f16", torch.bfloat16: "bf16"}
"""The kind that keeps weights as they are; f32 for all others."""
EXACT = ("position_embd.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")
"""Matrices that llama.cpp wants as f32 whatever the rest is."""
ROW = 32
"""Numbers that share a scale in q8_0; matrices whose rows are no multiple of it are f16."""


def library() -> Any:
    """The package `gguf`. Raises UserError when it is not installed."""
    try:
        import gguf
    except ModuleNotFoundError:
        raise missing_extra("hf", "gguf", "export to GGUF") from None
    return gguf


def kind_for(model: Network, asked: Kind | None) -> Kind:
    """How a model's matrices are kept: as asked, or as they are. Raises UserError for what is no kind."""
    if asked is not None and asked not in get_args(Kind):
        raise UserError(f"there is no type {asked} for GGUF files", f"use one of {', '.join(get_args(Kind))}")
    return asked or STORED.get(model.head.weight.dtype, "f32")


def architecture_of(model: Model) -> tuple[str, Architecture]:
    """(the model type in `families`, what llama.cpp has for it). Raises UserError when it has nothing."""
    settings: Any = model.settings
    model_type = families.match(settings)
    if model_type not in ARCHITECTURES or not isinstance(model, Network):
        name = model_type or f"this model of kind {settings.kind}"
        what = f"llama.cpp, which reads GGUF files, does not compute {name}"
        raise UserError(what, f"models of these types can go: {', '.join(ARCHITECTURES)}; export it with --to hf")
    found = ARCHITECTURES[model_type]
    if lacking := found.lacks(settings):
        raise UserError(f"llama.cpp's {found.name} has not {lacking}, as this model", "export it with --to hf")
    return model_type, found


def write_gguf(
    model: Model, tokenizer: Tokenizer, path: Path, kind: Kind | None = None, check: Check = unchecked
) -> tuple[list[str], Config]:
    """Writes a decoder to `path`, whole or not at all; returns notes for people, and what `check` does.

    kind: unset keeps the weights as they are. check: reads the file before it has its name; what it raises leaves
    nothing behind. Raises UserError for what llama.cpp does not compute, and (exit 4) when the disk refuses.
    """
    library()
    _, architecture = architecture_of(model)
    assert isinstance(model, Network)
    kind = kind_for(model, kind)
    about, notes = vocabulary(tokenizer, model.vocabulary)
    about = metadata(model.settings, architecture, model.vocabulary) | about
    with files.new_file(path) as temporary:
        temporary.touch(0o600)
        _write(temporary, model, architecture, about, kind)
        files.sync_file(temporary)
        return notes, check(temporary)


def _write(path: Path, model: Network, architecture: Architecture, about: Metadata, kind: Kind) -> None:
    gguf = library()
    writer = gguf.GGUFWriter(path, architecture.name)
    try:
        writer.add_type("model")
        file_type = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}[kind]
        writer.add_file_type(int(gguf.LlamaFileType[file_type]))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for key, value in about.items():
            _put(writer, key, value)
        state = {name: tensor for name, tensor in model.state_dict().items() if name not in model.shared()}
        made = list(tensors(state, model.settings, architecture))
        for one in made:
            shape, dtype, raw = _laid_out(one.name, one.shape, kind)
            writer.add_tensor_info(one.name, shape, dtype, int(np.prod(shape)) * dtype.itemsize, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one in made:
            writer.write_tensor_data(to_array(one.name, one.tensor(), kind))
    finally:
        writer.close()


def _put(writer: Any, key: str, value: Any) -> None:
    """Adds one key in the type that its value tells."""
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds[list] = writer.add_array
    kinds[type(value)](key, value)


def kept_as(name: str, shape: tuple[int, ...], kind: Kind) -> Kind:
    """How a tensor's numbers are kept where matrices are of a kind."""
    if len(shape) == 1 or name.endswith(EXACT):
        return "f32"
    return "f16" if kind == "q8_0" and shape[-1] % ROW else kind


def _laid_out(name: str, shape: tuple[int, ...], kind: Kind) -> tuple[tuple[int, ...], np.dtype[Any], Any]:
    """(the array's shape, its type, the library's name for what its bytes are)."""
    gguf = library()
    kept = kept_as(name, shape, kind)
    raw = gguf.GGMLQuantizationType[kept.upper()]
    if kept in ("f32", "f16"):
        return shape, np.dtype(np.float32 if kept == "f32" else np.float16), raw
    return tuple(gguf.quant_shape_to_byte_shape(shape, raw)), np.dtype(np.uint8), raw


def to_array(name: str, tensor: Tensor, kind: Kind) -> np.ndarray[Any, Any]:
    """A tensor's numbers as a GGUF file holds them. Raises UserError for one that f16 cannot hold."""
    gguf = library()
    kept = kept_as(name, tuple(tensor.shape), kind)
    if kept == "bf16":
        return tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
    if kept == "q8_0":
        return gguf.quantize(tensor.float().numpy(), gguf.GGMLQuantizationType.Q8_0)
    array = tensor.to(torch.float32 if kept == "f32" else torch.float16).contiguous().numpy()
    if kept == "f16" and not np.isfinite(array).all():
        raise UserError(f"{name} has numbers too large for f16", "export it with --type bf16 or f32")
    return array
