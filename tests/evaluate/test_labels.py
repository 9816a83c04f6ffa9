"""Figures of labels, against values counted by hand."""

import pytest

from idiolect.evaluate.labels import accuracy, entities, entity_f1, macro_f1


def test_accuracy_is_the_share_that_is_right():
    assert accuracy(["a", "b", "b", "c"], ["a", "b", "c", "c"]) == 0.75


def test_macro_f1_counts_every_label_the_same():
    # a: 1 right of 2 true and 1 guessed, 2/3; b: 1 of 1 and 2, 2/3; c: 0 of 1 and 1
    assert macro_f1(["a", "a", "b", "c"], ["a", "b", "b", "d"]) == pytest.approx((2 / 3 + 2 / 3 + 0 + 0) / 4)
    assert macro_f1(["a", "b"], ["a", "b"]) == 1


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-per I-per O", {(1, 3, "per")}),
        ("B-per B-per", {(0, 1, "per"), (1, 2, "per")}),
        ("B-per I-loc", {(0, 1, "per"), (1, 2, "loc")}),
        ("I-per I-per O", {(0, 2, "per")}),
        ("O I-loc B-loc", {(1, 2, "loc"), (2, 3, "loc")}),
        ("B-creative-work I-creative-work", {(0, 2, "creative-work")}),
        ("O B I noun", set()),
        ("", set()),
    ],
)
def test_entities_are_what_b_begins_and_i_goes_on_with(tags, expected):
    assert entities(tags.split()) == expected


def test_an_entity_is_right_only_as_a_whole():
    truth = [["B-per", "I-per", "O", "B-loc"], ["O", "O", "B-loc"]]
    guess = [["B-per", "O", "O", "B-loc"], ["B-per", "O", "B-loc"]]
    # 3 are there, 4 found, 2 of them right
    assert entity_f1(truth, guess) == {"precision": 2 / 4, "recall": 2 / 3, "f1": pytest.approx(4 / 7)}


def test_without_entities_nothing_is_divided_by_zero():
    assert entity_f1([["O"]], [["O"]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert entity_f1([["O"]], [["B-x"]])["f1"] == 0.0
    assert entity_f1([["B-x"]], [["O"]])["f1"] == 0.0
