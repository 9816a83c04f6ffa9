"""LM2: an n-gram model counts; after "cows eat" come corn 4/11, grass 3/11, hay 2/11, if 1/11, which 1/11."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from idiolect.errors import UserError
from idiolect.models.ngram import NGram
from idiolect.models.settings import NGramSettings
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

LINES = [
    "... the cows eat grass...",
    "... our cows eat hay daily...",
    "... factory-farm cows eat corn...",
    "... on an organic farm, cows eat hay and...",
    "... do your cows eat grass or corn?...",
    "... what do cows eat if they have...",
    "... cows eat corn when there is no...",
    "... which cows eat which foods depends...",
    "... if cows eat grass...",
    "... when cows eat corn their stomachs...",
    "... should we let cows eat corn?...",
]
# the table's "which" needs the line with "which", and its corn the "corn?" whose question mark the tokenizer strips
TABLE = {"corn": 4, "grass": 3, "hay": 2, "if": 1, "which": 1}
TOKENIZER = train(LINES, TokenizerSettings(kind="word", pattern="[A-Za-z]+"))


def fit(order: int, smoothing: str = "mle") -> NGram:
    ids = TOKENIZER.encode_batch(LINES)
    settings = NGramSettings(order=order, smoothing=smoothing)
    model = NGram(
        settings, TOKENIZER.size, begin_id=TOKENIZER.begin_id, end_id=TOKENIZER.end_id, pad_id=TOKENIZER.pad_id
    )
    offsets = np.cumsum([0, *map(len, ids)])
    return model.fit(SimpleNamespace(ids=np.concatenate(ids), offsets=offsets))


def id_of(word: str) -> int:
    (found,) = TOKENIZER.encode(word)
    return found


def test_LM2_counts_give_the_table_as_rationals():
    found = fit(3).fractions(TOKENIZER.encode("what do our cows eat"))
    assert found == {id_of(word): Fraction(times, 11) for word, times in TABLE.items()}


def test_LM2_the_models_distribution_is_the_table():
    model = fit(3)
    prompt = torch.tensor([[TOKENIZER.begin_id, *TOKENIZER.encode("cows eat")]])
    logits, _ = model.step(prompt, model.init_state(1, 3), last=True)
    expected = torch.zeros(TOKENIZER.size, dtype=torch.float64)
    for word, times in TABLE.items():
        expected[id_of(word)] = times / 11
    torch.testing.assert_close(logits[0, 0].exp(), expected, atol=1e-15, rtol=0)  # unseen words: exactly 0


@pytest.mark.parametrize(
    ("order", "context", "expected"),
    [
        (1, "", {"cows": Fraction(11, 76), "eat": Fraction(11, 76)}),  # of 65 words and 11 ends of text
        (2, "eat", {word: Fraction(times, 11) for word, times in TABLE.items()}),
        (2, "cows", {"eat": Fraction(1)}),
        (4, "farm cows eat", {"corn": Fraction(1, 2), "hay": Fraction(1, 2)}),
        (7, "do your cows eat grass or", {"corn": Fraction(1)}),
    ],
)
def test_LM2_any_n(order, context, expected):
    found = fit(order).fractions(TOKENIZER.encode(context))
    assert sum(found.values()) == 1
    assert {word: found[id_of(word)] for word in expected} == expected
    assert order == 1 or len(found) == len(expected)


def test_LM2_a_line_is_a_document():
    """No count reaches from one line into the next: after a line's last word comes only the end of the text."""
    end = TOKENIZER.end_id
    assert fit(2).fractions(TOKENIZER.encode("daily")) == {end: Fraction(1)}
    starts = fit(2).fractions([TOKENIZER.begin_id])
    assert starts[id_of("when")] == Fraction(1, 11) and end not in starts


def test_LM2_unseen_is_zero_unless_smoothing_is_asked_for():
    prompt = torch.tensor([[TOKENIZER.begin_id, *TOKENIZER.encode("cows eat"), id_of("foods")]])
    assert fit(3).score(prompt)[0, -1] == -torch.inf
    for smoothing in ("add-k", "stupid-backoff", "kneser-ney", "infinite"):
        assert fit(3, smoothing).score(prompt)[0, -1] > -torch.inf
    with pytest.raises(UserError, match="never occurred"):
        fit(3).fractions(TOKENIZER.encode("corn hay"))
