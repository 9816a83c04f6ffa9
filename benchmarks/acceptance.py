"""The figures that need real text: `python -m benchmarks.acceptance --data DIR [--only NAME …] [--page]`.

Each check trains or measures through Idiolect's own commands, prints what was asked and what was measured, and keeps
it in benchmarks/results; docs/numbers.md is written from what is kept (`--page` does nothing else). The exit code is 1
when a figure was missed. A module of MODULES has CHECKS: name → function of (data folder, scratch folder) that yields
`measure.Claim`s; its docstring says what of DIR it needs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import measure, page
from benchmarks.measure import Claim

MODULES = {
    "spine": "The spine",
    "encoders": "Encoders",
    "labels": "Labels and answers",
    "words": "Word vectors",
    "translation": "Translation",
    "instructions": "Instructions",
}
"""Module → the heading of its figures."""
DOCS = measure.ROOT / "docs" / "numbers.md"
INTRODUCTION = """\
# Numbers

Written by `make acceptance DATA=DIR` from what each check found. Speed and memory, beside other people's programs, are
on the page [Performance](performance.md)."""

Check = Callable[[Path, Path], Iterator[Claim]]


def checks() -> dict[str, dict[str, Check]]:
    """Module → name → check."""
    return {module: dict(importlib.import_module(f"benchmarks.{module}").CHECKS) for module in MODULES}


def document() -> str:
    """docs/numbers.md."""
    parts = [INTRODUCTION]
    for module, named in checks().items():
        kept = {name: measure.load(name) for name in named}
        found = {name: one for name, one in kept.items() if one}
        parts += [f"## {MODULES[module]}", page.machines(found)] if found else []
        parts += page.section([claim for _, claims in found.values() for claim in claims])
        if missing := [name for name in named if name not in found]:
            parts.append(f"Not measured yet: {', '.join(missing)}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> int:
    """Runs the checks that are asked for; returns the exit code."""
    named = {name: check for of in checks().values() for name, check in of.items()}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--only", nargs="+", choices=sorted(named), default=list(named))
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    found: list[Claim] = []
    with tempfile.TemporaryDirectory(prefix="acceptance-") as scratch:
        os.environ["IDIOLECT_CACHE"] = f"{scratch}/cache"
        for name in () if arguments.page else arguments.only:
            claims = []
            for claim in named[name](arguments.data.resolve(), Path(scratch)):
                claims.append(claim)
                word = "reached" if claim.reached else "MISSED"
                print(f"{word}  {claim.name}: asked {claim.asked}, measured {claim.measured}", flush=True)
            measure.save(name, claims)
            found += claims
    DOCS.write_text(document(), encoding="utf-8")
    print(f"wrote {DOCS}")
    return 0 if all(claim.reached for claim in found) else 1


if __name__ == "__main__":
    sys.exit(main())
