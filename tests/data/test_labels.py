"""Texts and tagged words as rows of ids, against rows written out by hand."""

import numpy as np
import pytest

from idiolect.data.labels import Frame, encode_words
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

PIECES = [np.array([11, 12, 13]), np.array([21]), np.array([31, 32])]


@pytest.mark.parametrize(
    ("after", "context", "expected"),
    [
        ((), None, [2, 11, 12, 13]),
        ((3,), None, [2, 11, 12, 13, 3]),
        ((3,), 5, [2, 11, 12, 13, 3]),
        ((3,), 4, [2, 11, 12, 3]),
        ((), 3, [2, 11, 12]),
    ],
)
def test_a_text_is_cut_so_that_it_fits_with_what_it_stands_between(after, context, expected):
    assert Frame((2,), after, context).of(PIECES[0]).tolist() == expected


@pytest.mark.parametrize(
    ("context", "last", "ids", "places"),
    [
        (None, False, [2, 11, 12, 13, 21, 31, 32, 3], [1, 4, 5]),
        (None, True, [2, 11, 12, 13, 21, 31, 32, 3], [3, 4, 6]),
        (8, True, [2, 11, 12, 13, 21, 31, 32, 3], [3, 4, 6]),
        (7, False, [2, 11, 12, 13, 21, 3], [1, 4]),  # the third word does not fit whole
        (4, True, [2, 3], []),
    ],
)
def test_a_words_tag_is_read_at_its_first_or_last_token(context, last, ids, places):
    row = Frame((2,), (3,), context).of_words(PIECES, last=last)
    assert (row.ids.tolist(), row.places.tolist()) == (ids, places)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "char", "byte", "word"])
def test_words_have_the_ids_that_they_have_in_a_text(kind):
    texts = ["the cat sat on the mat .", "a mat , on the cat"]
    sentences = [text.split() for text in texts]
    sizes = {"bpe": 263, "wordpiece": 25, "unigram": 263}
    pattern = r"\S+" if kind == "word" else None
    tokenizer = train(texts * 5, TokenizerSettings(kind=kind, size=sizes.get(kind, 300), pattern=pattern))
    for text, pieces in zip(texts, encode_words(sentences, tokenizer), strict=True):
        assert np.concatenate(pieces).tolist() == tokenizer.encode(text)


def test_a_word_of_which_nothing_is_kept_still_has_a_place():
    tokenizer = train(["the cat sat"] * 5, TokenizerSettings(kind="word", pattern="[a-z]+"))
    pieces = encode_words([["the", "...", "cat"]], tokenizer)[0]
    the, cat = (tokenizer.encode(word) for word in ("the", "cat"))
    assert [piece.tolist() for piece in pieces] == [the, [tokenizer.unknown_id], cat]
