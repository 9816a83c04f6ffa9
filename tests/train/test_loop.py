from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from idiolect import seeds
from idiolect.data.batch import IGNORE, Batch
from idiolect.errors import Exit, UserError
from idiolect.models.build import build
from idiolect.models.recurrent import Recurrent
from idiolect.models.settings import RecurrentSettings
from idiolect.testing import TinyModel
from idiolect.train import loop, objectives, optimisers, schedules
from idiolect.train.loop import Diverged, Memory, Step, fit
from idiolect.train.settings import Resolved, TrainSettings

BatchAt = Callable[[int], list[Batch]]
Make = Callable[..., BatchAt]


class Run:
    """Everything a fit needs, and everything a checkpoint must hold."""

    def __init__(self, *, dropout: float = 0.0, model: nn.Module | None = None, **settings: Any) -> None:
        self.settings = TrainSettings(**{"steps": 10, "learning_rate": 0.05, "clip": 0.5, **settings})
        self.resolved = Resolved(threads=1, precision=settings.get("precision", "fp32"))
        self.model = model or TinyModel(13, width=5, dropout=dropout)
        self.optimizer = optimisers.build(self.model, self.settings)
        self.memory = Memory(self.resolved)
        self.steps: list[Step] = []

    def fit(self, batch_at: BatchAt, *, start: int = 0, hooks: tuple[loop.Hook, ...] = (), **change: Any) -> str:
        return fit(
            self.model,
            batch_at,
            change.get("objective", objectives.next_token),
            self.optimizer,
            schedules.build(self.settings),
            settings=self.settings,
            resolved=self.resolved,
            memory=self.memory,
            start=start,
            hooks=(self.steps.append, *hooks),
        )

    def weights(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def stop_after(step: int) -> loop.Hook:
    return lambda done: "enough" if done.step == step else None


def test_the_first_step_by_hand() -> None:
    """One weight row a token, SGD: the gradient of the logits is (softmax - onehot) / count."""
    model = TinyModel(3, width=1)
    with torch.no_grad():
        model.embedding.weight.fill_(1)
        model.head.weight.zero_()
        model.head.bias.zero_()
    ids, labels = torch.tensor([[0, 1]]), torch.tensor([[2, IGNORE]])
    more = Batch(torch.tensor([[0, 1]]), torch.tensor([[2, 0]]))
    run = Run(model=model, optimizer="sgd", weight_decay=0, learning_rate=1, steps=1, clip=0, schedule="constant")
    assert run.fit(lambda step: [Batch(ids, labels), more]) == "finished"
    # supervised: 2, 2, 0 of three; softmax 1/3 each: bias gradient = (1/3 - 1/3, 1/3 - 0, 1/3 - 2/3)
    torch.testing.assert_close(model.head.bias.detach(), torch.tensor([0, -1 / 3, 1 / 3]))
    (step,) = run.steps
    assert step.loss == pytest.approx(math.log(3), rel=1e-6)
    assert (step.step, step.count, step.learning_rate) == (1, 3, 1)
    # with hidden = 1 the head's weight and bias have equal gradients, and the embedding (times weight 0) none
    assert step.norm == pytest.approx(math.sqrt(2 * 2 / 9), rel=1e-6)


def test_one_batch_of_eight_is_eight_of_one(batches: Make) -> None:
    runs = {}
    for micro in (1, 2, 8):
        runs[micro] = Run(optimizer="sgd", steps=1, warmup_steps=0)
        runs[micro].fit(batches(micro))
    whole = runs[1]
    for micro in (2, 8):
        assert runs[micro].steps[0].loss == pytest.approx(whole.steps[0].loss, rel=1e-6)
        assert runs[micro].steps[0].norm == pytest.approx(whole.steps[0].norm, rel=1e-6)
        for a, b in zip(runs[micro].weights(), whole.weights()):
            assert (a - b).norm() <= 1e-6 * b.norm()


def test_clipping_bounds_the_gradient_that_moves(batches: Make) -> None:
    moved = []
    for clip in (0.0, 0.01):
        run = Run(optimizer="sgd", weight_decay=0, steps=1, warmup_steps=0, learning_rate=1, clip=clip)
        before = run.weights()
        run.fit(batches())
        moved.append(math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(run.weights(), before))))
        assert moved[-1] == pytest.approx(clip or run.steps[0].norm, rel=1e-4)
    assert moved[0] > 0.1


def test_each_step_moves_at_its_own_rate() -> None:
    """The loss is the one weight itself, so every step moves it by its learning rate exactly."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

    def objective(model: Any, batch: Batch) -> objectives.Loss:
        return objectives.Loss(model.weight.sum() + 1, 1)

    model, places, rates = One(), [0.0], []
    settings = TrainSettings(steps=3, optimizer="sgd", learning_rate=0.5, weight_decay=0, warmup_steps=0)

    def hook(step: Step) -> None:
        places.append(model.weight.item())
        rates.append(step.learning_rate)

    one = Batch(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64))
    optimizer = optimisers.build(model, settings)
    fit(
        model,
        lambda step: [one],
        objective,
        optimizer,
        [1.0, 0.5, 0.25].__getitem__,
        settings=settings,
        resolved=Resolved(),
        hooks=[hook],
    )
    assert places == [0.0, -0.5, -0.75, -0.875]
    assert rates == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("frozen", [(), ("embedding.weight",), ("head.weight", "head.bias")])
def test_who_moved(batches: Make, optimizer: str, frozen: tuple[str, ...]) -> None:
    model = TinyModel(13, width=5)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def evaluate(step: Step) -> None:  # an evaluation in between must not change who may move
        model.eval()
        with torch.no_grad():
            model.body(torch.arange(3)[None])
        model.train()

    Run(model=model, optimizer=optimizer, steps=2).fit(batches(), hooks=(evaluate,))
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(before) - set(frozen)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_resumed_is_uninterrupted_bit_for_bit(batches: Make, optimizer: str, precision: str) -> None:
    def new() -> Run:
        return Run(dropout=0.3, micro_batches=2, optimizer=optimizer, momentum=0.9, precision=precision)

    straight = new()
    straight.fit(batches(2))

    first = new()
    assert first.fit(batches(2), hooks=(stop_after(5),)) == "enough"
    saved = copy.deepcopy((first.model.state_dict(), first.optimizer.tensors(), first.memory.state()))
    torch.manual_seed(99)  # another process has other global state
    torch.randn(7)
    second = new()
    second.model.load_state_dict(saved[0])
    second.optimizer.load_tensors(saved[1])
    second.memory.load_state(saved[2])
    assert second.fit(batches(2), start=5) == "finished"

    assert [s.loss for s in first.steps + second.steps] == [s.loss for s in straight.steps]
    assert equal(second.weights(), straight.weights())
    assert second.memory.state() == straight.memory.state()
    with_zeros = {key: bool((value == saved[1][key]).all()) for key, value in second.optimizer.tensors().items()}
    assert not all(with_zeros.values())  # it did go on


def test_dropout_differs_between_steps_and_micro_batches_and_with_the_seed() -> None:
    ids = torch.arange(12).reshape(2, 6)
    same = [Batch(ids[:1], ids[:1]), Batch(ids[:1], ids[:1])]
    seen: list[float] = []

    def watching(model: Any, batch: Batch) -> objectives.Loss:
        loss = objectives.next_token(model, batch)
        seen.append(loss.total.item())
        return loss

    frozen = {"learning_rate": 1e-30, "weight_decay": 0.0, "steps": 3, "dropout": 0.5}
    Run(**frozen).fit(lambda step: same, objective=watching)
    first, seen = seen, []
    assert len(set(first)) == 6
    Run(**frozen).fit(lambda step: same, objective=watching)
    assert seen == first
    seen = []
    Run(**frozen, seed=1).fit(lambda step: same, objective=watching)
    assert not set(seen) & set(first)


def test_hooks_draw_from_their_own_numbers(batches: Make) -> None:
    def draw(step: Step) -> None:
        torch.randn(step.step)

    plain, drawing = Run(dropout=0.3), Run(dropout=0.3)
    plain.fit(batches())
    torch.manual_seed(4)
    state = torch.get_rng_state()
    drawing.fit(batches(), hooks=(draw,))
    assert equal(plain.weights(), drawing.weights())
    assert torch.equal(torch.get_rng_state(), state)


def test_every_hook_runs_and_the_first_reason_counts(batches: Make) -> None:
    calls: list[str] = []

    def hook(name: str, reason: str | None) -> loop.Hook:
        return lambda step: calls.append(name) or reason  # type: ignore[func-returns-value]

    assert Run().fit(batches(), hooks=(hook("a", None), hook("b", "b says"), hook("c", "c says"))) == "b says"
    assert calls == ["a", "b", "c"]


@pytest.mark.parametrize("micro", [1, 2])
def test_a_loss_that_is_not_finite_stops_before_the_weights_move(batches: Make, micro: int) -> None:
    run, reference = Run(micro_batches=micro), Run(micro_batches=micro)
    reference.fit(batches(micro), hooks=(stop_after(4),))

    def poisoned(model: Any, batch: Batch) -> objectives.Loss:
        loss = objectives.next_token(model, batch)
        last = len(run.steps) == 4 and torch.equal(batch.ids, batches(micro)(4)[-1].ids)
        return objectives.Loss(loss.total / (0.0 if last else 1.0), loss.count)

    with pytest.raises(Diverged, match=f"step 5: the loss of micro-batch {micro} of {micro} is inf") as caught:
        run.fit(batches(micro), objective=poisoned)
    assert (caught.value.code, caught.value.step) == (Exit.DIVERGED, 5)
    assert equal(run.weights(), reference.weights())
    state = reference.optimizer.tensors()
    assert all(torch.equal(value, state[key]) for key, value in run.optimizer.tensors().items())


def test_a_gradient_that_is_not_finite_stops_and_names_the_parameter(batches: Make) -> None:
    run = Run()
    before = run.weights()

    def poisoned(model: Any, batch: Batch) -> objectives.Loss:
        loss = objectives.next_token(model, batch)
        zero = model.head.bias[0] - model.head.bias[0].detach()
        return objectives.Loss(loss.total + zero.abs().sqrt(), loss.count)  # finite value, infinite slope

    with pytest.raises(Diverged, match=r"step 1: the gradient of head\.bias is not finite"):
        run.fit(batches(), objective=poisoned)
    assert equal(run.weights(), before)


@pytest.mark.parametrize(("where", "bad"), [("loss", math.nan), ("loss", math.inf), ("gradient", 1.0)])
def test_a_step_that_is_not_finite_can_be_skipped(batches: Make, where: str, bad: float) -> None:
    """The others do what they would do if it were not there; weights and moments stay as they were before it."""
    run = Run(on_nan="skip", steps=6, schedule="constant", warmup_steps=0)

    def poisoned(model: Any, batch: Batch) -> objectives.Loss:
        loss = objectives.next_token(model, batch)
        if len(run.steps) != 2:
            return loss
        zero = model.head.bias[0] - model.head.bias[0].detach()
        return objectives.Loss(loss.total * bad + (zero.abs().sqrt() if where == "gradient" else 0), loss.count)

    assert run.fit(batches(), objective=poisoned) == "finished"
    assert ["" if not step.skipped else step.step for step in run.steps] == ["", "", 3, "", "", ""]
    assert f"the {where} of" in run.steps[2].skipped
    without = Run(steps=5, schedule="constant", warmup_steps=0)
    without.fit(lambda step: batches()(step + (step >= 2)))
    assert equal(run.weights(), without.weights())
    assert [step.loss for step in without.steps] == [step.loss for step in run.steps if not step.skipped]


def test_twenty_steps_on_end_that_are_not_finite_are_not_skipped(batches: Make) -> None:
    run = Run(on_nan="skip", steps=60)
    before = run.weights()

    def poisoned(model: Any, batch: Batch) -> objectives.Loss:
        loss = objectives.next_token(model, batch)
        return objectives.Loss(loss.total * math.nan, loss.count)

    with pytest.raises(Diverged, match="step 20: the loss was above inf .3 x its median. or not finite for 20 steps"):
        run.fit(batches(), objective=poisoned)
    assert equal(run.weights(), before)
    assert run.memory.state() == {"losses": [], "above": 0, "scale": {"value": 1.0, "clean": 0}}


def test_fp16_leaves_out_an_overflowing_step_and_goes_on(batches: Make) -> None:
    run = Run(precision="fp16", steps=3)
    run.memory.scale.value = 2.0**127  # times any loss this overflows fp32
    before = run.weights()
    run.fit(batches(), hooks=(stop_after(1),))
    assert equal(run.weights(), before)
    assert run.memory.scale.value == 2.0**126
    run.memory.scale.value = 2.0**16
    run.fit(batches(), start=1)
    assert not equal(run.weights(), before)
    assert run.steps[-1].norm < 10  # the scale is taken off again


def test_the_injected_fault_is_a_nan_at_its_step(batches: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDIOLECT_FAULT", "nan@step:3")
    run, reference = Run(), Run()
    reference.fit(batches())  # not testing: no fault
    monkeypatch.setenv("IDIOLECT_TESTING", "1")
    with pytest.raises(Diverged, match="step 3"):
        run.fit(batches())
    assert len(run.steps) == 2
    assert run.steps[-1].loss == reference.steps[1].loss


@pytest.mark.parametrize("cause", ["fault", "torch"])
def test_out_of_memory_says_what_was_tried(batches: Make, monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    def hungry(model: Any, batch: Batch) -> objectives.Loss:
        torch.empty(1 << 60)
        raise AssertionError("had that much memory")

    if cause == "fault":
        monkeypatch.setenv("IDIOLECT_TESTING", "1")
        monkeypatch.setenv("IDIOLECT_FAULT", "oom@step:1")
    run = Run()
    before = run.weights()
    with pytest.raises(UserError, match="step 1: out of memory with 2 micro-batches of 4 rows x 7 tokens") as caught:
        run.fit(batches(2), objective=hungry)
    assert caught.value.code == Exit.OUT_OF_MEMORY
    assert "train.micro_batches" in caught.value.mend
    assert equal(run.weights(), before)


def test_other_runtime_errors_are_bugs_and_stay_what_they_are(batches: Make) -> None:
    def broken(model: Any, batch: Batch) -> objectives.Loss:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Run().fit(batches(), objective=broken)


def test_a_loss_three_times_its_median_for_twenty_steps_stops(batches: Make) -> None:
    run = Run(steps=60)

    def rising(model: Any, batch: Batch) -> objectives.Loss:
        loss = objectives.next_token(model, batch)
        return objectives.Loss(loss.total * (100 if len(run.steps) >= 7 else 1), loss.count)

    with pytest.raises(Diverged, match="step 27: the loss was above"):
        run.fit(batches(), objective=rising)
    assert len(run.steps) == 26


def test_the_guard_forgives_a_spike_and_noise_near_zero() -> None:
    memory = Memory(Resolved())
    for step in range(200):
        memory.watch(step, 30.0 if step % 20 else 2.0)  # 19 high ones on end are no divergence
    memory = Memory(Resolved())
    for step in range(200):
        memory.watch(step, 0.001 if step < 50 else 0.2)  # 200 times more than almost nothing


def test_nothing_supervised_is_refused() -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(UserError, match="nothing to learn from"):
        Run().fit(lambda step: [Batch(ids, torch.full_like(ids, IGNORE))])


def test_global_settings_are_as_they_were(batches: Make) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    seen: list[bool] = []
    Run(steps=1).fit(batches(), hooks=(lambda s: seen.append(torch.are_deterministic_algorithms_enabled()),))
    assert seen == [True]
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_logs_are_summed_over_the_micro_batches(batches: Make) -> None:
    def logging(model: Any, batch: Batch) -> objectives.Loss:
        loss = objectives.next_token(model, batch)
        return objectives.Loss(loss.total, loss.count, {"rows": len(batch.ids), "as tensor": torch.tensor(2.5)})

    run = Run(steps=1)
    run.fit(batches(4), objective=logging)
    assert run.steps[0].logs == {"rows": 8, "as tensor": 10.0}


@pytest.mark.slow
def test_a_compiled_run_resumes_bit_for_bit_and_evaluation_sees_the_plain_body(batches: Make) -> None:
    def new() -> Run:
        run = Run(dropout=0.3, steps=4)
        run.resolved = run.resolved.model_copy(update={"compile": True})
        return run

    straight, first, second = new(), new(), new()
    plain: list[bool] = []
    straight.fit(batches(), hooks=(lambda step: plain.append("body" not in vars(straight.model)),))
    first.fit(batches(), hooks=(stop_after(2),))
    second.model.load_state_dict(copy.deepcopy(first.model.state_dict()))
    second.optimizer.load_tensors(first.optimizer.tensors())
    second.fit(batches(), start=2)
    assert equal(second.weights(), straight.weights())
    assert plain == [True] * 4
    eager = Run(dropout=0.3, steps=4)
    eager.fit(batches())
    assert not equal(eager.weights(), straight.weights())  # the compiled body draws its dropout its own way: it did run


def test_the_scope_of_a_step_is_the_one_that_is_documented(batches: Make) -> None:
    """Anyone can reproduce a step's dropout: seeds.scope(seed, "step", step - 1, micro-batch)."""
    run = Run(dropout=0.5, seed=7, steps=1)
    untouched = copy.deepcopy(run.model)
    run.fit(batches())
    with seeds.scope(7, "step", 0, 0):
        loss = objectives.next_token(untouched, batches()(0)[0])
    assert run.steps[0].loss == pytest.approx(loss.total.item() / loss.count, rel=1e-7)


@pytest.mark.parametrize("micro", [1, 4])
def test_sparse_gradients_of_an_embedding_train_as_dense_ones(batches: Make, monkeypatch: Any, micro: int) -> None:
    runs = {}
    for dense in (False, True):
        monkeypatch.setattr(Recurrent, "compiles", dense)
        model = build(RecurrentSettings(kind="lstm", width=6, context=7), 13)
        runs[dense] = Run(model=model, optimizer="sgd", weight_decay=0, learning_rate=2.0, clip=0.1, warmup_steps=0)
        runs[dense].fit(batches(micro))
    assert runs[False].model.embedding.sparse and not runs[True].model.embedding.sparse
    for sparse, dense in zip(runs[False].weights(), runs[True].weights()):
        torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-6)
    assert [s.norm for s in runs[False].steps] == pytest.approx([s.norm for s in runs[True].steps], rel=1e-5)
