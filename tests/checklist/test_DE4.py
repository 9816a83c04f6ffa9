"""DE4: top-p keeps the smallest set of tokens whose probability reaches p."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.decode.filters import top_p
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.testing import ByteTokenizer, TinyModel

weights = st.lists(st.integers(1, 1000), min_size=2, max_size=7)


@given(weights, st.floats(0.001, 0.999))
@settings(max_examples=200, deadline=None)
def test_DE4_the_set_reaches_p_and_without_any_one_of_it_does_not(counts, p):
    total = sum(counts)
    kept = (top_p(torch.tensor([counts], dtype=torch.float64).log(), p)[0] > -torch.inf).nonzero().squeeze(1).tolist()
    share = sum(counts[i] for i in kept) / total
    assert share >= p - 1e-12
    for dropped in kept:
        assert share - counts[dropped] / total < p + 1e-12
    # no set of fewer tokens reaches p at all
    assert all(sum(fewer) / total < p + 1e-12 for fewer in itertools.combinations(counts, len(kept) - 1))


def test_DE4_what_is_left_is_renormalised():
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64)
    assert top_p(p.log(), 0.7).softmax(-1)[0].tolist() == pytest.approx([0, 4 / 7, 0, 3 / 7])  # 0.4 + 0.3 reaches it
    assert top_p(p.log(), 0.71).softmax(-1)[0].tolist() == pytest.approx([0, 4 / 9, 2 / 9, 3 / 9])
    assert top_p(p.log(), 1e-9).softmax(-1)[0].tolist() == [0, 1, 0, 0]  # one always survives


def test_DE4_p_1_is_ancestral():
    model, tokenizer = TinyModel(seed=2), ByteTokenizer()
    prompts = ["a", "bc", ""] * 20

    def texts(**options):
        return [f.ids for f in complete(model, tokenizer, prompts, DecodeSettings(max_tokens=7, **options))]

    assert texts(top_p=1.0) == texts()
    assert texts(top_p=0.5) != texts()
