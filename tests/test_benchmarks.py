"""The scaffold of the benchmarks: children in turn, spoilt rounds, ratios, what is kept, the page."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def measure(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("benchmarks.measure")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def sample(measure, value, load=0.0, peak=1000):
    return measure.Sample({"speed": value}, 1.0, peak, load)


def turns(measure, a, b):
    return measure.Turns({"a": [sample(measure, x) for x in a], "b": [sample(measure, x) for x in b]}, 0)


def test_a_child_is_measured_and_its_last_line_returned(measure):
    code = "import json, os; x = bytearray(50_000_000); print('noise'); print(json.dumps({'home': os.environ['HERE']}))"
    found = measure.run([sys.executable, "-c", code], env={"HERE": "yes"})
    assert found.result == {"home": "yes"}
    assert 50_000_000 < found.peak_bytes < 100_000_000  # not what this process holds, which has torch
    assert found.seconds > 0 and found.load >= 0


@pytest.mark.parametrize("code", ["raise SystemExit('sorry')", "print('no object')"])
def test_a_child_that_fails_says_how(measure, code):
    with pytest.raises(measure.Failed, match=r"sorry|no object"):
        measure.run([sys.executable, "-c", code])


def test_a_child_that_never_ends_is_killed(measure):
    with pytest.raises(measure.Failed, match="-9"):
        measure.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)


def test_sides_run_in_turn_and_spoilt_rounds_again(measure):
    order, loads = [], iter([0.0, 0.0, 0.0, 0.7, 0.0, 0.02])

    def side(name):
        def once():
            order.append(name)
            return sample(measure, len(order), next(loads))

        return once

    found = measure.in_turn({"a": side("a"), "b": side("b")}, 2)
    assert order == ["a", "b"] * 3
    assert found.values("a", "speed") == [1, 5] and found.values("b", "speed") == [2, 6]
    assert found.dropped == 1 and found.load == 0.02


def test_where_all_rounds_are_spoilt_the_least_disturbed_count(measure):
    loads = iter([0.9, 0.5, 0.4, 0.8])
    found = measure.in_turn({"a": lambda: sample(measure, 1, next(loads))}, 2)
    assert [s.load for s in found.samples["a"]] == [0.5, 0.4] and found.dropped == 2


def test_the_spread_by_hand(measure):
    assert measure.spread([3, 1, 2]) == measure.Spread(2, 1, 3, 3)
    assert measure.spread(range(20)) == measure.Spread(9.5, 2, 17, 20)


def test_a_ratio_has_to_hold_of_medians_and_in_pairs(measure):
    """Medians 8 and 4: 2 ×. Pairs 8/8, 9/4, 4/2: 2 ×. With the first two swapped, pairs 9/8, 8/4, 4/2: 2 ×."""
    found = measure.compare(
        turns(measure, [8, 9, 4], [8, 4, 2]), "a", "b", name="n", at_least=2, peer_name="b 1, plain", key="speed"
    )
    assert (found.ratio, found.paired, found.reached, found.asked) == (2, 2, True, "≥ 2 × b 1")
    low = measure.compare(
        turns(measure, [8, 9, 4], [8, 9, 2]), "a", "b", name="n", at_least=1.01, peer_name="b", key="speed"
    )
    assert (low.ratio, low.paired, low.reached, low.measured) == (1, 1, False, "1.00 ×")
    fewer = measure.compare(
        turns(measure, [1, 1], [3, 3]), "a", "b", name="n", at_least=2, peer_name="b", key="speed", lower_is_better=True
    )
    assert fewer.ratio == pytest.approx(3) and fewer.reached


def test_what_is_kept_comes_back_and_makes_the_page(measure, monkeypatch):
    page, suite = (importlib.import_module(f"benchmarks.{name}") for name in ("page", "suite"))
    found = measure.compare(
        turns(measure, [8, 9, 4], [4, 4, 4]),
        "a",
        "b",
        name="speed | of a",
        at_least=3,
        peer_name="b 1",
        key="speed",
        unit="tokens/s",
        share=0.25,
        limit="the bound",
        table=[["x", "y"], ["1", "2"]],
    )
    measure.save("batch-curve", [found])
    facts, kept = measure.load("batch-curve")
    assert json.dumps(kept[0].__dict__, default=vars) == json.dumps(found.__dict__, default=vars)
    assert set(page.FACTS) == set(facts) and measure.load("nothing") is None
    text = page.page()
    assert "| speed \\| of a | ≥ 3 × b 1 | 2.00 × | MISSED |" in text
    assert "8 [4–9]" in text and "25% of the bound" in text and "0 of 1 figures are reached" in text
    assert text.count("\n## ") == len(suite.MODULES) + 1


def test_an_absent_peer_is_said_and_fails(measure, monkeypatch, tmp_path, capsys):
    suite = importlib.import_module("benchmarks.suite")
    asked = suite.Suite(tmp_path, None, tmp_path / "venv", 1, tmp_path)

    def claims(suite):
        yield suite.peer("nanoGPT/model.py")

    monkeypatch.setattr(suite, "benchmarks", lambda: {"m": {"one": claims, "two": lambda s: [s.peers_python]}})
    assert suite.run(asked, ["one", "two"]) is False
    assert "not run  one: needs a checkout of nanoGPT" in (out := capsys.readouterr().out)
    assert "not run  two: needs the peers' environment" in out
    assert not measure.RESULTS.exists()


def test_numbers_are_written_from_what_every_check_kept(measure, monkeypatch):
    acceptance = importlib.import_module("benchmarks.acceptance")
    claims = {"a": [measure.Claim("figure of a", "≥ 1", "2", True)], "b": [measure.Claim("of b", "≥ 9", "3", False)]}
    checks = {name: lambda data, scratch, name=name: iter(claims[name]) for name in (*claims, "c")}
    monkeypatch.setattr(acceptance, "checks", lambda: {"spine": checks})
    for name, found in claims.items():
        measure.save(name, found)
    text = acceptance.document()
    assert "| figure of a | ≥ 1 | 2 | reached |" in text and "| of b | ≥ 9 | 3 | MISSED |" in text
    assert "Not measured yet: c." in text


def test_every_check_has_one_name(measure):
    checks = importlib.import_module("benchmarks.acceptance").checks()
    names = [name for named in checks.values() for name in named]
    assert len(set(names)) == len(names) and all(
        callable(check) for named in checks.values() for check in named.values()
    )
