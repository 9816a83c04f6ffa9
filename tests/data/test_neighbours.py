"""Words and the words around them, as a pure function of (data, seed, step)."""

from collections import Counter

import numpy as np
import pytest
import torch

from idiolect.data.neighbours import Neighbours

DOCUMENTS = ["abcde", "f", "ghi", "abab"]
UNKNOWN = ord("e") + 2


@pytest.fixture
def stage(encode):
    """Places of the documents; a letter's id is its code + 2, and e stands for what the tokenizer does not know."""

    def make(documents=DOCUMENTS, **changes):
        shards = encode(documents)
        counts = shards.counts()
        counts[UNKNOWN] = 0
        plain = {"inward": True, "window": 2, "dynamic": False, "subsample": 0.0, "negatives": 0, "places": 13}
        return Neighbours(shards, **{**plain, "micro_batches": 1, "seed": 3, "counts": counts, "pad_id": 1, **changes})

    return make


def letters(ids):
    return "".join(chr(id_ - 2) for id_ in ids)


def rows(batch):
    """(what is read, the label) of each row, padding checked and left out."""
    out = []
    for ids, length, label in zip(batch.ids.tolist(), batch.lengths.tolist(), batch.labels.tolist()):
        assert all(id_ == 1 for id_ in ids[length:])
        out.append((letters(ids[:length]), letters([label])))
    return out


def test_cbow_reads_the_words_around_each_place_in_its_document(stage):
    found = rows(stage()(0)[0])
    assert sorted(found) == sorted(
        [
            *[("bc", "a"), ("acd", "b"), ("abd", "c"), ("bc", "d")],  # e is unknown, f has nothing around it
            *[("hi", "g"), ("gi", "h"), ("gh", "i")],
            *[("ba", "a"), ("aab", "b"), ("abb", "a"), ("ba", "b")],
        ]
    )
    assert found != sorted(found)


def test_skip_gram_reads_the_word_there_and_predicts_each_around_it(stage):
    inward, outward = stage()(0)[0], stage(inward=False)(0)[0]
    assert outward.ids.shape == (len(outward.labels), 1) and outward.count == len(outward.labels)
    assert sorted(rows(outward)) == sorted((label, word) for words, label in rows(inward) for word in words)


def test_every_epoch_visits_every_place_once_in_an_order_of_its_own(stage):
    epochs = [[row for step in range(e * 13, (e + 1) * 13) for row in rows(stage(places=1)(step)[0])] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(rows(stage()(0)[0]))
    assert epochs[0] != epochs[1]


def test_a_step_is_the_same_whoever_asks_and_however_it_is_cut(stage):
    drawn = {"subsample": 0.05, "dynamic": True, "negatives": 3, "places": 11}
    for step in (0, 5):
        (whole,) = stage(**drawn)(step)
        parts = stage(**drawn, micro_batches=4)(step)
        assert len(parts) == 4
        for name in ("ids", "labels", "lengths", "negatives"):
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(joined, getattr(whole, name)) and torch.equal(
                joined, getattr(stage(**drawn)(step)[0], name)
            )
    assert not torch.equal(stage(**drawn)(0)[0].negatives, stage(**drawn, seed=4)(0)[0].negatives)


def test_a_dynamic_window_reaches_as_far_as_it_is_drawn(stage):
    text = "".join(chr(97 + i % 4) for i in range(400))
    batch = stage([text], dynamic=True, window=3, places=400)(0)[0]
    inner = Counter(length for (words, _), length in zip(rows(batch), batch.lengths.tolist()))
    assert set(inner) <= {1, 2, 3, 4, 5, 6}
    for length in (2, 4, 6):  # windows of 1, 2 and 3 are as likely; 400 draws, deviation 9.4
        assert abs(inner[length] - 400 / 3) < 40


def test_frequent_words_are_left_out_with_the_probability_of_the_paper(stage):
    """Equation 5: a word of share f stays with probability √(t / f), as a label and around others."""
    text = ("a" * 9 + "b") * 500
    batch = stage([text], subsample=0.225, window=1, places=5000)(0)[0]
    kept = {"a": (0.225 / 0.9) ** 0.5, "b": 1.0}  # a stays half of the time
    assert stage([text], subsample=0.225).kept[[99, 100]] == pytest.approx(list(kept.values()))
    labels = Counter(label for _, label in rows(batch))
    # next to b are two a's; b is a row unless both are left out
    assert labels["b"] == pytest.approx(500 * (1 - 0.25), abs=4 * (500 * 0.75 * 0.25) ** 0.5)
    around = Counter(words for words, label in rows(batch) if label == "b")
    assert around["a"] / around["aa"] == pytest.approx(2, abs=0.6)


def test_negative_words_are_drawn_by_their_count_to_the_three_quarters(stage):
    text = "a" * 81 + "b" * 16 + "c" + "e" * 50  # to the 3/4: 27, 8, 1; e is unknown
    batch = stage([text], negatives=41, window=1, places=148)(0)[0]
    found = Counter(letters(batch.negatives.flatten().tolist()))
    total = sum(found.values())
    assert total == 41 * batch.count and set(found) == {"a", "b", "c"}
    for letter, weight in (("a", 27), ("b", 8), ("c", 1)):
        expected = total * weight / 36
        assert abs(found[letter] - expected) < 5 * expected**0.5


def test_documents_in_several_parts_are_read_as_one(stage, small_parts):
    text = "".join(chr(97 + i % 3) for i in range(250))
    whole = stage([(text[:90], text[90:]), "ab"], places=252)(0)[0]
    assert len(whole.labels) == 252
    assert np.bincount(whole.lengths.numpy()).tolist() == [0, 2, 2, 2, 246]
