"""An exploration as lines of text or as a page."""

from __future__ import annotations

from collections.abc import Sequence

from idiolect.decode.explore import Candidate, Distribution, Exploration, Outcome
from idiolect.report import Report, shown, visible

BAR = 24
"""Characters of the longest bar."""


def lines(exploration: Exploration, ranking: Sequence[Candidate] = ()) -> str:
    """Every strategy's text, worth and distribution; the model's own probability is the light bar, below it the
    dark bar is the probability drawn with."""
    parts = [f"prompt: {exploration.prompt!r}", "", _table(exploration)]
    for name, outcome in exploration.outcomes.items():
        parts += ["", f"── {name} ──"]
        parts += [f"{completion.text!r} [{completion.finish_reason}]" for completion in outcome.completions]
        parts += ["", *_bars(outcome.next)]
    if ranking:
        parts += ["", "── candidates ──", *map(_ranked, ranking)]
    return "\n".join(parts)


def page(exploration: Exploration, ranking: Sequence[Candidate] = ()) -> Report:
    """The same as a page: the table, then the overlaid distributions and the texts of each strategy."""
    report = Report("Decoding strategies").text("Prompt", exploration.prompt)
    report.table(HEADER, [_worth(name, outcome) for name, outcome in exploration.outcomes.items()])
    for name, outcome in exploration.outcomes.items():
        rows = _rows(outcome.next)
        values = {"model": [row[1] for row in rows], "drawn": [row[2] for row in rows]}
        report.bars(f"{name}: the next token", [row[0] for row in rows], values)
        for completion in outcome.completions:
            report.text(f"{name} writes ({completion.finish_reason})", completion.text)
    if ranking:
        header = ("candidate", "log-probability", "per token", "tokens", "share")
        rows_ = [(c.text, c.logprob, c.logprob_per_token, len(c.ids), c.share) for c in ranking]
        report.table(header, rows_, "Candidates")
    return report


HEADER = (
    "strategy",
    "mean log-probability",
    "distinct-1",
    "distinct-2",
    "distinct-3",
    "tokens",
    "survivors",
    "bits before",
    "bits after",
)


def _worth(name: str, outcome: Outcome) -> tuple[str | float | None, ...]:
    return (
        name,
        outcome.mean_logprob,
        *outcome.distinct.values(),
        sum(len(completion.ids) for completion in outcome.completions),
        outcome.next.survivors,
        outcome.next.entropy_original,
        outcome.next.entropy_reshaped,
    )


def _table(exploration: Exploration) -> str:
    rows = [HEADER, *([shown(cell) for cell in _worth(*item)] for item in exploration.outcomes.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])  # noqa: B905
        for row in rows
    )


def _rows(distribution: Distribution) -> list[tuple[str, float, float]]:
    """(token, probability under the model, probability drawn with), the rest last if there is any."""
    rows = [(choice.token, choice.original, choice.reshaped) for choice in distribution.choices]
    rest = (distribution.rest_original, distribution.rest_reshaped)
    return [*rows, ("(all others)", *rest)] if any(rest) else rows


def _bars(distribution: Distribution) -> list[str]:
    rows = [(visible(token), original, reshaped) for token, original, reshaped in _rows(distribution)]
    width = max(len(token) for token, _, _ in rows)
    most = max(max(original, reshaped) for _, original, reshaped in rows)
    out = []
    for token, original, reshaped in rows:
        out.append(f"{token.rjust(width)} {_bar('░', original / most)} {shown(original)}")
        out.append(f"{' ' * width} {_bar('█', reshaped / most)} {shown(reshaped)}")
    return out


def _bar(block: str, share: float) -> str:
    return (block * max(1 if share > 0 else 0, round(share * BAR))).ljust(BAR)


def _ranked(candidate: Candidate) -> str:
    return (
        f"{_bar('█', candidate.share)} {shown(candidate.share)}  {candidate.text!r}  log-probability "
        f"{shown(candidate.logprob)}, {shown(candidate.logprob_per_token)} a token"
    )
