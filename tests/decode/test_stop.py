"""Where a text ends, however its characters arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect.decode.stop import StopStrings, Writer, longest
from idiolect.testing import ByteTokenizer, WordTokenizer

TOKENIZER = ByteTokenizer()


def written(text, parts, strings):
    stops, shown = StopStrings(strings), []
    for part in parts:
        out, stopped = stops.push(part)
        shown.append(out)
        if stopped:
            return shown, True
    return [*shown, stops.flush()], False


def test_text_is_held_back_only_while_a_stop_string_may_come():
    assert written("", ["ab", "c<", "/", "b>d", "</", "a", ">e"], ["</a>"]) == (
        ["ab", "c", "", "</b>d", "", "", ""],
        True,
    )
    assert written("", ["ab", "<", "/a"], ["</a>"]) == (["ab", "", "", "</a"], False)


def test_overlapping_beginnings():
    assert written("", ["a", "a", "a", "b"], ["aab"]) == (["", "", "a", ""], True)
    assert written("", ["xabc"], ["abc", "bcd"]) == (["x"], True)


@given(st.text("ab.", max_size=12), st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3), st.data())
def test_the_parts_a_text_arrives_in_make_no_difference(text, strings, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    shown, stopped = written(text, parts, strings)
    first = min((text.find(s) + len(s) for s in strings if s in text), default=None)  # the first that is complete
    if first is None:
        assert ("".join(shown), stopped) == (text, False)
    else:
        longest_ = max((s for s in strings if text[:first].endswith(s)), key=len)
        assert ("".join(shown), stopped) == (text[: first - len(longest_)], True)


def push_all(writer, ids):
    return [writer.push(i) for i in ids]


def test_characters_are_whole_and_a_broken_one_shows_at_the_end():
    writer = Writer(TOKENIZER, [], ends={0})
    assert push_all(writer, TOKENIZER.encode("é€")) == [("", None), ("é", None), ("", None), ("", None), ("€", None)]
    assert push_all(writer, [*TOKENIZER.encode("€")[:2], 0]) == [("", None), ("", None), ("\ufffd", "stop")]
    assert writer.text == "é€\ufffd"


def test_a_character_begun_in_the_prompt_is_shown_when_it_is_whole():
    euro = TOKENIZER.encode("€")
    writer = Writer(TOKENIZER, [0, 67, euro[0]])
    assert push_all(writer, euro[1:]) == [("", None), ("€", None)]


def test_a_stop_string_across_tokens_and_a_stop_token_are_not_part_of_the_text():
    writer = Writer(TOKENIZER, [], strings=["stop"])
    assert [reason for _, reason in push_all(writer, TOKENIZER.encode("a stop"))] == [None] * 5 + ["stop"]
    assert writer.text == "a "
    writer = Writer(TOKENIZER, [], ends={TOKENIZER.encode("!")[0]}, strings=["stop"])
    assert push_all(writer, TOKENIZER.encode("st!"))[-1] == ("st", "stop")  # what was held back is text after all


def test_the_text_goes_on_from_the_prompt_with_its_space():
    tokenizer = WordTokenizer(["my", "food"])
    writer = Writer(tokenizer, [0, 2], criteria=[longest(1)])
    assert writer.push(3) == (" food", "length")


@pytest.mark.parametrize(("limit", "reason"), [(2, "length"), (9, "doubled")])
def test_criteria_are_asked_in_order_with_ids_and_text(limit, reason):
    def doubled(ids, text):
        return "doubled" if len(ids) > 1 and ids[-1] == ids[-2] and text.endswith("bb") else None

    writer = Writer(TOKENIZER, [], criteria=[longest(limit), doubled])
    reasons = [r for _, r in push_all(writer, TOKENIZER.encode("abb"))]
    assert next(r for r in reasons if r) == reason
