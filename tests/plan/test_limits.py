"""The machine's limits: what is counted for what is done, and that no torch operation is timed as none."""

from types import SimpleNamespace

import pytest
import torch

from idiolect import devices
from idiolect.plan import limits


@pytest.fixture
def clock(monkeypatch):
    """Every timed call takes a quarter of a second of a clock that nothing else moves."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(limits.time, "perf_counter", lambda: now.seconds)

    def wait(device):
        now.seconds += 0.25

    monkeypatch.setattr(devices, "wait", wait)
    return now


def test_rates_by_hand(clock, monkeypatch):
    """8 · 4 · 2 products of 2 operations in a quarter second; 8 of 4,096 bytes; two matrices of 3 x 5 in bf16."""
    monkeypatch.setattr(limits, "SHAPES", {"cpu": ((8, 4, 2), (2, 2, 2))})
    monkeypatch.setattr(limits, "BYTES", 4096)
    monkeypatch.setattr(limits, "MATRIX", (3, 5))
    assert limits.matmul_rate("cpu", "fp32") == 2 * 8 * 4 * 2 * 4
    assert limits.memory_rates("cpu") == (2 * 4096 * 4, 4096 * 4)
    held = 4096 // 4 // 30 * 30  # as many matrices of 30 bytes as a quarter holds
    assert limits.vector_rate("cpu", "bf16") == held * 4


def test_the_fastest_call_counts(monkeypatch):
    ends = iter([0.0, 0.0, 3.0, 3.0, 4.0, 4.0, 6.0, 6.0, 6.0])
    monkeypatch.setattr(limits.time, "perf_counter", lambda: next(ends))
    monkeypatch.setattr(limits, "SECONDS", 0.0)
    assert limits._best(lambda: None, "cpu") == 1.0


def test_all_of_it_and_the_machine_as_it_was(monkeypatch):
    monkeypatch.setattr(limits, "SHAPES", {"cpu": ((16, 16, 16),)})
    monkeypatch.setattr(limits, "BYTES", 1 << 16)
    monkeypatch.setattr(limits, "SECONDS", 0.0)
    before = torch.get_num_threads()
    found = limits.measure("cpu", threads=1)
    assert torch.get_num_threads() == before and torch.is_grad_enabled()
    assert (found.device, found.threads, found.torch) == ("cpu", 1, torch.__version__)
    assert set(found.matmul) == set(found.vector) == {"fp32", "bf16"}
    rates = [*found.matmul.values(), *found.vector.values(), found.copy, found.read]
    assert all(1e5 < rate < 1e15 for rate in rates)
