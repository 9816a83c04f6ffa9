"""Learning: the same text gives the same file, sizes hold, settings are obeyed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Native
from tokenizers import models, pre_tokenizers, trainers

from idiolect.errors import UserError
from idiolect.tokens.learn import from_vocabulary, sample, train
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer

KINDS = ("word", "char", "byte", "bpe", "wordpiece", "unigram")
Learnt = Callable[..., Tokenizer]

LEARN_ALL = """
import json, sys
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings
texts = json.load(sys.stdin)
for kind in ("word", "char", "byte", "bpe", "wordpiece", "unigram"):
    print(kind, train(texts, TokenizerSettings(kind=kind, size=500)).fingerprint)
"""


def test_the_same_text_gives_the_same_file_in_every_process(corpus: list[str]) -> None:
    """Hash tables are seeded anew in each process, and ties must not follow their order."""
    runs = {
        subprocess.run(
            [sys.executable, "-c", LEARN_ALL], input=json.dumps(corpus), capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    }
    assert len(runs) == 1
    assert len(runs.pop().splitlines()) == 6


def test_ties_are_the_same_every_time() -> None:
    """Every pair of letters comes equally often."""
    text = " ".join(a + b for a in "abcdefgh" for b in "abcdefgh") + " "
    for kind, size in (("bpe", 300), ("wordpiece", 40), ("unigram", 300)):
        settings = TokenizerSettings(kind=kind, size=size)  # type: ignore[arg-type]
        assert len({train([text * 3], settings).fingerprint for _ in range(5)}) == 1


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_the_size_asked_for_is_the_size(learnt: Learnt, kind: str) -> None:
    assert learnt(kind, size=600).size == 600


@pytest.mark.parametrize(("kind", "possible"), [("bpe", 263), ("wordpiece", 17), ("unigram", 267)])
def test_more_than_the_text_supports_is_refused_with_the_largest_size(kind: str, possible: int) -> None:
    """Text: "the cat" three times, "\\n" between; words the, Ġcat, Ċ (wordpiece: the, cat).

    bpe: 258 and two merges for "the", three for "Ġcat". wordpiece: 3 special, 5 letters in both places, two merges
    for each word. unigram: 258 and the substrings of two or more bytes: 3 of "the", 6 of "Ġcat".
    """
    text = "the cat\nthe cat\nthe cat"
    with pytest.raises(UserError, match="the text supports") as caught:
        train([text], TokenizerSettings(kind=kind, size=4000))  # type: ignore[arg-type]
    assert f"supports {possible} tokens at most, not the 4000" in caught.value.what
    assert f"tokenizer.size to {possible} or less" in caught.value.mend
    assert train([text], TokenizerSettings(kind=kind, size=possible)).size == possible  # type: ignore[arg-type]


def test_size_is_a_limit_for_word_and_char() -> None:
    text = "b b b a a c"
    assert train([text], TokenizerSettings(kind="word", size=5)).vocabulary[3:] == ["b", "a"]
    assert train([text], TokenizerSettings(kind="word", size=5000)).vocabulary[3:] == ["b", "a", "c"]
    assert train([text], TokenizerSettings(kind="char", size=5000)).vocabulary[258:] == [" ", "a", "b", "c"]
    assert train([text], TokenizerSettings(kind="char", size=260)).vocabulary[258:] == [" ", "b"]
    assert train([text], TokenizerSettings(kind="byte", size=5000)).size == 258


@pytest.mark.parametrize(
    ("kind", "size"), [("char", 258), ("bpe", 257), ("unigram", 257), ("word", 3), ("wordpiece", 6)]
)
def test_too_small_a_size_is_refused(kind: str, size: int) -> None:
    with pytest.raises(UserError, match=f"needs at least {size + 1} tokens"):
        train(["some text"], TokenizerSettings(kind=kind, size=size))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_no_text_is_refused(kind: str, texts: list[str]) -> None:
    with pytest.raises(UserError, match="no text"):
        train(texts, TokenizerSettings(kind=kind))  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["(a+)+$", "a+$", "(a", "a*", r"(?<=x)\w+"])
def test_patterns_that_may_hang_or_fail_are_refused(pattern: str) -> None:
    with pytest.raises(UserError, match="tokenizer.pattern"):
        train(["text"], TokenizerSettings(kind="word", pattern=pattern))
    with pytest.raises(UserError, match="uses no pattern"):
        train(["text"], TokenizerSettings(kind="byte", pattern=r"\w+"))


def test_a_pattern_of_words_drops_the_rest(learnt: Learnt) -> None:
    tokenizer = train(["cows eat corn. cows eat hay!"], TokenizerSettings(kind="word", pattern=r"\w+"))
    assert tokenizer.pieces(tokenizer.encode("cows, eat - hay")) == ["cows", "eat", "hay"]


def test_a_pattern_bounds_the_pieces(learnt: Learnt) -> None:
    """One digit at a time: no token of bpe or unigram holds two."""
    for kind in ("bpe", "unigram"):
        tokenizer = train(["12 123 1234 " * 50], TokenizerSettings(kind=kind, size=258, pattern=r"\d|\D+"))  # type: ignore[arg-type]
        assert tokenizer.pieces(tokenizer.encode("123")) == ["1", "2", "3"]


def test_an_iterator_is_read_once(corpus: list[str], learnt: Learnt) -> None:
    def once() -> Iterator[str]:
        yield from corpus

    for kind in KINDS:
        settings = TokenizerSettings(kind=kind, size=600)  # type: ignore[arg-type]
        assert train(once(), settings).fingerprint == learnt(kind).fingerprint


def test_bpe_equals_the_library(corpus: list[str], learnt: Learnt) -> None:
    native = Native(models.BPE())
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        min_frequency=2,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    native.train_from_iterator(corpus, trainer)
    text = "\n\n".join(corpus)
    assert native.encode(text).ids == learnt("bpe").encode(text)


def test_words_are_numbered_by_count(corpus: list[str], learnt: Learnt) -> None:
    counts = Counter(word for text in corpus for word in re.findall(r"\w+|[^\w\s]", text))
    expected = sorted(counts, key=lambda word: (-counts[word], word))[:597]
    assert learnt("word").vocabulary[3:] == expected


def test_a_given_vocabulary_is_taken_as_it_is() -> None:
    settings = TokenizerSettings(kind="wordpiece")
    tokenizer = from_vocabulary(["un", "##able"], settings)
    assert tokenizer.vocabulary == ["<|endoftext|>", "<|pad|>", "<|unknown|>", "un", "##able"]
    assert tokenizer.encode("unable able") == [3, 4, 2]
    for kind, pieces in (("bpe", ["a"]), ("word", ["a", "a"]), ("word", ["<|pad|>"])):
        with pytest.raises(UserError):
            from_vocabulary(pieces, TokenizerSettings(kind=kind))  # type: ignore[arg-type]


def test_from_loads_instead_of_learning(tmp_path: Path, learnt: Learnt) -> None:
    learnt("bpe").save(tmp_path)
    settings = TokenizerSettings.model_validate({"from": tmp_path})
    assert train([], settings).fingerprint == learnt("bpe").fingerprint


def test_a_sample_is_all_of_a_text_that_fits() -> None:
    pieces = [f"{number} é" for number in range(100)]
    size = sum(len(piece.encode()) for piece in pieces)
    kept, total = sample(pieces, size)
    assert [text.decode() for text in reversed(kept)] == pieces and total == size == 490


def test_a_sample_is_bounded_in_order_and_drawn_from_everywhere() -> None:
    pieces = [f"{'en' if number % 2 else 'fr'}{number:06}" for number in range(20_000)]  # languages that take turns
    kept, total = sample(iter(pieces), 10_000)
    found = [text.decode() for text in reversed(kept)]
    assert total == 160_000 and 600 < len(found) <= 1250
    assert found == sorted(found, key=lambda text: int(text[2:]))
    assert 0.4 < sum(text.startswith("en") for text in found) / len(found) < 0.6
    quarters = Counter(int(text[2:]) // 5000 for text in found)
    assert all(0.15 < quarters[quarter] / len(found) < 0.35 for quarter in range(4))
    assert [len(sample(["a" * 50] * n, 20)[0]) for n in (1, 2, 3, 9)] == [1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["word", "bpe", "wordpiece", "unigram"])
def test_a_long_text_is_learnt_from_its_sample(corpus: list[str], kind: str) -> None:
    words = [word + " " for text in corpus for word in text.split()]
    settings = TokenizerSettings(kind=kind, size=300, sample=sum(map(len, words)) // 4)  # type: ignore[arg-type]
    told: list[tuple[int, int]] = []
    learnt = train(words, settings, sampled=lambda *bytes_: told.append(bytes_))
    kept, total = sample(words, settings.sample)
    assert told == [(sum(map(len, kept)), total)] and told[0][0] <= settings.sample < told[0][1]
    by_hand = train([text.decode() for text in reversed(kept)], TokenizerSettings(kind=kind, size=300))  # type: ignore[arg-type]
    assert learnt.fingerprint == by_hand.fingerprint != train(words, TokenizerSettings(kind=kind, size=300)).fingerprint  # type: ignore[arg-type]
    train(words, settings.model_copy(update={"sample": total}), sampled=lambda *_: pytest.fail("nothing was left out"))
