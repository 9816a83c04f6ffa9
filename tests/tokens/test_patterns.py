"""Which regular expressions are accepted, and that the accepted ones are fast."""

from __future__ import annotations

import time

import pytest
from tokenizers import Regex, pre_tokenizers

from idiolect.errors import UserError
from idiolect.tokens import patterns

LINEAR = [
    r"\w+|[^\w\s]",
    r"[\w']+",
    r"[A-Za-z']+|[.,;:!?-]",
    r"\S+",
    ".",
    r"\w+(?:-\w+)*",
    r"\d{1,3}|\p{L}{2,}",
    r"[^\r\n\p{L}]?\p{L}+[\r\n]*| ?\d| ",
    r"(?i:'s|'t)|\w+|\s+(?!\S)|\s+",
    r"[]a]+|[[:alpha:]]+|\x41\.",
]
SLOW = [
    r"(a+)+$",
    r"a+$",
    r"a*b",
    r"(?:a|ab)*c",
    r"(?:a*)*",
    r"(?:a|a)+b",
    r"(?:a+b?){5,}",
    r"(?:a{1,9}){1,9}b",
    "a?" * 12 + "b",
    r"a{1,2000}b",
    r"\w+\b",
    r"\s*[\r\n]+",
]
UNREAD = [
    r"(?=a)b",
    r"(?<n>a)",
    r"(a)\1",
    r"(?i)a",
    "[a",
    "(a",
    "a)",
    "",
    "a|",
    "*",
    r"a*",
    r"\K",
    "x" * 1001,
    "(" * 500,
]


@pytest.mark.parametrize("pattern", LINEAR)
def test_patterns_without_a_step_back_are_accepted(pattern: str) -> None:
    patterns.check(pattern, "here")
    Regex(pattern)


@pytest.mark.parametrize("pattern", SLOW + UNREAD)
def test_all_others_are_refused_with_a_reason(pattern: str) -> None:
    with pytest.raises(UserError, match="here") as caught:
        patterns.check(pattern, "here")
    assert patterns.why_not(pattern) in caught.value.what


@pytest.mark.parametrize("pattern", [*LINEAR, *sorted(patterns.KNOWN)])
def test_accepted_patterns_take_linear_time(pattern: str) -> None:
    """100,000 characters of each sort; `a+$` takes half a minute on the first."""
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    start = time.process_time()
    for text in (
        "a" * 100_000 + "!",
        " " * 100_000 + "x",
        "-" * 100_000,
        "a-" * 100_000,
        "\r\n" * 100_000,
        "1" * 100_000,
    ):
        split.pre_tokenize_str(text)
    assert time.process_time() - start < 20


def test_gpt2s_pattern_is_the_librarys_own() -> None:
    text = "It's 12 o'clock,  isn't   it?\n\n  Yes! naïve 漢字 \t x"
    split = pre_tokenizers.Split(Regex(patterns.GPT2), "isolated").pre_tokenize_str(text)
    native = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    assert [span for _, span in split] == [span for _, span in native]
