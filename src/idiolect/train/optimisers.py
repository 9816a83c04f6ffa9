"""AdamW, Muon and SGD behind one face, with state that is saved under the parameters' own names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from idiolect.adapt.updates import Rows as UpdatedRows
from idiolect.errors import UserError
from idiolect.train.settings import TrainSettings

Groups = list[dict[str, Any]]
Named = Mapping[str, nn.Parameter]
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan et al. 2024)."""
TOGETHER = 1 << 24
"""Most numbers that Muon iterates at once, unless one matrix has more."""


class Optimizer:
    """One or two torch optimisers that move together; rates are set as a share of each one's highest."""

    def __init__(self, named: Mapping[str, nn.Parameter], parts: list[torch.optim.Optimizer]) -> None:
        self.named = named
        self.parts = parts

    def set_share(self, share: float) -> None:
        """Sets every learning rate to `share` of its highest."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["highest"] * share

    def step(self, share: float = 1.0) -> None:
        """Moves every parameter that has a gradient, by `share` of it (what clipping leaves)."""
        for part in self.parts:
            # what torch's fused optimisers divide gradients by on their way, which saves a pass over all of them
            scale = None if share == 1 else torch.tensor(1 / share, device=next(iter(self.named.values())).device)
            setattr(part, "grad_scale", scale)  # noqa: B010 (torch's types do not have it)
            part.step()

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self.named.values():
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's memory: `<parameter>/<what>` → tensor (not copied); empty before the first step."""
        out = {}
        for name, parameter in self.named.items():
            for part in self.parts:
                for key, value in part.state.get(parameter, {}).items():
                    if isinstance(value, Tensor):
                        out[f"{name}/{key}"] = value
        return out

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` gave. Raises UserError when it belongs to other parameters."""
        strange = sorted({key.rpartition("/")[0] for key in tensors} - set(self.named))
        if strange:
            raise UserError(
                f"the saved optimiser has state for {strange[0]}, which this model does not train",
                "resume with the recipe the run was started with",
            )
        owner = {id(p): part for part in self.parts for group in part.param_groups for p in group["params"]}
        for key, value in tensors.items():
            name, _, what = key.rpartition("/")
            parameter = self.named[name]
            owner[id(parameter)].state[parameter][what] = value.detach().clone().to(parameter.device)


def build(model: nn.Module, settings: TrainSettings, precision: str = "fp32") -> Optimizer:
    """The optimiser of the settings over every parameter of the model that may train; precision is the run's."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not named:
        raise UserError("nothing in this model may train", "leave at least one parameter unfrozen")
    return Optimizer(named, KINDS[settings.optimizer](model, named, settings, precision))


def adamw(model: nn.Module, named: Named, settings: TrainSettings, precision: str) -> list[torch.optim.Optimizer]:
    """AdamW: Loshchilov and Hutter 2019, algorithm 2."""
    return [_adamw(named.values(), settings)]


def sgd(model: nn.Module, named: Named, settings: TrainSettings, precision: str) -> list[torch.optim.Optimizer]:
    """Stochastic gradient descent, with momentum if asked for; plain, it leaves rows that were not looked up alone."""
    tables = [] if settings.momentum or settings.weight_decay else _tables(model, named)
    chosen = {id(table) for table in tables}
    rest = [p for p in named.values() if id(p) not in chosen]
    groups = _groups(rest, settings.weight_decay, settings.learning_rate)
    parts: list[torch.optim.Optimizer] = []
    if groups:
        parts.append(torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, fused=True))
    if tables:
        parts.append(Rows([{"params": tables, "highest": settings.learning_rate}], {"lr": settings.learning_rate}))
    return parts


def _tables(model: nn.Module, named: Named) -> list[nn.Parameter]:
    """Embeddings that nothing else uses, which from now on have sparse gradients.

    A compiled step knows no sparse gradients: only models that are not compiled have them.
    """
    if getattr(model, "compiles", True):
        return []
    uses = [(module, p) for module in model.modules() for p in module.parameters(recurse=False)]
    found = []
    for module, parameter in uses:
        trained = any(parameter is p for p in named.values())
        if isinstance(module, nn.Embedding) and trained and sum(parameter is p for _, p in uses) == 1:
            module.sparse = True
            found.append(parameter)
    return found


class Rows(torch.optim.Optimizer):
    """Stochastic gradient descent over tables whose gradients are sparse: what was not looked up does not move.

    The same weights as a dense gradient gives, at the cost of the rows of a batch instead of the whole vocabulary's.
    """

    grad_scale: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves the rows that have a gradient."""
        assert closure is None
        share = 1.0 if self.grad_scale is None else 1 / float(self.grad_scale)
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    moved = table.grad.coalesce()
                    table.index_add_(0, moved.indices()[0], moved.values(), alpha=-group["lr"] * share)


def muon(model: nn.Module, named: Named, settings: TrainSettings, precision: str) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between embedding and head, AdamW for everything else."""
    ends = {id(p) for m in model.modules() if isinstance(m, nn.Embedding | UpdatedRows) for p in m.parameters()}
    head = getattr(model, "head", None)
    ends |= {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
    hidden = [p for p in named.values() if p.ndim == 2 and id(p) not in ends]
    if not hidden:
        raise UserError("muon updates hidden matrices, and this model has none", "use train.optimizer=adamw")
    moved = {id(p) for p in hidden}
    rest = [p for p in named.values() if id(p) not in moved]
    rate = settings.muon_learning_rate
    exact = precision == "fp32" and hidden[0].device.type == "cpu"
    groups = [{"params": hidden, "weight_decay": settings.weight_decay, "highest": rate}]
    matrices = Muon(groups, lr=rate, dtype=torch.float32 if exact else torch.bfloat16)
    return [matrices, _adamw(rest, settings)] if rest else [matrices]


Build = Callable[[nn.Module, Named, TrainSettings, str], list[torch.optim.Optimizer]]
KINDS: dict[str, Build] = {"adamw": adamw, "muon": muon, "sgd": sgd}


def _adamw(parameters: Iterable[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    groups = _groups(parameters, settings.weight_decay, settings.learning_rate)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=True)


def _groups(parameters: Iterable[nn.Parameter], decay: float, rate: float) -> Groups:
    """Matrices decay; norms, biases and other vectors do not."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay, "highest": rate},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "highest": rate},
    ]
    return [group for group in groups if group["params"]]


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.

        B = mu B + (1 - mu) G;   U = (1 - mu) G + mu B;   W = (1 - lr wd) W - lr sqrt(max(1, rows / columns)) NS(U)

    torch.optim.Muon always iterates in bf16 (`dtype`), which CPUs without bf16 units emulate some sixty times slower
    than fp32. Matrices of one shape are iterated together.
    """

    def __init__(self, params: Groups, lr: float, momentum: float = 0.95, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})
        self.dtype = dtype
        self.grad_scale: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            for shape in dict.fromkeys(weight.shape for weight in weights):
                alike = [weight for weight in weights if weight.shape == shape]
                some = max(1, TOGETHER // shape.numel())
                for start in range(0, len(alike), some):
                    self._move(alike[start : start + some], group)

    def _move(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        mu, rate, (rows, columns) = group["momentum"], group["lr"], weights[0].shape
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if self.grad_scale is not None:
            gradients = list(torch._foreach_div(gradients, self.grad_scale))
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(buffers, gradients, 1 - mu)
        updates = torch.stack(torch._foreach_lerp(gradients, buffers, mu)).to(self.dtype)
        torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
        steps = orthogonalise(updates).to(weights[0].dtype).unbind()
        torch._foreach_add_(weights, steps, alpha=-rate * math.sqrt(max(1, rows / columns)))


def orthogonalise(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Roughly U V^T of each matrix [..., R, C] = U S V^T: singular values land in about 0.7 … 1.2.

    By X ← aX + (bA + cA²)X with A = X X^T; the wide orientation keeps A small.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = (matrix.mT if tall else matrix).reshape(-1, *sorted(matrix.shape[-2:]))
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(matrix.shape)
