"""DE6: quality against diversity: each strategy's distribution over the model's own, and what its texts are worth."""

import math

import pytest

from idiolect.decode import picture
from idiolect.decode.explore import distinct, explore, strategies
from idiolect.decode.settings import DecodeSettings
from idiolect.testing import ByteTokenizer, TableModel, TinyModel, WordTokenizer

A, B, C = 2, 3, 4
TOKENIZER = WordTokenizer(["a", "b", "c"])
MODEL = TableModel(5, {(): {A: 0.5, B: 0.25, C: 0.2, 0: 0.05}})
SETTINGS = {
    "greedy": DecodeSettings(temperature=0, max_tokens=4),
    "ancestral": DecodeSettings(max_tokens=4),
    "sharp": DecodeSettings(temperature=0.5, max_tokens=4),
    "nucleus": DecodeSettings(top_p=0.7, max_tokens=4),
    "beams": DecodeSettings(beams=2, max_tokens=4),
}
FOUND = explore(MODEL, TOKENIZER, "a", SETTINGS, samples=5)


def test_DE6_original_and_reshaped_distribution_stand_together():
    def pairs(name):
        return [(c.token, c.original, c.reshaped) for c in FOUND.outcomes[name].next.choices if c.original > 0]

    original = [("a", 0.5), ("b", 0.25), ("c", 0.2), ("", 0.05)]
    squares = [p * p / (0.25 + 0.0625 + 0.04 + 0.0025) for _, p in original]  # temperature 1/2 squares them
    reshaped = {"greedy": [1, 0, 0, 0], "ancestral": [0.5, 0.25, 0.2, 0.05], "sharp": squares}
    reshaped |= {"nucleus": [2 / 3, 1 / 3, 0, 0], "beams": [0.5, 0.25, 0.2, 0.05]}
    for name, expected in reshaped.items():
        assert [(token, pytest.approx(p)) for token, p in original] == [pair[:2] for pair in pairs(name)]
        assert [pair[2] for pair in pairs(name)] == pytest.approx(expected)
    nucleus = FOUND.outcomes["nucleus"].next
    assert nucleus.survivors == 2
    assert nucleus.entropy_original == pytest.approx(0.5 * 1 + 0.25 * 2 + 0.2 * math.log2(5) + 0.05 * math.log2(20))
    assert nucleus.entropy_reshaped == pytest.approx(2 / 3 * math.log2(1.5) + 1 / 3 * math.log2(3))


def test_DE6_what_is_not_listed_is_summed():
    cut = explore(MODEL, TOKENIZER, "a", {"sharp": SETTINGS["nucleus"]}, top=1).outcomes["sharp"].next
    assert [c.token for c in cut.choices] == ["a"]
    assert (cut.rest_original, cut.rest_reshaped) == (pytest.approx(0.5), pytest.approx(1 / 3))


def test_DE6_distinct_n_by_hand():
    texts = [(A, B, A, B), (A, B, C)]
    assert distinct(texts, 1) == 3 / 7
    assert distinct(texts, 2) == 3 / 5  # ab ba ab | ab bc
    assert distinct(texts, 3) == 3 / 3  # aba bab | abc
    assert distinct([(A,)], 2) is None


def test_DE6_every_setting_has_its_distinct_n_and_mean_logprob():
    greedy = FOUND.outcomes["greedy"]
    assert [c.ids for c in greedy.completions] == [(A, A, A, A)]  # it draws nothing: one text says all
    assert greedy.mean_logprob == pytest.approx(math.log(0.5))
    assert greedy.distinct == {1: 1 / 4, 2: 1 / 3, 3: 1 / 2}
    drawn = FOUND.outcomes["ancestral"]
    assert len(drawn.completions) == 5
    logs = {A: math.log(0.5), B: math.log(0.25), C: math.log(0.2), 0: math.log(0.05)}
    ids = [i for c in drawn.completions for i in c.ids]
    assert drawn.mean_logprob == pytest.approx(sum(logs[i] for i in ids) / len(ids))
    assert drawn.distinct[1] == len(set(ids)) / len(ids)


def test_DE6_quality_is_paid_for_with_diversity():
    hot, cold = DecodeSettings(temperature=1.5, max_tokens=30), DecodeSettings(temperature=0.3, max_tokens=30)
    found = explore(TinyModel(seed=1), ByteTokenizer(), "x", {"hot": hot, "cold": cold}, samples=20).outcomes
    assert found["cold"].mean_logprob > found["hot"].mean_logprob
    for n in (1, 2, 3):
        assert found["cold"].distinct[n] < found["hot"].distinct[n]


def test_DE6_lines_overlay_both_distributions_of_every_strategy():
    text = picture.lines(FOUND)
    lines = text.splitlines()
    at = lines.index("── nucleus ──")
    a = next(i for i in range(at, len(lines)) if lines[i].split()[:1] == ["a"])
    # the longest bar is 0.667: 0.5 is 3/4 of it, in light blocks above the dark
    assert lines[a].split()[1:] == ["░" * 18, "0.5"]
    assert lines[a + 1].split() == ["█" * 24, "0.6667"]
    header, *rows = lines[2:8]
    assert [row.split()[0] for row in rows] == list(SETTINGS)
    assert header.split("  ")[0] == "strategy"
    assert all(f"{name} ──" in text for name in SETTINGS)


def test_DE6_the_page_shows_the_same_and_escapes_what_was_written():
    words = WordTokenizer(["<script>", "b", "c"])
    page = picture.page(explore(MODEL, words, "b", {"greedy": SETTINGS["greedy"]})).html()
    assert "&lt;script&gt; &lt;script&gt;" in page
    assert "<script" not in page
    assert page.count("0.25") >= 1 and "distinct-2" in page


def test_DE6_the_strategies_that_ship_run_and_keep_ones_own_beside_them():
    own = DecodeSettings(top_k=3, temperature=0.9, max_tokens=3, seed=4)
    named = strategies(own)
    assert named["yours"] == own
    assert "yours" not in strategies(DecodeSettings(max_tokens=3))
    found = explore(MODEL, TOKENIZER, "a", named, samples=2)
    assert found.outcomes.keys() == named.keys()
    assert {s.max_tokens for s in named.values()} == {3}
