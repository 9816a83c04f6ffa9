"""Examples before a question."""

import pytest

from idiolect.errors import UserError
from idiolect.prompt.few_shot import LABELS, Form, draw, fitting, prompt, warnings
from idiolect.testing import ByteTokenizer

BYTES = ByteTokenizer()
EXAMPLES = [("ab", "x"), ("cd", "y"), ("ef", "x")]


def test_a_prompt_is_its_examples_with_their_answers_then_the_question():
    found = prompt(Form("{text} -> {label};"), EXAMPLES[:2], "gh", BYTES, 41)
    assert found.before == "ab -> x;\n\ncd -> y;\n\ngh -> " and found.after == ";"
    assert (found.shots, found.tokens, found.left) == (2, 27, 14)  # 26 bytes after one begin-of-text
    assert prompt(LABELS, [], "gh", BYTES, None) == prompt(LABELS, [], "gh", BYTES, None)
    assert prompt(LABELS, [], "gh", BYTES, None).before == "Text: gh\nLabel: "


def test_what_is_given_is_never_read_as_a_place():
    assert Form("{text}: {label}").sides("a {label} b") == ("a {label} b: ", "")
    for wrong in ("{text}", "{label}", "{text} {label} {label}"):
        with pytest.raises(UserError, match="does not have"):
            Form(wrong)


def test_as_many_examples_as_fit_are_shown_and_said():
    form = Form("{text}>{label}")
    whole = fitting(form, EXAMPLES, "gh", BYTES, 100, room=1)
    assert whole.shots == 3 and warnings(3, [whole]) == []
    some = fitting(form, EXAMPLES, "gh", BYTES, 11, room=1)  # 1 + "ab>x\n\n" + "gh>" is 10
    assert some.shots == 1 and some.left == 1
    assert "in 1 of 2 prompts the context has no room for 3 examples" in warnings(3, [whole, some])[0]
    bare = fitting(form, EXAMPLES, "gh", BYTES, 4, room=1)
    assert (bare.shots, bare.tokens, bare.left, bare.fits(1), bare.fits(0)) == (0, 4, 0, False, True)


@pytest.mark.parametrize("shots", range(7))
def test_up_to_six_examples_pass_in_silence_and_seven_point_to_fine_tuning(shots):
    assert warnings(shots, []) == []
    assert "fine-tune instead" in warnings(7, [])[0]


def test_more_examples_begin_with_the_fewer_ones():
    rows = [(str(i), "xy"[i % 2]) for i in range(11)]
    assert draw(rows, 5, 3)[:2] == draw(rows, 2, 3) and draw(rows, 0, 3) == []
    assert len(set(draw(rows, 11, 3))) == 11 and draw(rows, 5, 3) != draw(rows, 5, 4)
    with pytest.raises(UserError, match="there are 11"):
        draw(rows, 12, 0)
