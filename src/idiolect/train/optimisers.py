"""AdamW, Muon and SGD behind one face, with state that is saved under the parameters' own names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from idiolect.errors import UserError
from idiolect.train.settings import TrainSettings

Groups = list[dict[str, Any]]
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan et al. 2024)."""


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

    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        for part in self.parts:
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


def build(model: nn.Module, settings: TrainSettings) -> Optimizer:
    """The optimiser of the settings over every parameter of the model that may train."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not named:
        raise UserError("nothing in this model may train", "leave at least one parameter unfrozen")
    return Optimizer(named, KINDS[settings.optimizer](model, named, settings))


def adamw(model: nn.Module, named: Mapping[str, nn.Parameter], settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """AdamW: Loshchilov and Hutter 2019, algorithm 2."""
    return [_adamw(named.values(), settings)]


def sgd(model: nn.Module, named: Mapping[str, nn.Parameter], settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """Stochastic gradient descent, with momentum if asked for."""
    groups = _groups(named.values(), settings.weight_decay, settings.learning_rate)
    return [torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, fused=True)]


def muon(model: nn.Module, named: Mapping[str, nn.Parameter], settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between embedding and head, AdamW for everything else."""
    ends = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    head = getattr(model, "head", None)
    ends |= {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
    hidden = [p for p in named.values() if p.ndim == 2 and id(p) not in ends]
    if not hidden:
        raise UserError("muon updates hidden matrices, and this model has none", "use train.optimizer=adamw")
    moved = {id(p) for p in hidden}
    rest = [p for p in named.values() if id(p) not in moved]
    rate = settings.muon_learning_rate
    matrices = Muon([{"params": hidden, "weight_decay": settings.weight_decay, "highest": rate}], lr=rate)
    return [matrices, _adamw(rest, settings)] if rest else [matrices]


Build = Callable[[nn.Module, Mapping[str, nn.Parameter], TrainSettings], list[torch.optim.Optimizer]]
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

    The arithmetic is torch.optim.Muon's, which always iterates in bf16; a CPU without bf16 units emulates that some
    sixty times slower than fp32, so here only accelerators iterate in bf16.
    """

    def __init__(self, params: Groups, lr: float, momentum: float = 0.95, dtype: torch.dtype | None = None) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            mu, rate = group["momentum"], group["lr"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                buffer = state["momentum_buffer"].lerp_(weight.grad, 1 - mu)
                dtype = self.dtype or (torch.float32 if weight.device.type == "cpu" else torch.bfloat16)
                update = orthogonalise(weight.grad.lerp(buffer, mu).to(dtype))
                rows, columns = weight.shape
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(update, alpha=-rate * math.sqrt(max(1, rows / columns)))


def orthogonalise(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Roughly U V^T of matrix [R, C] = U S V^T: singular values land in about 0.7 … 1.2, by X ← aX + (bA + cA²)X.

    With A = X X^T; the wide orientation keeps A small.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.t() if tall else matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(rounds):
        gram = x @ x.t()
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.t() if tall else x
