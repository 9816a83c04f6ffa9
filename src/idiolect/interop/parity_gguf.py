"""The parity gate of GGUF files: the package `gguf` reads them always, llama.cpp where it is installed."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idiolect.interop import families, gguf_file
from idiolect.interop.gguf_file import ROW
from idiolect.interop.gguf_vocabularies import vocabulary
from idiolect.interop.parity import (
    Apart,
    as_float32,
    differs,
    golden,
    missing,
    passed,
    same,
    same_ids,
    same_logits,
    tolerance_of,
)
from idiolect.interop.settings import Kind
from idiolect.models.contract import Network
from idiolect.tokens.tokenizer import Tokenizer

CONFIG = {
    "block_count": ("num_hidden_layers", "n_layer"),
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size", "n_embd"),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads", "n_head"),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon",),
    "rope.freq_base": ("rope_theta",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
}
"""Keys of a GGUF file, and where config.json says the same: as llama.cpp's own converter has it
(`set_gguf_parameters` in `conversion/base.py`)."""
EXPERT = re.compile(r"\.experts\.(\d+)\.")
"""The number of an expert in the name of its tensor; a GGUF file has those of all experts in one."""
HALF_STEP = 1.01 * (0.5 / 127 + 2**-11)
"""Of the largest number of a block in q8_0: what rounding to one of 127 steps changes, whose size is an f16."""
SMALLEST = 127 * 2**-25
"""What rounding that size changes where it is too small for f16."""
SECONDS = 3600
"""After which llama.cpp is no longer waited for."""


def check_gguf(path: Path, model: Network, tokenizer: Tokenizer, kind: Kind) -> dict[str, Any]:
    """Reads a GGUF file and compares it with the model. Raises UserError (exit 8) where they differ."""
    read = _by_reader(path, model, tokenizer, kind)
    if missing("llama_cpp"):
        reason = "llama.cpp did not try it: llama-cpp-python is not installed"
        return passed(f"gguf {importlib.metadata.version('gguf')}", read) | {"not_checked": reason}
    who, compared, apart = _by_llama_cpp(path, model, tokenizer, kind)
    by = f"gguf {importlib.metadata.version('gguf')}, {who}"
    return passed(by, [*read, *compared], apart)


def _by_reader(path: Path, model: Network, tokenizer: Tokenizer, kind: Kind) -> list[str]:
    """Compares metadata and tensors, the latter by the names that config.json's family and the library give them."""
    gguf = gguf_file.library()
    reader, who = gguf.GGUFReader(path), "gguf"
    model_type, architecture = gguf_file.architecture_of(model)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    config = families.FAMILIES[model_type].write(model.settings)
    for key, names in CONFIG.items():
        said = [config[name] for name in names if name in config]
        found = fields.get(f"{architecture.name}.{key}")
        if said and found != (float(np.float32(said[0])) if isinstance(said[0], float) else said[0]):
            differs(f"{key} is {found!r} to {who}, not {said[0]!r}")
    expected, _ = vocabulary(tokenizer, model.vocabulary)
    for key, value in expected.items():
        if isinstance(value, list):
            _same_list(key, value, fields.get(key) or [], who)
        else:
            same(f"{key} is", value, fields.get(key), who)
    stored, seen = {tensor.name: tensor for tensor in reader.tensors}, set()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.name.upper()], model.settings.layers)
    for ours, tensor in _theirs(model, model_type):
        expert = EXPERT.search(ours)
        name = names.get_name(EXPERT.sub(".experts.", ours), try_suffixes=(".weight", ".bias"))
        if name not in stored:
            differs(f"the tensor {name} is missing to {who}")
        seen.add(name)
        _same_tensor(stored[name], int(expert[1]) if expert else None, tensor, model, architecture.neighbours, kind)
    if architecture.untied and "output.weight" not in seen:
        _same_tensor(stored["output.weight"], None, model.state_dict()["embedding.weight"], model, False, kind)
        seen.add("output.weight")
    if more := stored.keys() - seen - {"rope_freqs.weight"}:  # which are no weights, but made of the settings
        differs(f"{who} has a tensor {min(more)} that the model has not")
    return ["metadata", f"{len(reader.tensors)} tensors"]


def _same_list(key: str, ours: list[Any], theirs: list[Any], who: str) -> None:
    for i, (mine, other) in enumerate(zip(ours, theirs)):
        if mine != other:
            differs(f"{key}[{i}] is {other!r} to {who}, not {mine!r}")
    same(f"the number of {key} is", len(ours), len(theirs), who)


def _theirs(model: Network, model_type: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors under the family's names, a block at a time; matrices as in a Linear."""
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in model.shared()}
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        block = ".".join(name.split(".")[:2]) if name.startswith("blocks.") else name
        groups.setdefault(block, {})[name] = tensor
    for group in groups.values():
        for name, tensor in families.to_theirs(group, model_type).items():
            conv1d = model_type == "gpt2" and ".h." in name and tensor.dim() == 2
            yield name, tensor.T if conv1d else tensor


def _same_tensor(read: Any, expert: int | None, ours: Tensor, model: Network, neighbours: bool, kind: Kind) -> None:
    """Compares one tensor, or one expert's part of it; numbers in q8_0 may differ by half a step of their scale."""
    gguf, name = gguf_file.library(), read.name
    kept = gguf_file.kept_as(name, tuple(reversed(read.shape.tolist())), kind)
    if read.tensor_type.name != kept.upper():
        differs(f"{name} is kept as {read.tensor_type.name}, not {kept.upper()}")
    data = read.data if expert is None else read.data[expert]
    values = torch.from_numpy(np.array(gguf.dequantize(data, read.tensor_type)))
    if neighbours and (".attn_q." in name or ".attn_k." in name):
        heads = model.settings.heads if ".attn_q." in name else model.settings.n_kv
        values = values.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
    ours = ours.squeeze(0) if len(ours) == 1 else ours
    if model.settings.norm == "rms-offset" and name.endswith("_norm.weight"):
        ours = ours.float() + 1
    if values.shape != ours.shape:
        differs(f"{name} has shape {[*values.shape]}, not {[*ours.shape]}")
    if kept == "q8_0":
        blocks = ours.float().reshape(-1, ROW)
        most = HALF_STEP * blocks.abs().amax(1, keepdim=True) + SMALLEST
        good = ((values.reshape(-1, ROW) - blocks).abs() <= most).reshape(values.shape)
    else:
        kinds = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
        good = values == ours.to(kinds[kept]).float()
    if not good.all():
        at = int((~good).flatten().int().argmax())
        differs(f"number {at} of {name} is {values.flatten()[at]:.9g}, not {ours.flatten()[at]:.9g}")


def _by_llama_cpp(path: Path, model: Network, tokenizer: Tokenizer, kind: Kind) -> tuple[str, list[str], Apart]:
    """(its name and version, what was compared, how far its logits are apart)."""
    asked = golden(model, tokenizer)
    command = [sys.executable, "-m", "idiolect.interop.llama_reader", str(path)]
    question = json.dumps({"texts": asked.texts, "rows": asked.rows}).encode()
    with tempfile.TemporaryFile() as answers, tempfile.TemporaryFile() as errors:
        ended = subprocess.run(command, input=question, stdout=answers, stderr=errors, timeout=SECONDS)
        errors.seek(0)
        if ended.returncode:
            said = errors.read().decode(errors="replace").strip().splitlines()
            differs(f"llama.cpp ended with {ended.returncode}: {said[-1][:200] if said else 'without a word'}")
        answers.seek(0)
        facts: Mapping[str, Any] = json.loads(answers.readline())
        who = f"llama.cpp (llama-cpp-python {facts['version']})"
        begins = tokenizer.begin_id < model.vocabulary
        same("whether texts begin with BOS is", begins, facts["add_bos"], who)
        for role, id_ in (("bos", tokenizer.begin_id), ("eos", tokenizer.end_id), ("pad", tokenizer.pad_id)):
            if id_ < model.vocabulary:
                same(f"the id of {role.upper()} is", id_, facts[role], who)
        compared = [same_ids(asked, facts["ids"], who), "BOS, EOS and PAD"]
        for ids, marked in zip(asked.ids, facts["special"], strict=True):
            same("a text with its marks is", [tokenizer.begin_id, *ids] if begins else ids, marked, who)

        def theirs() -> Iterator[Tensor]:
            for row in asked.rows:
                raw = answers.read(4 * len(row) * model.vocabulary)
                yield torch.from_numpy(np.frombuffer(raw, dtype="<f4").reshape(len(row), -1).copy())

        with as_float32(model) as ours:
            at, apart = same_logits(asked.rows, ours, theirs(), who, tolerance_of(model, kind))
    return who, [*compared, at], apart
