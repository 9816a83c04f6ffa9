"""LM4: sampling rolls the die for p(w | last two words): 10,000 draws pass a χ² test, a seed fixes the text."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.models.ngram import NGram
from idiolect.models.settings import NGramSettings
from idiolect.testing import WordTokenizer

TABLE = {"corn": 4, "grass": 3, "hay": 2, "if": 1, "which": 1}
TEXTS = [f"our cows eat {word} daily" for word, times in TABLE.items() for _ in range(times)]
TOKENIZER = WordTokenizer(["our", "cows", "eat", "daily", *TABLE])
CRITICAL = 18.47
"""Chi-squared with 4 degrees of freedom exceeds it once in a thousand times (any table of the distribution)."""


def fit(smoothing: str = "mle") -> NGram:
    ids = [TOKENIZER.encode(text) for text in TEXTS]
    model = NGram(
        NGramSettings(order=3, smoothing=smoothing),
        TOKENIZER.size,
        begin_id=TOKENIZER.begin_id,
        end_id=TOKENIZER.end_id,
        pad_id=TOKENIZER.pad_id,
    )
    return model.fit(SimpleNamespace(ids=np.concatenate(ids), offsets=np.cumsum([0, *map(len, ids)])))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_LM4_ten_thousand_draws_pass_the_chi_squared_test(seed):
    found = complete(fit(), TOKENIZER, ["cows eat"] * 10_000, DecodeSettings(seed=seed, max_tokens=1))
    times = Counter(completion.text.strip() for completion in found)
    assert times.keys() == TABLE.keys()
    expected = {word: 10_000 * share / 11 for word, share in TABLE.items()}
    assert sum((times[word] - expected[word]) ** 2 / expected[word] for word in TABLE) < CRITICAL


@pytest.mark.parametrize("smoothing", ["mle", "kneser-ney", "infinite"])
def test_LM4_the_same_seed_gives_the_same_text(smoothing):
    def texts(seed: int) -> list[str]:
        settings = DecodeSettings(seed=seed, max_tokens=7)
        return [completion.text for completion in complete(fit(smoothing), TOKENIZER, ["our cows"] * 31, settings)]

    assert texts(5) == texts(5)
    assert texts(5) != texts(6)


def test_LM4_repeating_the_roll_writes_whole_texts():
    found = complete(fit(), TOKENIZER, [""] * 50, DecodeSettings(seed=3, max_tokens=9))
    assert {completion.finish_reason for completion in found} == {"stop"}
    assert {completion.text.strip() for completion in found} <= set(TEXTS)
