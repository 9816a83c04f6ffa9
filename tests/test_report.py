"""The report: escaped, self-contained, well formed, and its charts put points where they belong."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from idiolect.report import Report, shown, svg_bars, svg_chart

SVG = "{http://www.w3.org/2000/svg}"
LEFT, RIGHT, TOP, BOTTOM = 66, 702, 62, 314
"""The plot area of a chart, measured on the rendered picture."""


def marks(svg: str) -> list[tuple[float, float]]:
    """The centres of the marks of an SVG chart."""
    root = ElementTree.fromstring(svg)
    circles = [c for c in root.iter(f"{SVG}circle") if c.get("class") != "spot"]
    return [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in circles]


def test_a_chart_is_linear_in_both_axes():
    assert marks(svg_chart("t", {"a": [(0, 10), (5, 20), (10, 30)]}, "x", "y")) == [
        (LEFT, BOTTOM),
        ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2),
        (RIGHT, TOP),
    ]


def test_a_logarithmic_axis_puts_the_geometric_mean_in_the_middle():
    points = marks(svg_chart("t", {"a": [(0, 1), (1, 10), (2, 100)]}, "x", "y", log=True))
    assert [y for _, y in points] == [BOTTOM, (TOP + BOTTOM) / 2, TOP]


def test_ticks_are_round_numbers_and_hovering_names_the_point():
    svg = svg_chart("t", {"loss": [(0, 1.25), (2000, 4.9)]}, "step", "nats")
    texts = [t.text for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert {"0", "500", "1,000", "1,500", "2,000", "2", "3", "4", "step", "nats", "loss"} <= set(texts)
    assert "<title>loss: 4.9 at 2,000</title>" in svg


def test_values_that_cannot_be_drawn_break_the_curve():
    nan = float("nan")
    svg = svg_chart("t", {"a": [(0, 1), (1, 2), (2, nan), (3, 1), (4, 2)]}, "x", "y")
    path = next(p.get("d", "") for p in ElementTree.fromstring(svg).iter(f"{SVG}path"))
    assert path.count("M") == 2 and len(marks(svg)) == 4
    assert len(marks(svg_chart("t", {"a": [(0, 0), (1, 1), (2, 10)]}, "x", "y", log=True))) == 2
    assert "no data" in svg_chart("t", {"a": [(0, nan)]}, "x", "y")


def test_one_point_and_one_value_are_drawn():
    assert len(marks(svg_chart("t", {"a": [(3, 7)]}, "x", "y"))) == 1
    assert len(marks(svg_chart("t", {"a": [(3, 7), (4, 7)]}, "x", "y", log=True))) == 2


def test_a_long_series_is_thinned_but_keeps_its_spike():
    points = [(float(i), 1.0) for i in range(100_003)]
    points[77_777] = (77_777.0, 9.0)
    svg = svg_chart("t", {"a": points}, "x", "y")
    assert len(svg) < 60_000
    assert re.search(rf"L\d+\.\d {TOP}\.0", svg)


def test_bars_are_as_long_as_their_values():
    root = ElementTree.fromstring(svg_bars("t", [" a", "b"], {"before": [0.2, 0.4], "after": [0.1, 0.0]}))
    widths = [float(r.get("width", "")) for r in root.iter(f"{SVG}rect")]
    assert widths[2] == pytest.approx(2 * widths[0], abs=0.2)
    assert widths[1] == pytest.approx(widths[0] / 2, abs=0.2)
    assert widths[3] == 0
    assert "␣a" in [t.text for t in root.iter(f"{SVG}text")]


def test_everything_a_model_wrote_stays_text(tmp_path):
    evil = "<script>alert('x')</script>\"&\x00\ud800<img src=http://x>"
    report = Report(evil).facts({evil: evil}, evil).chart(evil, {evil: [(0, 1)]}, evil, evil).table([evil], [[evil]])
    report.bars(evil, [evil], {evil: [1.0]}).text(evil, evil).write(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<img" not in page
    assert page.count("&lt;script&gt;") >= 12
    assert not set(page) & {"\x00", "\ud800"}


def test_the_page_is_well_formed_and_loads_nothing():
    page = Report("t").facts({"a": 1}).chart("c", {"s": [(0, 1), (1, 2)]}, "x", "y").text("s", "a\nb").html()
    assert page.startswith("<!doctype html>\n")
    body = page[page.index("<body>") : page.index("</html>")]
    ElementTree.fromstring(body)
    links = set(re.findall(r"https?://[^\"' ]+", page)) - {"http://www.w3.org/2000/svg"}
    assert not links and "url(" not in page and "default-src 'none'" in page
    assert "prefers-color-scheme:dark" in page


def test_a_table_sets_numbers_right_and_shows_what_is_missing():
    page = Report("t").table(["model", "loss"], [["a", 1.23456], ["b", None]], "T").html()
    assert "<td class=number>1.235</td>" in page and "<td class=number>–</td>" in page and "<td>a</td>" in page


def test_values_read_as_people_write_them():
    values = {1234567: "1,234,567", 1.98765: "1.988", 20123.4: "20,123", 1e-5: "1e-05", None: "–", "x": "x"}
    assert {value: shown(value) for value in values} == values
    assert shown(True) == "yes"


def test_report_needs_no_torch():
    code = "import sys, idiolect.report; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
