"""DC8: sentences are cut, filled up, looked up and embedded.

The table of ids that the sources print comes out only if the vocabulary is built after cutting to ten words: 56 words
and <PAD>. (Built before, "know" and "play" join it, and every row differs.)
"""

import pytest
import torch
from torch import nn

from idiolect.data.padding import sentences
from idiolect.errors import UserError

TEXTS = [
    "In the hole in the ground there lived a hobbit",
    "It is our choices that show what we truly are",
    "It was the best of times it was the worst of times",
    "Even miracles take a little time",
    "The more that you read the more things you will know",
    "We'll always have each other no matter what happens",
    "The sun did not shine it was too wet to play",
    "The important thing is to never stop questioning",
]
TABLE = [
    [2, 41, 17, 19, 41, 13, 42, 23, 6, 16],
    [3, 20, 32, 10, 40, 36, 53, 51, 49, 8],
    [3, 50, 41, 9, 30, 46, 21, 50, 41, 55],
    [1, 25, 39, 6, 22, 45, 0, 0, 0, 0],
    [4, 26, 40, 56, 34, 41, 26, 44, 56, 54],
    [5, 7, 15, 12, 31, 28, 24, 53, 14, 0],
    [4, 38, 11, 29, 35, 21, 50, 48, 52, 47],
    [4, 18, 43, 20, 47, 27, 37, 33, 0, 0],
]
WORDS = [text.split() for text in TEXTS]
BLOCK = 10


def test_DC8_all_eighty_ids_match():
    batch = sentences(WORDS, BLOCK)
    assert batch.ids.tolist() == TABLE
    assert batch.lengths.tolist() == [10, 10, 10, 6, 10, 9, 10, 8]


def test_DC8_the_vocabulary_has_57_entries_as_printed():
    vocabulary = sentences(WORDS, BLOCK).vocabulary
    assert sorted(vocabulary.values()) == list(range(57))
    printed = {"<PAD>": 0, "Even": 1, "In": 2, "It": 3, "The": 4, "We'll": 5, "a": 6, "always": 7, "are": 8, "best": 9}
    printed |= {"what": 53, "will": 54, "worst": 55, "you": 56}
    assert printed.items() <= vocabulary.items()
    assert "know" not in vocabulary and "play" not in vocabulary


def test_DC8_the_vocabulary_is_built_after_cutting():
    before = sentences(WORDS, max(map(len, WORDS))).vocabulary
    assert len(before) == 59
    assert all(row != TABLE[i] for i, row in enumerate(sentences(WORDS, BLOCK, vocabulary=before).ids.tolist()))


def test_DC8_the_ids_embed():
    batch = sentences(WORDS, BLOCK)
    table = nn.Embedding(len(batch.vocabulary), 7, padding_idx=batch.vocabulary["<PAD>"])
    vectors = table(batch.ids)
    assert table.weight.shape == (57, 7) and vectors.shape == (8, 10, 7)
    assert torch.equal(vectors[3, 6:], torch.zeros(4, 7))
    assert torch.equal(vectors[0, 1], vectors[0, 4])  # "the" and "the"


def test_DC8_padding_has_the_id_that_is_asked_for():
    batch = sentences(WORDS, BLOCK, pad_id=56)
    assert batch.vocabulary["<PAD>"] == 56 and batch.vocabulary["Even"] == 0
    assert batch.ids[3].tolist() == [0, 24, 38, 5, 21, 44, 56, 56, 56, 56]
    again = sentences(WORDS[3:4], BLOCK, vocabulary=batch.vocabulary)
    assert again.ids.tolist() == batch.ids[3:4].tolist()


def test_DC8_what_has_no_id_is_refused():
    with pytest.raises(UserError, match="'hobbit'"):
        sentences(WORDS[:1], BLOCK, vocabulary={"<PAD>": 0} | dict.fromkeys(WORDS[0][:-1], 1))
    with pytest.raises(UserError, match="cannot have the id 58"):
        sentences(WORDS, BLOCK, pad_id=58)
