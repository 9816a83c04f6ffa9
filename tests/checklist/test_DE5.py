"""DE5: temperature."""

import pytest
import torch

from idiolect.decode.filters import reshape, temperature
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.testing import ByteTokenizer, TinyModel

LOGITS = torch.randn(17, 101, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def texts(**options):
    prompts = ["a", "bc", "", "def"] * 10
    settings = DecodeSettings(max_tokens=7, **options)
    return [found.ids for found in complete(TinyModel(seed=2), ByteTokenizer(), prompts, settings)]


def test_DE5_the_formula_on_numbers():
    u = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    # e^2, e^4, e^6 and e^.5, e^1, e^1.5 over their sums
    assert temperature(u, 0.5).softmax(-1)[0].tolist() == pytest.approx([0.015876, 0.117310, 0.866814], abs=1e-6)
    assert temperature(u, 2.0).softmax(-1)[0].tolist() == pytest.approx([0.186324, 0.307196, 0.506480], abs=1e-6)


def test_DE5_1_changes_nothing():
    assert torch.equal(reshape(LOGITS, DecodeSettings(temperature=1.0)), LOGITS)
    assert texts(temperature=1.0) == texts()


def test_DE5_near_0_all_probability_is_on_the_most_probable():
    low = temperature(LOGITS, 1e-4).softmax(-1)
    assert (low.amax(-1) > 0.999).all()
    assert torch.equal(low.argmax(-1), LOGITS.argmax(-1))
    assert texts(temperature=1e-4) == texts(temperature=0.0)


def test_DE5_0_is_greedy_and_no_crash():
    model, tokenizer = TinyModel(seed=2), ByteTokenizer()
    (found,) = complete(model, tokenizer, ["a"], DecodeSettings(temperature=0.0, max_tokens=5))
    ids = [0, *tokenizer.encode("a")]
    for id_ in found.ids:  # argmax by hand
        logits, _ = model.step(torch.tensor([ids]), model.init_state(1, len(ids)))
        logits[0, -1, tokenizer.pad_id] = -torch.inf
        assert id_ == int(logits[0, -1].argmax())
        ids.append(id_)


def test_DE5_above_1_is_flatter_and_allowed():
    def entropy(tau):
        p = temperature(LOGITS, tau).softmax(-1)
        return -torch.xlogy(p, p).sum(-1)

    assert (entropy(0.5) < entropy(1)).all()
    assert (entropy(1) < entropy(1.7)).all()
    assert texts(temperature=1.7) != texts()
