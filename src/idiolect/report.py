"""One self-contained HTML page (or one SVG picture) from facts, curves, tables and samples of text.

The page holds no script and loads nothing; every text is escaped, so that what a model wrote stays text. It follows
the reader's light or dark preference. Hovering a point of a chart shows its values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Self

from idiolect import files

Points = Sequence[tuple[float, float]]
Axes = tuple[str, str]
"""The names of the rows and of the columns of a heat map."""
Place = Callable[[tuple[float, float]], tuple[float, float]]

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 66, 18, 62, 46
"""Margins of a chart's plot area, in the picture's own units."""
COLOURS = 6
"""Series colours in the style; a seventh series starts over with a dashed line."""
DRAWN = 400
"""Most points drawn a series: of a longer one, the lowest and highest of each stretch are kept."""
HOVERED = 100
"""Most points a series that answer to the pointer."""

LIGHT = (
    "--paper:#fdfdfb;--ink:#1c1d21;--soft:#5d6069;--line:#dfdfda;--panel:#f4f4f0;"
    "--s0:#1b66b1;--s1:#c8402f;--s2:#26805a;--s3:#8250b0;--s4:#a86400;--s5:#0f7f8f;"
)
DARK = (
    "--paper:#15171b;--ink:#e9e9e5;--soft:#a3a6ae;--line:#363a42;--panel:#1e2126;"
    "--s0:#6cb0f0;--s1:#f58573;--s2:#63c79a;--s3:#c39bea;--s4:#e5ab4e;--s5:#5cc7d6;"
)
VARIABLES = f":root{{color-scheme:light dark;{LIGHT}}}@media(prefers-color-scheme:dark){{:root{{{DARK}}}}}"
CHART_STYLE = (
    "svg{font:12px system-ui,sans-serif;display:block;max-width:100%;height:auto}"
    "svg text{fill:var(--soft)}svg .name{fill:var(--ink);font-size:15px;font-weight:600}"
    "svg .key{fill:var(--ink)}svg .grid{stroke:var(--line)}svg .axis{stroke:var(--soft)}"
    "svg .curve{fill:none;stroke-width:1.8;stroke-linejoin:round}svg .stroke{stroke-width:4}svg .value{font-size:10px}"
    "svg .spot{fill:transparent;stroke:none}svg .spot:hover{fill:var(--ink)}svg .end{text-anchor:end}"
    "svg .middle{text-anchor:middle}svg .cell:hover{stroke:var(--ink);stroke-width:1.5}"
    + "".join(f".s{i}{{stroke:var(--s{i})}}.f{i}{{fill:var(--s{i})}}" for i in range(COLOURS))
)
PAGE_STYLE = (
    "body{margin:0 auto;max-width:760px;padding:2.5rem 1.25rem 4rem;background:var(--paper);color:var(--ink);"
    "font:16px/1.55 system-ui,sans-serif}h1{font-size:1.7rem;line-height:1.25;margin:0 0 1.5rem}"
    "h2{font-size:1.1rem;margin:2.2rem 0 .6rem}figure{margin:2.2rem 0}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}"
    "th,td{padding:.35rem .9rem .35rem 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}"
    "th{color:var(--soft);font-weight:500}.number{text-align:right}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.5rem;margin:0}dt{color:var(--soft)}"
    "dd{margin:0;overflow-wrap:anywhere}"
    "pre{background:var(--panel);padding:.9rem 1.1rem;border-radius:6px;white-space:pre-wrap;overflow-wrap:anywhere;"
    "font:13px/1.5 ui-monospace,monospace;margin:0;unicode-bidi:isolate}"
    "mark{background:none;color:var(--s2);font-weight:600}"
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Report:
    """A page built from the top down; each method adds one part and returns the report."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []

    def facts(self, facts: Mapping[str, Any], title: str = "") -> Self:
        """Names and values, one a line."""
        lines = "".join(f"<dt>{_safe(name)}</dt><dd>{_safe(shown(value))}</dd>" for name, value in facts.items())
        return self._add(title, f"<dl>{lines}</dl>")

    def chart(self, title: str, series: Mapping[str, Points], x: str, y: str, log: bool = False) -> Self:
        """A line chart; see `svg_chart`."""
        return self._add("", f"<figure>{svg_chart(title, series, x, y, log)}</figure>")

    def bars(self, title: str, labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> Self:
        """A bar chart; see `svg_bars`."""
        return self._add("", f"<figure>{svg_bars(title, labels, series)}</figure>")

    def heat(
        self, title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], axes: Axes
    ) -> Self:
        """A heat map; see `svg_heat`."""
        return self._add("", f'<figure class="scroll">{svg_heat(title, rows, columns, values, axes)}</figure>')

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> Self:
        """A table; columns whose cells are all numbers or missing are set to the right, a missing cell is a dash."""
        body = [list(row) for row in rows]
        right = [all(isinstance(row[i], int | float | None) for row in body) and bool(body) for i in range(len(header))]
        head = "".join(_cell("th", name, right[i]) for i, name in enumerate(header))
        lines = ["".join(_cell("td", shown(value), right[i]) for i, value in enumerate(row)) for row in body]
        inner = f"<thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody>"
        return self._add(title, f'<div class="scroll"><table>{inner}</table></div>')

    def text(self, title: str, text: str) -> Self:
        """A text as it is, line breaks kept."""
        return self._add(title, f'<pre dir="auto">{_safe(text)}</pre>')

    def marked(self, title: str, stretches: Iterable[tuple[str, bool]]) -> Self:
        """A text some stretches of which are marked."""
        parts = [f"<mark>{_safe(text)}</mark>" if marked else _safe(text) for text, marked in stretches]
        return self._add(title, f'<pre dir="auto">{"".join(parts)}</pre>')

    def html(self) -> str:
        """The page."""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{_safe(self.title)}</title><style>{VARIABLES}{PAGE_STYLE}{CHART_STYLE}</style></head>\n"
            f"<body><h1>{_safe(self.title)}</h1>\n" + "\n".join(self._parts) + "\n</body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Writes the page, atomically. Raises UserError (exit 4) when the disk refuses."""
        files.write_text(path, self.html())

    def _add(self, title: str, part: str) -> Self:
        self._parts.append((f"<h2>{_safe(title)}</h2>" if title else "") + part)
        return self


def svg_chart(
    title: str, series: Mapping[str, Points], x: str, y: str, log: bool = False, standalone: bool = False
) -> str:
    """A line chart as SVG: one curve a series of (x, y) points, in the order given.

    `log` makes the y axis logarithmic. Points that are not finite (or not above 0 on a logarithmic axis) break the
    curve. `standalone` gives the picture a background and its own style, for a file of its own.
    """
    finite = {name: [p if _drawable(*p, log) else None for p in points] for name, points in series.items()}
    every = [p for points in finite.values() for p in points if p is not None]
    if not every:
        return _svg(title, HEIGHT, f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" class="middle">no data</text>', standalone)
    first, last = min(p[0] for p in every), max(p[0] for p in every)
    low, high = min(p[1] for p in every), max(p[1] for p in every)
    xs, ys = _ticks(first, last), _log_ticks(low, high) if log else _ticks(low, high)
    across = _scale(first, last, LEFT, WIDTH - RIGHT)
    up = _scale(math.log10(low) if log else low, math.log10(high) if log else high, HEIGHT - BOTTOM, TOP)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return across(point[0]), up(math.log10(point[1]) if log else point[1])

    legend, extra = _legend(list(finite))
    curves = "".join(_curve(name, i, points, place) for i, (name, points) in enumerate(finite.items()))
    plot = f'<g transform="translate(0 {extra})">{_axes(xs, ys, place, x, y)}{curves}</g>'
    return _svg(title, HEIGHT + extra, legend + plot, standalone)


def svg_bars(title: str, labels: Sequence[str], series: Mapping[str, Sequence[float]], standalone: bool = False) -> str:
    """Horizontal bars as SVG: one row a label, in it one bar a series, so that before and after stand together.

    Values are not negative; labels may be any text (they are shown with their white space made visible).
    """
    bar, gap = 11, 9
    row = bar * len(series) + gap
    names = [visible(label) for label in labels]
    left = min(220, 20 + max((_text_width(name) for name in names), default=0))
    most = max((value for values in series.values() for value in values), default=0.0) or 1.0
    scale = _scale(0, most, left, WIDTH - RIGHT - 60)
    legend, extra = _legend(list(series))
    parts = [legend]
    for j, name in enumerate(names):
        top = TOP + extra + j * row
        middle = top + bar * len(series) / 2 + 4
        parts.append(f'<text x="{left - 8:.1f}" y="{middle:.1f}" class="end key">{_safe(_shortened(name))}</text>')
        for i, values in enumerate(series.values()):
            y, end = top + i * bar, scale(values[j])
            parts.append(
                f'<rect x="{left:.1f}" y="{y:.1f}" width="{max(end - left, 0):.1f}" height="{bar - 2}" rx="1.5" '
                f'class="f{i % COLOURS}"/>'
                f'<text x="{end + 6:.1f}" y="{y + 8:.1f}" class="value">{shown(values[j])}</text>'
            )
    return _svg(title, TOP + extra + len(names) * row + 4, "".join(parts), standalone)


def svg_heat(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    axes: Axes,
    standalone: bool = False,
) -> str:
    """A heat map as SVG: a square for each of rows x columns, the darker the nearer its value is to 1, from 0.

    Both axes have their labels, tokens with their white space made visible; hovering a square shows all three.
    """
    down, across = [_shortened(visible(row), 20) for row in rows], [_shortened(visible(c), 20) for c in columns]
    left = 24 + max(map(_text_width, down), default=0)
    top = 52 + 0.87 * max(map(_text_width, across), default=0)  # the sine of 60 degrees
    side = min(30.0, max(14.0, (WIDTH - left - RIGHT) / max(1, len(columns))))
    width, height = left + side * len(columns) + 60, top + side * len(rows) + 8
    parts = [f'<text x="0" y="34">{_safe(axes[0])} ↓</text><text x="{left:.0f}" y="34">{_safe(axes[1])} →</text>']
    for i, name in enumerate(down):
        parts.append(
            f'<text x="{left - 7:.1f}" y="{top + (i + 0.5) * side + 4:.1f}" class="end key">{_safe(name)}</text>'
        )
    for j, name in enumerate(across):
        at = f"{left + (j + 0.5) * side + 4:.1f} {top - 7:.1f}"
        parts.append(f'<text transform="translate({at}) rotate(-60)" class="key">{_safe(name)}</text>')
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            words = _safe(f"{visible(rows[i])} reads {visible(columns[j])}: {value:.3f}")
            parts.append(
                f'<rect x="{left + j * side:.1f}" y="{top + i * side:.1f}" width="{side - 1:.1f}" '
                f'height="{side - 1:.1f}" class="f0 cell" fill-opacity="{0.04 + 0.96 * value:.3f}">'
                f"<title>{words}</title></rect>"
            )
    return _svg(title, height, "".join(parts), standalone, max(width, WIDTH))


def shown(value: Any) -> str:
    """A value as people read it: four significant digits of a fraction, thousands apart, a dash when missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return str(value)


def visible(text: str) -> str:
    """`text` with a space, a new line and a tab made visible (␣ ↵ ⇥), as the label of a token."""
    return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥") or "∅"


def _safe(text: str) -> str:
    """Escaped for HTML; characters no page may hold (controls, lone surrogates) become U+FFFD."""
    return escape(re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text))


def _cell(tag: str, text: str, right: bool) -> str:
    return f"<{tag}{' class=number' if right else ''}>{_safe(text)}</{tag}>"


def _svg(title: str, height: float, inner: str, standalone: bool, width: float = WIDTH) -> str:
    view, ground = f"0 0 {width:.0f} {height:.0f}", ""
    if standalone:
        view = f"-16 -12 {width + 32:.0f} {height + 24:.0f}"
        back = '<rect x="-16" y="-12" width="100%" height="100%" style="fill:var(--paper)"/>'
        ground = f"<style>{VARIABLES}{CHART_STYLE}</style>{back}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" role="img" aria-label="{_safe(title)}">{ground}'
        f'<text x="0" y="16" class="name">{_safe(title)}</text>{inner}</svg>\n'
    )


def _drawable(x: float, y: float, log: bool) -> bool:
    return math.isfinite(x) and math.isfinite(y) and (y > 0 or not log)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The linear map of [low, high] onto [start, end]; a single value goes to the middle."""
    if high <= low:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high]; for one value, that value."""
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / about))
    step = next(m * power for m in (1, 2, 5, 10) if (high - low) / (m * power) <= about)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) if step < 1 else i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], with 2 and 5 times them where they are few; at least one."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 3 else (1,)
    marks = [m * 10.0**e for e in exponents for m in factors]
    return [mark for mark in marks if low <= mark * (1 + 1e-9) and mark <= high * (1 + 1e-9)] or [low]


def _axes(xs: Sequence[float], ys: Sequence[float], place: Place, x: str, y: str) -> str:
    """Grid lines, tick labels and axis names."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in ys:
        at = place((xs[0], value))[1]
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" class="end">{_mark(value)}</text>')
    for value in xs:
        at = place((value, ys[0]))[0]
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}" class="axis"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" class="middle">{_mark(value)}</text>')
    parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" class="axis"/>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" class="middle">{_safe(x)}</text>')
    parts.append(
        f'<text x="14" y="{(TOP + bottom) / 2}" transform="rotate(-90 14 {(TOP + bottom) / 2})" '
        f'class="middle">{_safe(y)}</text>'
    )
    return "".join(parts)


def _curve(name: str, i: int, points: Sequence[tuple[float, float] | None], place: Place) -> str:
    """One series: its line, a mark on each point when they are few, and spots that answer to the pointer."""
    kept = _thinned(points)
    path, pen = [], "M"
    for point in kept:
        if point is None:
            pen = "M"
            continue
        path.append("{}{:.1f} {:.1f}".format(pen, *place(point)))
        pen = "L"
    parts = [f'<path d="{"".join(path)}" class="curve s{i % COLOURS}"{_dash(i)}/>']
    real = [point for point in kept if point is not None]
    if len(real) <= 30:
        parts += ['<circle cx="{:.1f}" cy="{:.1f}" r="2.6" class="f{}"/>'.format(*place(p), i % COLOURS) for p in real]
    for point in real[:: max(1, len(real) // HOVERED)]:
        words = f"{_safe(name)}: {shown(point[1])} at {shown(point[0])}"
        parts.append('<circle cx="{:.1f}" cy="{:.1f}" r="5" class="spot">'.format(*place(point)))
        parts.append(f"<title>{words}</title></circle>")
    return "".join(parts)


def _thinned(points: Sequence[tuple[float, float] | None]) -> list[tuple[float, float] | None]:
    """At most about DRAWN points, breaks kept: the lowest and the highest of each stretch, so no spike is lost."""
    if len(points) <= DRAWN:
        return list(points)
    stretch = -(-2 * len(points) // DRAWN)
    out: list[tuple[float, float] | None] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        real = [(point[1], i) for i, point in enumerate(part) if point is not None]
        keep = {min(real)[1], max(real)[1]} if real else set()
        out += [point for i, point in enumerate(part) if point is None or i in keep]
    return [*out, points[-1]]


def _legend(names: Sequence[str]) -> tuple[str, float]:
    """The names of the series under the title with their strokes, and how much taller the picture is for them."""
    parts, x, y = [], 0.0, 34.0
    for i, name in enumerate(names):
        short = _shortened(name)
        if x and x + 20 + _text_width(short) > WIDTH:
            x, y = 0.0, y + 18
        parts.append(
            f'<line x1="{x:.1f}" x2="{x + 14:.1f}" y1="{y}" y2="{y}" class="stroke s{i % COLOURS}"{_dash(i)}/>'
        )
        parts.append(f'<text x="{x + 20:.1f}" y="{y + 4}" class="key">{_safe(short)}</text>')
        x += 20 + _text_width(short) + 18
    return "".join(parts), y - 34


def _dash(i: int) -> str:
    return ' stroke-dasharray="6 3"' if (i // COLOURS) % 2 else ""


def _text_width(text: str) -> float:
    """About how wide `text` is at 12 px; wide characters (CJK) count double."""
    return sum(13.0 if ord(character) > 0x2E80 else 7.0 for character in text)


def _shortened(text: str, longest: int = 28) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _mark(value: float) -> str:
    """The label of a tick: 20,000 but 2e-05."""
    return f"{value:,.10g}" if value == 0 or 1e-4 <= abs(value) < 1e7 else f"{value:.3g}"
