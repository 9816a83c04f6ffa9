"""Tokens a second, and the share of this machine's matrix rate (MFU), of training against the batch size.

    python -m benchmarks.batch_curve [--rows 1 2 4 8 16 32] [--out DIR]

A larger batch makes larger matrix products, which hardware multiplies at a higher rate, until it is busy all the time
or its caches overflow. The rate that MFU is a share of is the best square matrix product measured here and now, in the
precision of the run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from idiolect import devices, files, seeds
from idiolect.data.batch import Batch
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, RecurrentSettings
from idiolect.plan.flops import flops_per_token, mfu
from idiolect.report import svg_chart
from idiolect.train import loop, objectives, optimisers
from idiolect.train.precision import DTYPES
from idiolect.train.settings import Resolved, TrainSettings

WARM_UP = 2
"""Steps not measured: the first allocate, and choose kernels."""
SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192), "mps": (1024, 2048, 4096)}
"""Square matrices whose best rate is the machine's."""
PRODUCTS = 5


@dataclass(frozen=True)
class Point:
    """One batch size."""

    rows: int
    tokens: int
    """Positions an optimiser step."""
    tokens_per_second: float
    mfu: float
    """Share of the machine's measured matrix rate, 0 … 1."""


def curve(
    settings: DecoderSettings | RecurrentSettings,
    vocabulary: int,
    rows: Sequence[int],
    resolved: Resolved,
    peak: float,
    steps: int = 10,
) -> list[Point]:
    """A point for each number of rows, from the median time of `steps` real optimiser steps; peak in FLOP/s."""
    work = flops_per_token(settings, vocabulary).total
    points = []
    for count in rows:
        tokens = count * settings.context
        rate = tokens / statistics.median(step_seconds(settings, vocabulary, count, resolved, steps))
        points.append(Point(count, tokens, rate, mfu(work, rate, peak)))
    return points


def step_seconds(
    settings: DecoderSettings | RecurrentSettings, vocabulary: int, rows: int, resolved: Resolved, steps: int
) -> list[float]:
    """Wall clock of each of `steps` steps of the one training loop, on ids drawn at random."""
    train = TrainSettings(steps=WARM_UP + steps, batch_tokens=rows * settings.context, warmup_steps=0)
    model = build(settings, vocabulary).to(resolved.device)
    ids = torch.randint(0, vocabulary, (rows, settings.context + 1), generator=seeds.generator(0, "batch curve"))
    batch = Batch(ids[:, :-1], ids[:, 1:])
    times: list[float] = []
    loop.fit(
        model,
        lambda step: [batch],
        objectives.next_token,
        optimisers.build(model, train),
        lambda step: 1.0,
        settings=train,
        resolved=resolved,
        hooks=[lambda step: times.append(step.seconds)],
    )
    return times[WARM_UP:]


def matrix_rate(device: str, precision: str, threads: int) -> float:
    """The best rate of a square matrix product here, FLOP/s."""
    with devices.pinned(threads, deterministic=False):
        return max(_rate(torch.ones(size, size, device=device, dtype=DTYPES[precision])) for size in SIZES[device])


def _rate(a: torch.Tensor) -> float:
    """The rate of a @ a, FLOP/s, from the median of several products."""
    out, times = a @ a, []
    for _ in range(PRODUCTS):
        began = time.perf_counter()
        torch.mm(a, a, out=out)
        out[0, 0].item()  # waits for an accelerator
        times.append(time.perf_counter() - began)
    return 2 * len(a) ** 3 / statistics.median(times)


def main() -> None:
    """Prints the table; with --out writes batch_curve.json and batch_curve.svg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 6), ("heads", 6), ("width", 384), ("context", 256), ("vocabulary", 4096)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default=None, help="default: the fastest here")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    settings = DecoderSettings(layers=asked.layers, heads=asked.heads, width=asked.width, context=asked.context)
    device, threads = devices.choose("auto"), devices.cores()
    precision = asked.precision or devices.fastest(device, devices.race(device))
    peak = matrix_rate(device, precision, threads)
    print(f"{devices.hardware(device)}, {threads} threads, {precision}: best product {peak / 1e9:,.0f} GFLOP/s")
    resolved = Resolved(device=device, precision=precision, threads=threads)
    print(f"{'rows':>5} {'tokens':>7} {'tokens/s':>10} {'MFU':>6}")
    points = []
    for rows in asked.rows:
        points += curve(settings, asked.vocabulary, [rows], resolved, peak, asked.steps)
        print(f"{rows:5d} {points[-1].tokens:7,d} {points[-1].tokens_per_second:10,.0f} {points[-1].mfu:6.1%}")
    if asked.out:
        files.write_json(asked.out / "batch_curve.json", {"peak_flops": peak, "points": [asdict(p) for p in points]})
        rates = {"tokens a second": [(float(p.rows), p.tokens_per_second) for p in points]}
        picture = svg_chart(
            "Training speed against batch size", rates, "rows a step", "tokens a second", standalone=True
        )
        files.write_text(asked.out / "batch_curve.svg", picture)


if __name__ == "__main__":
    main()
