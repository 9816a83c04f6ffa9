"""The computation graph of any piece of torch code: what was computed from what.

The code's control flow makes the graph: it is run once, and every call of a torch function on tensors becomes a node.
So a loop is as long as it ran, and what torch offers as one function is one node.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Named = Mapping[str, Tensor]
IN_PLACE = ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__")
"""Methods that change their first argument and whose name does not end in an underscore of its own."""
SHAPE_ONLY = ("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty")
"""Functions that ask a tensor for nothing but its shape and type: what they give is a constant."""


@dataclass(frozen=True)
class Node:
    """One variable of a computation."""

    name: str
    """What the variable is called."""
    function: str
    """What computes it; of a parameter or a constant, its shape."""
    kind: Literal["parameter", "constant", "intermediate", "loss"]
    inputs: tuple[int, ...] = ()
    """The places in the graph of what it is computed from, in the order of the function's arguments."""


def trace(
    compute: Callable[[], Tensor | Mapping[str, Any]], given: Named, model: nn.Module | None = None
) -> list[Node]:
    """The graph of what `compute` returns, each node after its inputs; the last one is what it returned: the loss.

    `given` names tensors that are there before: those that require a gradient are parameters, the others constants.
    `compute` may return its variables by name (`return locals()` will do), the loss last; a variable without a name is
    called by the submodule of `model` that returned it, or else v1, v2, … Only what the loss depends on is in the
    graph; a constant that nobody named is called c1, c2, …
    """
    tracer = _Tracer()
    for name, tensor in given.items():
        tracer.add(tensor, name, _shape(tensor), "parameter" if tensor.requires_grad else "constant")
    with _outputs_named(model, tracer), tracer:
        found = compute()
    variables: Named = {"loss": found} if isinstance(found, Tensor) else _tensors_only(found)
    for name, tensor in variables.items():
        tracer.rename(tensor, name)
    return _pruned(tracer.nodes, tracer.place(list(variables.values())[-1]))


def _tensors_only(values: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


class _Tracer(TorchFunctionMode):
    """Notes every call of a torch function while it is on; calls that a torch function makes itself are not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self._places: dict[int, int] = {}
        self._kept: list[Tensor] = []  # so that no two tensors have the same id

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls what was called, and notes it."""
        out = func(*args, **(kwargs or {}))
        name = _name(func)
        inputs = [] if name in SHAPE_ONLY else list(_tensors([args, kwargs]))
        if name in IN_PLACE or (name.endswith("_") and not name.endswith("__")):
            self._note(name, args, inputs, [args[0]])
        else:
            self._note(name, args, inputs, [t for t in _tensors([out]) if id(t) not in self._places])
        return out

    def _note(self, name: str, args: Sequence[Any], inputs: Iterable[Tensor], outputs: Sequence[Tensor]) -> None:
        if not outputs:
            return
        places = tuple(self.place(tensor) for tensor in inputs)
        numbers = [f"{value:g}" for value in args if type(value) in (int, float)]
        function = f"{name.strip('_')}({', '.join(numbers)})" if numbers else name.strip("_")
        for output in outputs:
            self.add(output, "", function, "intermediate" if places else "constant", places)

    def add(
        self,
        tensor: Tensor,
        name: str,
        function: str,
        kind: Literal["parameter", "constant", "intermediate"],
        inputs: tuple[int, ...] = (),
    ) -> None:
        """A node for a tensor, or for what has become of it in place."""
        self._places[id(tensor)] = len(self.nodes)
        self._kept.append(tensor)
        self.nodes.append(Node(name, function, kind, inputs))

    def place(self, tensor: Tensor) -> int:
        """Where the tensor stands; one that came from nowhere becomes a constant."""
        if id(tensor) not in self._places:
            self.add(tensor, "", _shape(tensor), "constant")
        return self._places[id(tensor)]

    def rename(self, tensor: Tensor, name: str) -> None:
        """Gives a node a name, unless it has one."""
        place = self.place(tensor)
        if not self.nodes[place].name:
            taken = {node.name for node in self.nodes}
            several = (f"{name} {i}" for i in range(2, len(self.nodes) + 2))
            free = name if name not in taken else next(other for other in several if other not in taken)
            self.nodes[place] = replace(self.nodes[place], name=free)


def _name(func: Any) -> str:
    """The name of a function, or of the property that is read (`.T`)."""
    name = str(getattr(func, "__name__", type(func).__name__))
    return str(func.__self__.__name__) if name == "__get__" else name


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Every tensor in arguments or results, also in lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "number"


@contextlib.contextmanager
def _outputs_named(model: nn.Module | None, tracer: _Tracer) -> Iterator[None]:
    """What a submodule returns is called by the submodule's name."""

    def hook(name: str) -> Callable[[Any, Any, Any], None]:
        def called(module: Any, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and all(output is not given for given in inputs):
                tracer.rename(output, name)

        return called

    modules = [] if model is None else [(name, module) for name, module in model.named_modules() if name]
    with contextlib.ExitStack() as stack:
        for name, module in modules:
            stack.callback(module.register_forward_hook(hook(name)).remove)
        yield


def _pruned(nodes: Sequence[Node], last: int) -> list[Node]:
    """The nodes that `last` depends on, and it, as the loss; every one with a name."""
    needed = {last}
    for place in range(last, -1, -1):
        if place in needed:
            needed.update(nodes[place].inputs)
    order = sorted(needed)
    new = {old: i for i, old in enumerate(order)}
    out: list[Node] = []
    counts = {"c": 0, "v": 0}
    for old in order:
        node = replace(nodes[old], inputs=tuple(new[i] for i in nodes[old].inputs))
        if old == last:
            node = replace(node, kind="loss")
        if not node.name:
            letter = "c" if node.kind == "constant" else "v"
            counts[letter] += 1
            node = replace(node, name=f"{letter}{counts[letter]}")
        out.append(node)
    return out
