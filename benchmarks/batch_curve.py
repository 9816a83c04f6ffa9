"""Tokens a second, and the share of this machine's matrix rate (MFU), of training against the batch size.

    python -m benchmarks.batch_curve [--rows 1 2 4 8 16 32] [--out DIR]

A larger batch makes larger matrix products, which hardware multiplies at a higher rate, until it is busy all the time
or its caches overflow. The rate that MFU is a share of is the best matrix product measured here and now, in the
precision of the run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.suite import Suite
from idiolect import devices, files
from idiolect.models.settings import DecoderSettings, RecurrentSettings
from idiolect.plan import limits
from idiolect.plan.flops import flops_per_token, mfu
from idiolect.recipes.bench import step_seconds
from idiolect.report import svg_chart
from idiolect.train.settings import Resolved


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
    with devices.pinned(threads, deterministic=False):
        peak = limits.matmul_rate(device, precision)
    print(f"{devices.hardware(device)}, {threads} threads, {precision}: best product {peak / 1e9:,.0f} GFLOP/s")
    resolved = Resolved(device=device, precision=precision, threads=threads)
    print(f"{'rows':>5} {'tokens':>7} {'tokens/s':>10} {'MFU':>6}")
    points = []
    for rows in asked.rows:
        points += curve(settings, asked.vocabulary, [rows], resolved, peak, asked.steps)
        print(f"{rows:5d} {points[-1].tokens:7,d} {points[-1].tokens_per_second:10,.0f} {points[-1].mfu:6.1%}")
    if asked.out:
        found = {"peak_flops": peak, "precision": precision, "points": [asdict(p) for p in points]}
        files.write_json(asked.out / "batch_curve.json", found)
        rates = {"tokens a second": [(float(p.rows), p.tokens_per_second) for p in points]}
        picture = svg_chart(
            "Training speed against batch size", rates, "rows a step", "tokens a second", standalone=True
        )
        files.write_text(asked.out / "batch_curve.svg", picture)


def claim(suite: Suite) -> Iterator[measure.Claim]:
    """EF1: the curve of this machine, in a process of its own."""
    out = suite.folder("batch-curve")
    sample = measure.run(suite.child("batch_curve", "--out", out), last_line=False)
    found = json.loads((out / "batch_curve.json").read_text())
    points = [Point(**point) for point in found["points"]]
    best = max(points, key=lambda point: point.tokens_per_second)
    gain = best.tokens_per_second / points[0].tokens_per_second
    yield measure.Claim(
        "tokens a second against the batch: 6 layers of 384, context 256, 4,096 tokens",
        "rises with the batch",
        f"{gain:.1f} × from {points[0].rows} to {best.rows} rows",
        best.rows > points[0].rows,
        load=sample.load,
        table=[
            ["rows a step", "tokens/s", f"of {found['peak_flops'] / 1e9:,.0f} GFLOP/s ({found['precision']})"],
            *([str(p.rows), f"{p.tokens_per_second:,.0f}", f"{p.mfu:.0%}"] for p in points),
        ],
    )


CLAIMS = {"batch-curve": claim}
TRIED = ""


if __name__ == "__main__":
    main()
