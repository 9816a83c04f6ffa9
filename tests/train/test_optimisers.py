from __future__ import annotations

import pytest
import torch
from torch import nn

from idiolect.errors import UserError
from idiolect.train import optimisers
from idiolect.train.optimisers import Muon, orthogonalise
from idiolect.train.settings import TrainSettings


class Net(nn.Module):
    """Embedding, two hidden matrices, a norm, a head with a bias; optionally tied."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 5)
        self.wide = nn.Linear(5, 7)
        self.tall = nn.Linear(7, 5, bias=False)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 11)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.tall(self.wide(self.embedding(ids)).tanh())))


def net(tied: bool = False) -> Net:
    torch.manual_seed(3)
    return Net(tied)


def backward(model: Net) -> None:
    ids = torch.arange(11)
    nn.functional.cross_entropy(model(ids), ids.roll(1)).backward()


def names(part: torch.optim.Optimizer, model: nn.Module, decays: bool | None = None) -> set[str]:
    by_id = {id(p): name for name, p in model.named_parameters()}
    groups = [g for g in part.param_groups if decays is None or (g["weight_decay"] > 0) == decays]
    return {by_id[id(p)] for g in groups for p in g["params"]}


MATRICES = {"embedding.weight", "wide.weight", "tall.weight", "head.weight"}
VECTORS = {"wide.bias", "norm.weight", "norm.bias", "head.bias"}


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_matrices_decay_and_vectors_do_not(kind: str) -> None:
    model = net()
    (part,) = optimisers.build(model, TrainSettings(optimizer=kind)).parts
    assert names(part, model, decays=True) == MATRICES
    assert names(part, model, decays=False) == VECTORS


def test_muon_takes_the_hidden_matrices_only() -> None:
    for tied in (False, True):
        model = net(tied)
        matrices, rest = optimisers.build(model, TrainSettings(optimizer="muon")).parts
        assert names(matrices, model) == {"wide.weight", "tall.weight"}
        ends = {"embedding.weight"} if tied else {"embedding.weight", "head.weight"}
        assert names(rest, model) == ends | VECTORS


def test_muon_without_a_hidden_matrix_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 3))
    with pytest.raises(UserError, match="no"):
        optimisers.build(model, TrainSettings(optimizer="muon"))


def test_frozen_parameters_are_left_out_and_all_frozen_is_refused() -> None:
    model = net()
    model.embedding.requires_grad_(False)
    assert "embedding.weight" not in optimisers.build(model, TrainSettings()).named
    with pytest.raises(UserError, match="nothing in this model may train"):
        optimisers.build(model.requires_grad_(False), TrainSettings())


def test_adamw_equals_torchs_plain_one() -> None:
    ours, theirs = net(), net()
    settings = TrainSettings(learning_rate=0.01, weight_decay=0.3, beta1=0.8, beta2=0.95)
    optimizer = optimisers.build(ours, settings)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim == 2], "weight_decay": 0.3},
        {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    plain = torch.optim.AdamW(groups, lr=0.005, betas=(0.8, 0.95), foreach=False, fused=False)
    for _ in range(3):
        backward(ours)
        backward(theirs)
        optimizer.set_share(0.5)
        optimizer.step()
        plain.step()
        optimizer.zero_grad()
        plain.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6)])
def test_muon_equals_torchs_in_its_precision_and_nearly_in_fp32(shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=draw)
    steps = [torch.randn(shape, generator=draw) for _ in range(3)]

    def run(make: object) -> torch.Tensor:
        weight = nn.Parameter(start.clone())
        optimizer = make([{"params": [weight], "weight_decay": 0.1}])  # type: ignore[operator]
        for gradient in steps:
            weight.grad = gradient.clone()
            optimizer.step()
        return weight.detach()

    theirs = run(lambda groups: torch.optim.Muon(groups, lr=0.1, momentum=0.95))
    same = run(lambda groups: Muon(groups, lr=0.1, dtype=torch.bfloat16))
    torch.testing.assert_close(same, theirs, rtol=1e-6, atol=1e-7)
    exact = run(lambda groups: Muon(groups, lr=0.1))
    torch.testing.assert_close(exact, theirs, rtol=0, atol=0.1 * 3 * 0.05)
    assert not torch.equal(exact, theirs)


def test_orthogonalise_keeps_directions_and_levels_singular_values() -> None:
    matrix = torch.randn(13, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    x = s / s.norm()  # the iteration acts on each singular value alone: x ← ax + bx³ + cx⁵
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    torch.testing.assert_close(orthogonalise(matrix), u @ torch.diag(x) @ v, rtol=1e-9, atol=1e-9)
    assert ((x > 0.6) & (x < 1.3)).all()


@pytest.mark.parametrize("kind", ["adamw", "muon", "sgd"])
def test_state_comes_back_bit_for_bit(kind: str) -> None:
    settings = TrainSettings(optimizer=kind, momentum=0.9, learning_rate=0.01)
    model = net()
    optimizer = optimisers.build(model, settings)
    assert optimizer.tensors() == {}
    backward(model)
    optimizer.step()
    optimizer.zero_grad()
    kept = {key: value.clone() for key, value in optimizer.tensors().items()}
    weights = {key: value.clone() for key, value in model.state_dict().items()}

    def second_step(model: Net, optimizer: optimisers.Optimizer) -> list[torch.Tensor]:
        backward(model)
        optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    straight = second_step(model, optimizer)
    other = net()
    other.load_state_dict(weights)
    resumed = optimisers.build(other, settings)
    resumed.load_tensors(kept)
    assert all(torch.equal(a, b) for a, b in zip(second_step(other, resumed), straight))
    assert set(resumed.tensors()) == set(kept)
    assert any(key.startswith("tall.weight/") for key in kept)


def test_state_of_another_model_is_refused() -> None:
    optimizer = optimisers.build(net(), TrainSettings())
    with pytest.raises(UserError, match="stranger"):
        optimizer.load_tensors({"stranger.weight/exp_avg": torch.zeros(2)})


@pytest.mark.parametrize("kind", ["adamw", "muon", "sgd"])
def test_shares_scale_every_group_from_its_own_highest(kind: str) -> None:
    optimizer = optimisers.build(net(), TrainSettings(optimizer=kind, learning_rate=0.4, muon_learning_rate=0.8))
    optimizer.set_share(0.5)
    optimizer.set_share(0.25)
    rates = {group["lr"] for part in optimizer.parts for group in part.param_groups}
    assert rates == ({0.1, 0.2} if kind == "muon" else {0.1})


class Uncompiled(Net):
    compiles = False


PLAIN = TrainSettings(optimizer="sgd", weight_decay=0, learning_rate=0.5)


def test_plain_sgd_moves_only_the_rows_that_were_looked_up() -> None:
    torch.manual_seed(3)
    model, other = Uncompiled(), net()
    before = model.embedding.weight.detach().clone()
    for same, share in ((model, 0.5), (other, 0.5)):
        optimizer = optimisers.build(same, PLAIN)
        for ids in ([2, 7, 2, 2], [3, 3, 7, 0]):  # micro-batches, with ids that come again
            nn.functional.cross_entropy(same(torch.tensor(ids)), torch.tensor([1, 2, 3, 4])).backward()
        assert same.embedding.weight.grad is not None and same.embedding.weight.grad.is_sparse == (same is model)
        optimizer.step(share)
        optimizer.zero_grad()
    torch.testing.assert_close(model.embedding.weight, other.embedding.weight, rtol=1e-6, atol=1e-7)
    moved = (model.embedding.weight != before).any(1).nonzero().flatten().tolist()
    assert moved == [0, 2, 3, 7]


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (Uncompiled(tied=True), {}),
        (Uncompiled(), {"momentum": 0.5}),
        (Uncompiled(), {"weight_decay": 0.1}),
        (Net(), {}),
    ],
)
def test_gradients_stay_dense_where_rows_move_without_being_looked_up(model: Net, changes: dict[str, float]) -> None:
    optimisers.build(model, PLAIN.model_copy(update=changes))
    assert not model.embedding.sparse


def test_a_table_that_is_frozen_stays_where_it_is() -> None:
    model = Uncompiled()
    model.embedding.weight.requires_grad_(False)
    optimizer = optimisers.build(model, PLAIN)
    assert not model.embedding.sparse and len(optimizer.parts) == 1
