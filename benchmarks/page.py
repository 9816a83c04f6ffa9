"""docs/performance.md from benchmarks/results: `python -m benchmarks.page`."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from benchmarks import measure, suite
from benchmarks.measure import Claim, Spread

PAGE = measure.ROOT / "docs" / "performance.md"
FACTS = ("machine", "system", "python", "torch", "idiolect", "date")
"""Of `measure.machine`, in the order they are shown."""


def page() -> str:
    """The whole page: how it was measured, the figures by heading, what fell short with what was tried."""
    kept = {module: [(name, measure.load(name)) for name in claims] for module, claims in suite.benchmarks().items()}
    found = {name: one for results in kept.values() for name, one in results if one}
    claims = [claim for _, claims in found.values() for claim in claims]
    reached = sum(claim.reached for claim in claims)
    parts = [INTRODUCTION, f"**{reached} of {len(claims)} figures are reached.**", machines(found)]
    for module, results in kept.items():
        here = [claim for _, one in results if one for claim in one[1]]
        parts += [f"## {suite.MODULES[module]}", *section(here)]
        parts += [f"Not measured yet: {name}." for name, one in results if not one]
        if tried := importlib.import_module(f"benchmarks.{module}").TRIED.strip():
            parts += ["### What was tried", tried]
    missing = [name for results in kept.values() for name, one in results if not one]
    parts += ["## What fell short", *_short(claims, missing)]
    return "\n\n".join(part for part in parts if part) + "\n"


INTRODUCTION = """\
# Performance

Written by `make bench`: every figure is from a run of this suite, and nothing here is copied by hand. Peer and Idiolect
run in turn (A B A B …), each in a process of its own. A figure is the median over the rounds with the 10th and 90th
percentile in brackets; a ratio is the lesser of the ratio of medians and the median of the rounds' own ratios, and
above 1 is better. The limit is what this machine does at most, measured in the same run (`idiolect bench` prints it).
Rounds in which other programs kept more than a tenth of a core busy are repeated; "load" is the most that was left.

To run it: `make bench DATA=… PEERS=…`; [benchmarks/suite.py](../benchmarks/suite.py) says what lies in both folders."""


def machines(found: Mapping[str, tuple[dict[str, str], Sequence[Claim]]]) -> str:
    """The conditions under which the results arose; where they differ, of which."""
    names: dict[str, list[str]] = {}
    for name, (facts, _) in found.items():
        line = ", ".join([facts["machine"], *(f"{fact} {facts[fact]}" for fact in FACTS[1:])])
        names.setdefault(line, []).append(name)
    return "\n".join(f"- {line}" + (f": {', '.join(of)}" if len(names) > 1 else "") for line, of in names.items())


def section(claims: Sequence[Claim]) -> Iterator[str]:
    if claims:
        yield table(["figure", "asked", "measured", ""], map(_verdict, claims))
    if compared := [claim for claim in claims if claim.ours]:
        yield table(["", "Idiolect", "peer", "unit", "of the limit", "peak memory", "load"], map(_figures, compared))
    for claim in claims:
        if claim.table:
            yield f"**{claim.name}**"
            yield table(claim.table[0], claim.table[1:])
    if notes := [f"- {claim.name}: {claim.note}" for claim in claims if claim.note]:
        yield "\n".join(notes)


def _verdict(claim: Claim) -> list[str]:
    return [claim.name, claim.asked, claim.measured, "reached" if claim.reached else "MISSED"]


def _figures(claim: Claim) -> list[str]:
    peer = f"{_spread(claim.peer)} ({claim.peer_name})" if claim.peer else claim.peer_name or "–"
    share = "–" if claim.share is None else f"{claim.share:.0%} of {claim.limit}"
    memory = _bytes(claim.peak_bytes) + (f" / {_bytes(claim.peer_peak_bytes)}" if claim.peer_peak_bytes else "")
    load = "–" if claim.load is None else f"{claim.load:.2f}" + (f", {claim.dropped} dropped" if claim.dropped else "")
    return [claim.name, _spread(claim.ours), peer, claim.unit, share, memory, load]


def _spread(figure: Spread | None) -> str:
    if figure is None:
        return "–"
    return f"{number(figure.median)} [{number(figure.low)}–{number(figure.high)}]"


def number(value: float) -> str:
    """Three digits, more where they are whole: 0.0123, 1.23, 12.3, 123, 12,345."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _bytes(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e9:.2f} GB"


def _short(claims: Sequence[Claim], missing: Sequence[str]) -> Iterator[str]:
    """What was missed, and what nobody knows yet."""
    if missed := [c for c in claims if not c.reached]:
        yield "\n".join(f"- {c.name}: asked {c.asked}, measured {c.measured}." for c in missed)
    if missing:
        yield f"Not measured yet, so neither reached nor missed: {', '.join(missing)}."
    if not missed and not missing:
        yield "Nothing."


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
