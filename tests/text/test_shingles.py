"""Words and their sequences as hashes: what is equal in the text is equal here, and nothing else."""

import re
import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from idiolect.text.duplicates import shingles
from idiolect.text.duplicates.shingles import BATCH

TEXTS = [
    "Hello, world! hello WORLD (don't)",
    "",
    "... ?!",
    "one_two three-four 5.6",
    "a b c d e f g a b c d e",
]


def words_of(text):
    """The words of a text without scripts that have no spaces."""
    return re.findall(r"[^\W_]+", text.lower())


def grouped(texts, words):
    hashes, counts = shingles.shingles(texts, words)
    return [list(part) for part in np.split(hashes, np.cumsum(counts)[:-1])]


def same_pattern(ours, theirs):
    """Whether two lists have equal elements at the same places."""
    names = {}
    paired = len(ours) == len(theirs) and all(names.setdefault(b, a) == a for a, b in zip(ours, theirs))
    return paired and len(set(ours)) == len(set(theirs))


def test_words_are_runs_of_letters_and_digits():
    hashes, counts = shingles.word_hashes(TEXTS)
    assert counts.tolist() == [6, 0, 0, 6, 12]
    assert same_pattern(hashes.tolist(), [word for text in TEXTS for word in words_of(text)])


def test_characters_of_scripts_without_spaces_are_words():
    assert shingles.word_hashes(["日本語 abc ไทย", "한국어 हिन्दी e\u0301te"])[1].tolist() == [3 + 1 + 3, 3]


@given(st.lists(st.text(st.sampled_from("aBc1é _-,.\n"), max_size=40), max_size=7), st.integers(1, 6))
def test_sequences_are_those_of_python(texts, words):
    theirs = []
    for text in texts:
        found = words_of(text)
        found = [tuple(found[i : i + words]) for i in range(max(len(found) - words + 1, min(1, len(found))))]
        theirs.append(found)
    hashes, counts = shingles.shingles(texts, words)
    assert counts.tolist() == [len(found) for found in theirs]
    assert same_pattern(hashes.tolist(), [one for found in theirs for one in found])


def test_a_long_text_gives_what_its_words_give():
    words = [f"w{number}" for number in range(BATCH // 3)]
    text = " ".join(words)
    assert len(text) > 2 * BATCH
    long, counts = shingles.word_hashes(["first", text, "last"])
    assert counts.tolist() == [1, len(words), 1]
    assert long[1:-1].tolist() == shingles.word_hashes(words)[0].tolist()
    assert len(set(long.tolist())) == len(words) + 2
    assert shingles.word_hashes(["x" * (3 * BATCH)])[1].tolist() == [3]  # longer than any word is


def test_hashes_are_the_same_in_another_process():
    text = "Der Fuchs läuft über 13 Hügel 語"
    code = f"from idiolect.text.duplicates import shingles; print(shingles.word_hashes([{text!r}])[0].tolist())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(shingles.word_hashes([text])[0].tolist())


def test_stirring_is_that_of_splitmix64():
    """The first numbers that SplitMix64 gives from the seed 1234567 (Vigna's reference; also Rosetta Code)."""
    state = np.array([(1234567 + k * 0x9E3779B97F4A7C15) % 2**64 for k in range(1, 4)], np.uint64)
    assert shingles.stirred(state).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
