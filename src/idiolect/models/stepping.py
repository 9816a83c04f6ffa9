"""A decoder's step over few positions as one call into `stepping.cpp`, on a CPU.

Generating a token at a time is bound by how fast the weights come from memory; torch's products of one row reach a
third of that, and each of its operations costs some microseconds besides. What the kernel is not made for (another
device or type, edited modules, many positions at once, no C++ compiler here) takes torch's operations.
Shapes: B rows, T positions, D width, V vocabulary, L layers, K key/value heads, d head width, S slots of the cache.
"""

from __future__ import annotations

import ctypes
import functools
import operator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from idiolect import native
from idiolect.models import layers, rope
from idiolect.models.decoder_settings import LongRope
from idiolect.models.settings import DecoderSettings

POSITIONS = 16
"""Most positions, of all rows together, that one call reads; torch's products of more rows are as fast."""
WORK = 1 << 16
"""Weights worth a thread: below that, threads would wait for each other longer than they work."""
MLPS = ("relu", "gelu", "swiglu")
"""The kinds of MLP that the kernel has, by their numbers."""
KINDS = {torch.float32: "step_fp32", torch.bfloat16: "step_bf16"}
KNOWN = (
    *(nn.Embedding, nn.Dropout, nn.ModuleList, nn.Linear, nn.Identity),
    *(layers.Block, layers.Attention, layers.Mlp, layers.RmsNorm, layers.LayerNorm),
)
"""The modules whose computation is the kernel's, when they are exactly these and not edited ones."""
PARTS = (
    *("attention_norm", "attention.query", "attention.key", "attention.value", "attention.out"),
    *("attention.query_norm", "attention.key_norm", "mlp_norm", "mlp.gate", "mlp.up", "mlp.down"),
)
"""The modules of a block, in the order of stepping.cpp's Layer."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel; None on a machine without a C++ compiler."""
    found = native.load(Path(__file__).with_suffix(".cpp"))
    for name in KINDS.values() if found else ():
        getattr(found, name).restype = ctypes.c_int64
    return found


class _Linear(ctypes.Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p))


class _Model(ctypes.Structure):
    """stepping.cpp's Model."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("layers", "width", "heads", "kv_heads", "head_width", "mlp_width")),
        *((name, ctypes.c_int64) for name in ("vocabulary", "window", "centre", "mlp", "tokens")),
        *((name, _Linear) for name in ("embedding", "position", "norm", "head")),
        *((name, ctypes.c_void_p) for name in ("layer", "cosine", "sine")),
        ("epsilon", ctypes.c_double),
    )


class _Call(ctypes.Structure):
    """stepping.cpp's Call."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("B", "T", "slots", "last", "threads")),
        *((name, ctypes.c_void_p) for name in ("ids", "before", "lengths", "keys", "values", "logits")),
    )


class Stepper:
    """A model as the kernel sees it: addresses of its weights, and what would make them wrong."""

    def __init__(self, model: nn.Module, settings: DecoderSettings) -> None:
        modules = list(model.modules())
        self.parameters = list(model.parameters())
        self.dtype = self.parameters[0].dtype
        self.addresses = [p.data_ptr() for p in self.parameters]
        held = [table for module in modules for table in (module._modules, module._parameters)]
        watched = [(table, name, value) for table in held for name, value in table.items()]
        self._tables, self._names, self._values = zip(*watched, strict=True)
        self._hooks = [t for m in modules for t in (m._forward_hooks, m._forward_pre_hooks)]
        self.supported = (
            self.dtype in KINDS
            and all(type(module) in KNOWN for module in modules[1:])
            and all(_attends(module) for module in modules if isinstance(module, layers.Attention))
            and (settings.norm_place, settings.mlp in MLPS) == ("before", True)
            and not _beyond(settings)
            and all(p.dtype == self.dtype and p.is_contiguous() and p.device.type == "cpu" for p in self.parameters)
        )
        self.operations = 0
        """Multiply-adds of the last call."""
        if self.supported:
            self._describe(model, settings)

    def _describe(self, model: nn.Module, s: DecoderSettings) -> None:
        modules = dict(model.named_modules())

        def addresses(name: str) -> _Linear:
            found = [getattr(modules.get(name), kind, None) for kind in ("weight", "bias")]
            return _Linear(*(None if p is None else p.data_ptr() for p in found))

        blocks = [addresses(f"blocks.{layer}.{part}") for layer in range(s.layers) for part in PARTS]
        self._layer = (_Linear * len(blocks))(*blocks)
        self._rotary = s.position == "rope"
        if self._rotary:
            self._frequencies = rope.frequencies(s.d_head, s.rope_theta, s.rope_scaling)
            self._magnitude = rope.magnitude(s.rope_scaling, s.context)
        self._model = _Model(
            *(s.layers, s.width, s.heads, s.n_kv, s.d_head, s.d_mlp),
            *(model.vocabulary, s.window or 0, s.norm == "layer", MLPS.index(s.mlp), 0),
            *(addresses(name) for name in ("embedding", "position", "norm", "head")),
            ctypes.addressof(self._layer),
        )
        self._model.epsilon = s.norm_epsilon
        self._step = getattr(library(), KINDS[self.dtype])
        self._threads = 1 + sum(p.numel() for p in self.parameters) // WORK

    def current(self) -> bool:
        """Whether the model's modules and weights still are and lie where they did."""
        return all(map(operator.is_, map(operator.getitem, self._tables, self._names), self._values)) and (
            [p.data_ptr() for p in self.parameters] == self.addresses and self.parameters[0].dtype == self.dtype
        )

    def takes(self, state: Any) -> bool:
        """Whether the kernel computes what this model would, on this state."""
        plain = self.supported and not any(self._hooks)
        return plain and all(x.dtype == self.dtype and x.is_contiguous() for x in (*state.keys, *state.values))

    def step(self, ids: Tensor, state: Any, lengths: Tensor | None, last: bool) -> Tensor:
        """Logits fp32 [B, T or 1, V] of ids int64 [B, T]; writes keys and values, moves no length.

        Raises IndexError for an id that the model does not have.
        """
        B, T = ids.shape
        slots = state.keys[0].shape[2]
        if self._rotary and self._model.tokens < slots:
            self._turns = [x[:, : x.shape[1] // 2].contiguous() for x in self._table(slots)]
            self._model.cosine, self._model.sine = (x.data_ptr() for x in self._turns)
            self._model.tokens = slots
        pointers = ctypes.c_void_p * len(state.keys)
        keys, values = (pointers(*[x.data_ptr() for x in side]) for side in (state.keys, state.values))
        logits = torch.empty(B, 1 if last else T, self._model.vocabulary)
        ids, lengths = ids.contiguous(), None if lengths is None else lengths.to(torch.int64).contiguous()
        ends = state.ends
        call = _Call(
            *(B, T, slots, last, min(torch.get_num_threads(), self._threads)),
            *(ids.data_ptr(), ends.data_ptr(), None if lengths is None else lengths.data_ptr()),
            *(ctypes.addressof(keys), ctypes.addressof(values), logits.data_ptr()),
        )
        self.operations = self._step(ctypes.byref(self._model), ctypes.byref(call))
        if self.operations < 0:
            raise IndexError(f"an id lies outside of the vocabulary of {self._model.vocabulary}")
        return logits

    def _table(self, slots: int) -> tuple[Tensor, Tensor]:
        return rope.turns(torch.arange(slots), self._frequencies, self._magnitude)


def _beyond(s: DecoderSettings) -> bool:
    """Whether the settings ask for what the kernel does not know; what modules do, their types tell."""
    rotations = s.rope_local_theta is not None or s.rope_share < 1 or isinstance(s.rope_scaling, LongRope)
    return s.scaled_embedding or bool(s.global_layers or s.unrotated_layers) or rotations


def _attends(attention: layers.Attention) -> bool:
    """Whether the kernel's attention is this one."""
    return attention.softcap is None and attention.scale == attention.d**-0.5 and not attention.joint


_STEPPERS: WeakKeyDictionary[nn.Module, Stepper] = WeakKeyDictionary()


def stepper(model: nn.Module, settings: DecoderSettings, ids: Tensor, state: Any) -> Stepper | None:
    """What takes this step of a decoder as one call; None where torch's operations have to.

    Under autocast, a tracing compiler or anything that watches torch's operations, these are asked for.
    """
    if ids.numel() > POSITIONS or ids.device.type != "cpu" or (model.training and settings.dropout):
        return None
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or torch._C._len_torch_dispatch_stack():
        return None
    if library() is None:
        return None
    found = _STEPPERS.get(model)
    if found is None or not found.current():
        found = _STEPPERS[model] = Stepper(model, settings)
    return found if found.takes(state) else None
