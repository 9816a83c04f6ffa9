"""The README's picture from a real quickstart: `python benchmarks/picture.py FOLDER docs/quickstart.svg`."""

from __future__ import annotations

import sys
from pathlib import Path

from idiolect.recipes.finish import points
from idiolect.recipes.runs import results
from idiolect.report import svg_chart
from idiolect.runs import Run


def main(folder: Path, out: Path) -> None:
    """Held-out bits per byte of each model while it trains, and the levels of what does not train."""
    series = {}
    last = 1.0
    for name in ("gpt", "lstm"):
        metrics = Run.open(folder / name).read_metrics()
        curve = dict(points(metrics, "validation.bits_per_byte")) | dict(points(metrics, "final.bits_per_byte"))
        series[name] = sorted(curve.items())
        last = max(last, series[name][-1][0])
    found = results(Run.open(folder / "ngram"))
    levels = {"5-gram": found["validation"], **{name: found["baselines"][name] for name in ("gzip", "unigram")}}
    for name, figures in levels.items():
        series[name] = [(0.0, figures["bits_per_byte"]), (last, figures["bits_per_byte"])]
    out.write_text(svg_chart("bits per byte of held-out text", series, "step", "bits per byte", standalone=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
