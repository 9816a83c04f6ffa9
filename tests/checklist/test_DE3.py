"""DE3: top-k, with the lecture's k = 8 after "I love watching movies"."""

import pytest
import torch

from idiolect.decode.explore import next_token
from idiolect.decode.filters import top_k
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.testing import TableModel, WordTokenizer

WORDS = ["I", "love", "watching", "movies", "and", "with", "at", "in", "on", "alone", "together", "tonight", "because"]
TOKENIZER = WordTokenizer(WORDS)
V = TOKENIZER.size
AFTER = ["and", "with", "at", "in", "on", "alone", "together", "tonight", "because"]
SHARES = [0.2, 0.17, 0.14, 0.12, 0.1, 0.09, 0.08, 0.06, 0.04]  # nine words may follow
ID = {word: i for i, word in enumerate(TOKENIZER.words) if word}
MODEL = TableModel(
    V,
    {
        (ID["movies"],): {ID[w]: p for w, p in zip(AFTER, SHARES, strict=True)},
        **{(ID[w],): {0: 0.5, ID["movies"]: 0.3, ID["and"]: 0.2} for w in AFTER},
    },
)
PROMPT = "I love watching movies"


def texts(**options):
    settings = DecodeSettings(max_tokens=6, seed=2, **options)
    return [found.ids for found in complete(MODEL, TOKENIZER, [PROMPT] * 300, settings)]


def test_DE3_exactly_eight_words_survive_and_share_all_the_probability():
    found = next_token(MODEL, TOKENIZER, PROMPT, DecodeSettings(top_k=8), top=9)
    assert found.survivors == 8
    assert [choice.token for choice in found.choices] == AFTER
    # renormalised by 1 - 0.04
    assert [choice.reshaped for choice in found.choices] == pytest.approx([p / 0.96 for p in SHARES[:8]] + [0])
    assert sum(choice.reshaped for choice in found.choices) == pytest.approx(1)


@pytest.mark.parametrize("k", range(1, 14))
def test_DE3_exactly_k_survive_on_any_logits(k):
    logits = torch.randn(11, 13, generator=torch.Generator().manual_seed(k)).round(decimals=1)  # with many equals
    kept = top_k(logits, k)
    assert ((kept > -torch.inf).sum(-1) == k).all()
    assert torch.allclose(kept.softmax(-1).sum(-1), torch.ones(11))
    least = kept.masked_fill(kept == -torch.inf, torch.inf).amin(-1)
    lost = logits.masked_fill(kept > -torch.inf, -torch.inf).amax(-1)
    assert (lost <= least).all()


def test_DE3_only_survivors_are_ever_drawn():
    assert {ids[0] for ids in texts(top_k=8)} == {ID[word] for word in AFTER[:8]}
    assert ID["because"] in {ids[0] for ids in texts()}


def test_DE3_k_1_is_greedy():
    assert texts(top_k=1) == texts(temperature=0.0)


def test_DE3_k_V_is_ancestral():
    assert texts(top_k=V) == texts(top_k=0) == texts()
