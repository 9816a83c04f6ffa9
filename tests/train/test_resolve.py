from __future__ import annotations

import pytest
import torch
from torch import nn

from idiolect import config, devices
from idiolect.data.batch import Batch
from idiolect.errors import UserError
from idiolect.models import fused
from idiolect.testing import TinyModel
from idiolect.train import objectives, resolve
from idiolect.train.settings import Resolved, TrainSettings

IDS = torch.arange(12).reshape(3, 4)
BATCH = Batch(IDS, IDS.roll(-1, 1))


def resolved(model: nn.Module | None = None, **settings: object) -> Resolved:
    made = TrainSettings(**{"device": "cpu", "threads": 1, **settings})  # type: ignore[arg-type]
    return resolve.resolve(made, model or TinyModel(13), BATCH, objectives.next_token)


def test_auto_takes_what_was_measured_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for rates, want in (
        ({"fp32": 60.0, "bf16": 1.0, "fp16": 1.0}, "fp32"),  # a CPU that emulates bf16
        ({"fp32": 340.0, "bf16": 3000.0, "fp16": 900.0}, "bf16"),  # a CPU with AMX
        ({"fp32": 340.0, "bf16": 400.0, "fp16": 3000.0}, "fp32"),  # fp16 training is not for CPUs
    ):
        monkeypatch.setattr(devices, "race", lambda device, rates=rates: rates)
        chosen = resolved(precision="auto")
        assert chosen.precision == want
        assert f"bf16 {rates['bf16']:g}" in chosen.reasons[0]


def test_what_is_asked_for_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "race", lambda device: pytest.fail("measured"))
    chosen = resolved(precision="bf16", compile="no")
    assert (chosen.precision, chosen.compile, chosen.threads, chosen.device) == ("bf16", False, 1, "cpu")


class NoBf16(TinyModel):
    """Its kernels know no bf16, like the LSTM's on CPUs without it."""

    def body(self, ids: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor for the LSTM")
        return super().body(ids, segments)


def test_a_precision_the_model_cannot_run_in_is_found_out_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "race", lambda device: {"fp32": 1.0, "bf16": 10.0, "fp16": 1.0})
    chosen = resolved(NoBf16(13), precision="auto", compile="no")
    assert chosen.precision == "fp32"
    assert "does not run in bf16" in chosen.reasons[0]
    with pytest.raises(UserError, match="does not run in bf16 on this cpu: could not create"):
        resolved(NoBf16(13), precision="bf16", compile="no")


def test_a_model_that_is_not_to_be_compiled_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fused(TinyModel):
        compiles = False

    monkeypatch.setattr(devices, "compiler", lambda: "/usr/bin/g++")
    monkeypatch.setattr(resolve, "_seconds", lambda *parts: 1e6)
    assert not resolved(Fused(13), precision="fp32").compile
    with pytest.raises(UserError, match="compiling does not help"):
        resolved(Fused(13), precision="fp32", compile="yes")


def test_a_long_run_is_compiled_and_a_short_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(resolve.COMPILE_SAVES, "cpu", 0.1)
    monkeypatch.setattr(devices, "compiler", lambda: "/usr/bin/g++")
    monkeypatch.setattr(resolve, "_seconds", lambda *parts: 0.5)
    short = resolved(precision="fp32", steps=100)  # 50 s of which a tenth is saved
    long = resolved(precision="fp32", steps=100, micro_batches=7)  # 350 s: 35 saved for 30
    assert (short.compile, long.compile) == (False, True)
    assert short.reasons == ("not compiled: the run takes about 50 s without",)


def test_the_time_of_a_step_is_really_taken_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(resolve.COMPILE_SAVES, "cpu", 0.1)
    monkeypatch.setattr(devices, "compiler", lambda: "/usr/bin/g++")
    model = TinyModel(13, dropout=0.5).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(1)
    generator = torch.get_rng_state()
    chosen = resolved(model, precision="fp32", steps=2)
    assert not chosen.compile
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not model.training


def test_memory_that_runs_out_while_timing_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(model: object, batch: Batch) -> objectives.Loss:
        torch.empty(1 << 60)
        raise AssertionError("had that much memory")

    monkeypatch.setattr(devices, "compiler", lambda: "/usr/bin/g++")
    monkeypatch.setitem(resolve.COMPILE_SAVES, "cpu", 0.1)
    settings = TrainSettings(device="cpu", threads=1, precision="fp32")
    with pytest.raises(
        UserError, match="before the first step: out of memory with 1 micro-batches of 3 rows x 4 tokens"
    ):
        resolve.resolve(settings, TinyModel(13), BATCH, hungry)


def test_compiling_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "compiler", lambda: None)
    assert not resolved(precision="fp32").compile
    with pytest.raises(UserError, match="no C"):
        resolved(precision="fp32", compile="yes")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="no cuda device"):
        resolved(device="cuda")


def test_the_record_comes_back_from_toml() -> None:
    chosen = resolved(precision="auto", compile="no")
    import tomllib

    assert config.validate(Resolved, tomllib.loads(config.dump(chosen)), "recipe.toml") == chosen


def test_again_is_silent_here_and_names_what_changed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = resolved(precision="fp32", compile="no")
    assert resolve.again(chosen) == (chosen, [])
    monkeypatch.setattr(devices, "compiler", lambda: None)
    moved = chosen.model_copy(update={"torch": "2.99.0", "compile": True})
    now, changes = resolve.again(moved)
    assert changes == [
        f"torch 2.99.0 → {torch.__version__}",
        "compiled → not compiled (no C++ compiler here)",
    ]
    assert now == chosen


def test_fused_kernels_are_recorded_and_missed_when_they_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "library", lambda: object())
    assert resolve._kernels(Resolved(precision="bf16")) == "fused"
    assert resolve._kernels(Resolved(precision="fp32")) == "torch"
    chosen = resolved(precision="fp32", compile="no").model_copy(update={"precision": "bf16", "kernels": "fused"})
    assert resolve.again(chosen) == (chosen, [])
    monkeypatch.setattr(fused, "library", lambda: None)
    now, changes = resolve.again(chosen)
    assert (now.kernels, changes) == ("torch", ["kernels fused → torch"])


def test_a_run_on_a_cpu_is_not_compiled_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "compiler", lambda: "/usr/bin/g++")
    chosen = resolved(precision="fp32", steps=10**9)
    assert not chosen.compile and chosen.reasons == ("not compiled: no gain on cpu",)


def test_activation_checkpointing_is_handed_to_the_model_or_refused() -> None:
    class Blocks(TinyModel):
        activation_checkpointing = False

    model = Blocks(13)
    resolve.prepare(model, TrainSettings(activation_checkpointing=True), Resolved())
    assert model.activation_checkpointing is True
    with pytest.raises(UserError, match="activation_checkpointing"):
        resolve.prepare(TinyModel(13), TrainSettings(activation_checkpointing=True), Resolved())
