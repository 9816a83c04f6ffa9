"""What the next token costs after a text of each length, with a cache of keys and values and without.

    python -m benchmarks.cache_curve [--lengths 64 128 …]

With a cache each token reads the weights once and the keys and values of what came before; without, the whole text is
computed again for every token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks import measure
from benchmarks.suite import Suite
from idiolect import devices
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings

SHAPE, VOCABULARY = DecoderSettings(layers=6, heads=6, width=384, context=2048), 4096
LENGTHS = (64, 128, 256, 512, 1024, 2000)
CALLS = 9


def curve(lengths: Sequence[int]) -> list[dict[str, float]]:
    """For each length of text, seconds of the next token with a cache and without."""
    model: Any = build(SHAPE, VOCABULARY).eval()
    points = []
    with devices.pinned(devices.threads(), deterministic=False), torch.no_grad():
        for length in lengths:
            ids = torch.randint(2, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(length))
            state = model.init_state(1, length + CALLS + 1)
            _, state = model.step(ids, state)
            cached = _seconds(partial(model.step, ids[:, -1:], state, last=True))
            points.append({"length": length, "cached": cached, "whole": _seconds(partial(_whole, model, ids))})
    return points


def _whole(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The next token's logits from the whole text."""
    return model.head(model.body(ids)[:, -1:])


def _seconds(call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Prints one JSON object with the points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    print(json.dumps({"points": curve(parser.parse_args().lengths)}))


def claim(suite: Suite) -> Iterator[measure.Claim]:
    """EF2: the curve of this machine, in a process of its own."""
    sample = measure.run(suite.child("cache_curve"))
    points = sample.result["points"]
    first, last = points[0], points[-1]
    grows, without = (last[key] / first[key] for key in ("cached", "whole"))
    yield measure.Claim(
        "a token with a cache after 2,000 tokens of text, over the same after 64: 6 layers of 384, batch 1, fp32",
        "≤ 2 ×",
        f"{grows:.2f} × (without a cache {without:.0f} ×)",
        grows <= 2,
        load=sample.load,
        table=[
            ["tokens before", "with a cache, ms", "without, ms", "gain"],
            *(
                [f"{p['length']:,}", f"{p['cached'] * 1e3:.2f}", f"{p['whole'] * 1e3:.1f}"]
                + [f"{p['whole'] / p['cached']:.0f} ×"]
                for p in points
            ),
        ],
    )


CLAIMS = {"cache-curve": claim}
TRIED = ""


if __name__ == "__main__":
    main()
