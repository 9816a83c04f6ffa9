"""EF1: tokens a second and MFU against the batch size, from real steps of the training loop."""

import importlib
from pathlib import Path

import pytest

from idiolect.models.settings import DecoderSettings
from idiolect.plan import limits
from idiolect.plan.flops import flops_per_token, mfu
from idiolect.train.settings import Resolved

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.batch_curve")


def test_EF1_mfu_is_work_done_over_the_measured_matrix_rate():
    """By hand: one layer of width 8, two heads, gelu, context 4, 10 words: N_m = 12·64 + 80 = 848.

    6·848 + 12·1·8·4 = 5,472 operations a token; 1,000 tokens a second at a peak of 10,944,000 are a half.
    """
    settings = DecoderSettings(layers=1, heads=2, width=8, mlp="gelu", context=4)
    assert flops_per_token(settings, 10).total == 5472
    assert mfu(5472, 1000, 10_944_000) == 0.5


def test_EF1_the_curve_rises_with_the_batch(bench):
    settings = DecoderSettings(layers=1, heads=2, width=16, context=8)
    peak = 1e9
    points = bench.curve(settings, 31, [1, 64], Resolved(), peak, steps=5)
    assert [point.rows for point in points] == [1, 64]
    assert [point.tokens for point in points] == [8, 512]
    assert points[1].tokens_per_second > 3 * points[0].tokens_per_second  # a step costs much the same
    for point in points:
        assert point.mfu == pytest.approx(flops_per_token(settings, 31).total * point.tokens_per_second / peak)


def test_EF1_the_rate_of_the_machine_is_measured(monkeypatch):
    monkeypatch.setattr(limits, "SHAPES", {"cpu": ((64, 64, 64), (96, 64, 32))})
    assert 1e8 < limits.matmul_rate("cpu", "fp32") < 1e14


def test_EF1_the_command_writes_table_and_picture(bench, monkeypatch, tmp_path, capsys):
    small = ["--layers", "1", "--heads", "1", "--width", "8", "--context", "4", "--vocabulary", "11"]
    arguments = [
        "batch_curve",
        *small,
        "--rows",
        "1",
        "2",
        "--steps",
        "2",
        "--precision",
        "fp32",
        "--out",
        str(tmp_path),
    ]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr(limits, "SHAPES", {"cpu": ((32, 32, 32),)})
    monkeypatch.setattr(bench.devices, "cores", lambda: 1)
    bench.main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["rows", "tokens", "tokens/s", "MFU"] and len(printed) == 4
    assert "</svg>" in (tmp_path / "batch_curve.svg").read_text()
    assert '"mfu"' in (tmp_path / "batch_curve.json").read_text()
