"""The report of a curation: as values, and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from idiolect.report import Report
from idiolect.text.curation.sift import steps
from idiolect.text.curation.tally import CLEANLY, Tally
from idiolect.text.filtering.slices import rates
from idiolect.text.settings import CurateSettings

FIGURES = ("documents_in", "documents_out", "bytes_in", "bytes_out", "dropped", "redacted")
"""What a curation prints."""
SLICE = ("", "documents", "flagged", "share", "between", "")
EXAMPLES_SHOWN = 2
SHOWN = 25
"""Rows of a table of sources, sites or slices on the page; all of them are in the JSON."""


def report(tally: Tally, settings: CurateSettings, **about: Any) -> dict[str, Any]:
    """Everything that was counted, as plain values, after what else is known; no clock is in it."""
    funnel = [{"step": step, **size._asdict()} for step, size in tally.funnel(steps(settings))]
    return {
        **about,
        "documents_in": tally.read.documents,
        "documents_out": tally.out.documents,
        "bytes_in": tally.read.bytes,
        "bytes_out": tally.out.bytes,
        "tokens_in": tally.normalised.tokens,
        "tokens_out": tally.out.tokens,
        "dropped": tally.reasons(),
        "redacted": dict(sorted(tally.redacted.items())),
        "lines_removed": tally.lines,
        "funnel": funnel,
        "dropped_by": [
            {"step": step, "reason": reason, **size._asdict()}
            for step in steps(settings)
            for reason, size in sorted(tally.dropped.get(step, {}).items())
        ],
        "slices": {step: {c: rates(v) for c, v in columns.items()} for step, columns in tally.slices.items()},
        "examples": {
            reason: [{"id": one.id, "value": one.value, "text": one.text} for one in shown]
            for reason, shown in tally.examples.items()
        },
        "kept": {
            column: [{"value": value, **size._asdict()} for value, size in sorted(values.items(), key=_largest)]
            for column, values in tally.kept.items()
        },
    }


def _largest(item: tuple[str, Any]) -> tuple[int, str]:
    return -item[1].bytes, item[0]


def page(found: Mapping[str, Any]) -> Report:
    """The page."""
    made = Report("What would be dropped" if found["dry_run"] else "From the heap to the corpus")
    share = found["documents_out"] / found["documents_in"] if found["documents_in"] else 0.0
    made.facts(
        {
            "documents": f"{found['documents_in']:,} read, {found['documents_out']:,} kept ({share:.1%})",
            "bytes": f"{found['bytes_in']:,} read, {found['bytes_out']:,} kept",
            found["tokens_are"]: f"{found['tokens_in']:,} read, {found['tokens_out']:,} kept",
            "files that are no text": found["files_left_out"],
            "lines taken out of documents": found["lines_removed"],
            "places redacted": sum(found["redacted"].values()),
        }
    )
    funnel, idle = _told(found["funnel"])
    unit = found["tokens_are"]
    made.bars("Documents after each step", [r["step"] for r in funnel], {"documents": [r["documents"] for r in funnel]})
    counted = [[r["step"], r["documents"], r["bytes"], r["tokens"] or None] for r in funnel]  # none as it was read
    made.table(["after", "documents", "bytes", unit], counted)
    if idle:
        made.facts({"asked, and dropped nothing": ", ".join(idle)})
    reasons = [list(row.values()) for row in found["dropped_by"]]
    made.table(["step", "reason", "documents", "bytes", unit], reasons, "What was dropped, and why")
    for name, about in found["learnt"].items():
        made.facts(about, f"What the filter {name} learnt from the heap")
    if found["overlap"]:
        rows = [[name, *about.values()] for name, about in found["overlap"].items()]
        header = ["set", "examples", "too short", "in the heap", "share", "documents that hold one"]
        made.table(header, rows, "Examples of evaluation sets in the heap")
    if found["redacted"]:
        made.table(["kind", "places"], list(found["redacted"].items()), "Personal data replaced by placeholders")
    for step, columns in found["slices"].items():
        for column, values in columns.items():
            title = f"Whom the filter {step} flags, by {column}"
            made.table(SLICE, [_slice(row) for row in values[:SHOWN]], title)
    for reason, shown in found["examples"].items():
        for one in shown[:EXAMPLES_SHOWN]:
            made.text(_headed(reason, one), one["text"] or "(unreadable)")
    for column, values in found["kept"].items():
        title = f"The corpus by {column}" + (f" (the largest {SHOWN} of {len(values)})" if len(values) > SHOWN else "")
        made.table([column, "documents", "bytes", unit], [list(row.values()) for row in values[:SHOWN]], title)
    return made


def _told(funnel: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The steps that dropped something, with the first and the last; and the names of the others."""
    told, idle = [funnel[0]], []
    for row in funnel[1:-1]:
        if row["documents"] != told[-1]["documents"]:
            told.append(row)
        elif row["step"] != CLEANLY:
            idle.append(row["step"])
    return [*told, funnel[-1]], idle


def _slice(row: Mapping[str, Any]) -> list[Any]:
    interval = f"{row['low']:.1%} – {row['high']:.1%}"
    more = "more than the others" if row["stands_out"] else ""
    return [row["value"], row["documents"], row["flagged"], f"{row['rate']:.1%}", interval, more]


def _headed(reason: str, example: Mapping[str, Any]) -> str:
    value = example["value"]
    found = "" if value is None else f" ({value:.4g})" if isinstance(value, float) else f" ({value})"
    return f"{reason}{found}: {example['id']}"
