"""The n-gram family: its numbers by hand, and its side of the contract."""

import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from idiolect.errors import UserError
from idiolect.models.contract import LanguageModel, State
from idiolect.models.ngram import NGram
from idiolect.models.settings import NGramSettings

E, PAD, A, B, C, D, X = range(7)
"""End of text, padding, four letters that occur and one that never does."""
TEXTS = [[A, B, C], [A, B, D], [B, C, A, B, C], [D]]
SMOOTHINGS = ["mle", "add-k", "stupid-backoff", "kneser-ney", "infinite"]


def documents(texts: list[list[int]]) -> SimpleNamespace:
    offsets = np.cumsum([0] + [len(text) for text in texts])
    return SimpleNamespace(ids=np.array([id_ for text in texts for id_ in text], dtype=np.uint32), offsets=offsets)


def fit(smoothing: str, order: int = 3, texts: list[list[int]] = TEXTS, **more) -> NGram:
    settings = NGramSettings(smoothing=smoothing, order=order, **more)
    return NGram(settings, 7, begin_id=E, end_id=E, pad_id=PAD).fit(documents(texts))


def p(model: NGram, context: list[int], token: int) -> float:
    return math.exp(model.score(torch.tensor([[*context, token]]))[0, -1])


def test_relative_frequencies_by_hand():
    model = fit("mle")
    assert p(model, [E], A) == pytest.approx(2 / 4)
    assert p(model, [E, A], B) == pytest.approx(1)
    assert p(model, [A, B], C) == pytest.approx(2 / 3)
    assert p(model, [D, B, C], E) == pytest.approx(2 / 3)  # only B C counts in an order of 3
    assert p(model, [C], A) == pytest.approx(1 / 3)  # a text that does not begin: a shorter context
    assert p(model, [A, B], A) == 0
    assert p(model, [D, D], A) == 0  # never seen, and no backing off


def test_add_k_by_hand():
    model = fit("add-k", order=2, k=0.5)
    kinds = 6  # all but padding
    assert p(model, [B], C) == pytest.approx((3 + 0.5) / (4 + 0.5 * kinds))
    assert p(model, [B], X) == pytest.approx(0.5 / (4 + 0.5 * kinds))
    assert p(model, [X], D) == pytest.approx(1 / kinds)
    assert p(model, [B], PAD) == 0
    assert p(fit("add-k", order=1), [B], E) == pytest.approx((4 + 1) / (16 + kinds))


def test_stupid_backoff_by_hand():
    model = fit("stupid-backoff", backoff=0.5)
    assert p(model, [A, B], C) == pytest.approx(2 / 3)
    assert p(model, [D, B], D) == pytest.approx(0.5 * 1 / 4)
    assert p(model, [A, B], E) == pytest.approx(0.5 * 0.5 * 4 / 16)
    assert p(model, [X, X], A) == pytest.approx(0.5 * 0.5 * 3 / 16)  # once for each shorter context, seen or not
    assert not model.normalised


def test_sequences_do_not_reach_across_documents():
    model = fit("mle", order=4)
    assert p(model, [E, A, B, C, E], D) == pytest.approx(1 / 4)  # the context is <s> alone
    assert p(model, [C, E], D) == p(model, [E], D)
    with pytest.raises(UserError):
        model.fractions([C, C])
    assert model.fractions([C, E, A]) == {B: Fraction(1)}


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_begin_and_end_may_be_two_ids(smoothing, order):
    one = fit(smoothing, order)
    settings = NGramSettings(smoothing=smoothing, order=order)
    two = NGram(settings, 8, begin_id=7, end_id=E, pad_id=PAD).fit(documents(TEXTS))
    text = [A, B, C, A, E]
    both = [model.score(torch.tensor([[begin, *text]]))[0, 1:] for model, begin in ((one, E), (two, 7))]
    if smoothing == "add-k":  # one id more, but not one that is ever predicted
        assert p(two, [7], 7) == 0
    assert torch.equal(*both)


def rows(seed: int, count: int, width: int) -> torch.Tensor:
    """Ids of texts that begin with E, with E now and then inside."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(A, X, (count, width), generator=generator)
    ids[torch.rand(ids.shape, generator=generator) < 0.1] = E
    ids[:, 0] = E
    return ids


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
class TestContract:
    def test_it_is_a_language_model(self, smoothing, order):
        model = fit(smoothing, order)
        assert isinstance(model, LanguageModel)
        assert isinstance(model.init_state(2, 3), State)

    def test_score_equals_step(self, smoothing, order):
        model, ids = fit(smoothing, order), rows(0, 5, 13)
        logits, _ = model.step(ids, model.init_state(5, 13))
        expected = logits[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
        scores = model.score(ids)
        assert scores.dtype == torch.float64
        torch.testing.assert_close(scores[:, 1:], expected, rtol=1e-12, atol=1e-12)
        assert (scores[:, 0] == 0).all()

    def test_a_distribution_sums_to_one(self, smoothing, order):
        model, ids = fit(smoothing, order), rows(1, 5, 7)
        logits, _ = model.step(ids, model.init_state(5, 7))
        total = logits.exp().sum(-1)
        if smoothing == "mle":
            total = total[total > 0]  # an unseen context has no distribution
        if model.normalised:
            assert ((total - 1).abs() < 1e-9).all()
        elif order > 1:
            assert total.max() > 1.1
        assert (logits[..., PAD] == -math.inf).all()

    def test_any_cut_gives_the_same_logits(self, smoothing, order):
        model, ids = fit(smoothing, order), rows(2, 3, 11)
        whole, _ = model.step(ids, model.init_state(3, 11))
        state, parts = model.init_state(3, 11), []
        for at, to in ((0, 1), (1, 2), (2, 7), (7, 11)):
            logits, state = model.step(ids[:, at:to], state)
            parts.append(logits)
        assert torch.equal(torch.cat(parts, 1), whole)
        assert state.lengths.tolist() == [11, 11, 11]

    def test_padding_changes_nothing(self, smoothing, order):
        model, ids = fit(smoothing, order), rows(3, 3, 7)
        lengths = torch.tensor([7, 3, 5])
        padded = torch.where(torch.arange(7) < lengths[:, None], ids, X)
        after, state = model.step(padded, model.init_state(3, 9), lengths, last=True)
        more, _ = model.step(torch.full((3, 1), B), state, last=True)
        scores = model.score(padded, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone, single = model.step(ids[row : row + 1, :length], model.init_state(1, 9), last=True)
            assert torch.equal(after[row], alone[0])
            assert torch.equal(more[row], model.step(torch.tensor([[B]]), single)[0][0])
            assert torch.equal(scores[row, :length], model.score(ids[row : row + 1, :length])[0])
            assert (scores[row, length:] == 0).all()

    def test_a_row_of_length_nothing_keeps_its_state(self, smoothing, order):
        model, ids = fit(smoothing, order), rows(4, 2, 5)
        _, state = model.step(ids, model.init_state(2, 9))
        _, state = model.step(torch.full((2, 2), X), state, torch.tensor([0, 2]))
        logits, _ = model.step(torch.full((2, 1), C), state)
        whole, _ = model.step(torch.cat([ids[:1], torch.tensor([[C]])], 1), model.init_state(1, 9), last=True)
        assert torch.equal(logits[0], whole[0])

    def test_states_fork_fill_slots_and_go_back(self, smoothing, order):
        model, ids = fit(smoothing, order), rows(5, 3, 7)
        follow = torch.full((3, 1), B)
        _, state = model.step(ids, model.init_state(3, 9))
        expected, _ = model.step(follow, state.select(torch.tensor([0, 1, 2])))

        forked, _ = model.step(follow, state.select(torch.tensor([2, 0, 2])))
        assert torch.equal(forked, expected[[2, 0, 2]])

        slots = model.step(rows(6, 5, 2), model.init_state(5, 9))[1]
        slots.put(torch.tensor([4, 0, 1]), state)
        filled, _ = model.step(follow[[0] * 5], slots)
        assert torch.equal(filled[[4, 0, 1]], expected)

        _, longer = model.step(torch.full((3, 4), D), state.select(torch.tensor([0, 1, 2])))
        longer.truncate(torch.tensor([7, 8, 10]))
        back, _ = model.step(follow, longer)
        assert torch.equal(back[0], expected[0])
        eighth = torch.cat([ids[1:2], torch.tensor([[D, B]])], 1)
        assert torch.equal(back[1], model.step(eighth, model.init_state(1, 9), last=True)[0][0])

    def test_tensors_hold_everything(self, smoothing, order):
        model, ids = fit(smoothing, order), rows(7, 3, 11)
        same = NGram.from_tensors(model.settings, 7, model.tensors(), begin_id=E, end_id=E, pad_id=PAD)
        assert torch.equal(same.score(ids), model.score(ids))
        assert all(torch.equal(tensor, same.tensors()[name]) for name, tensor in model.tensors().items())


def test_damaged_tensors_are_refused():
    model = fit("infinite")
    for name, tensor in model.tensors().items():
        for damaged in (tensor[:-1], tensor.float(), tensor.flip(0)):
            if not name.startswith("keys") and damaged.dtype == tensor.dtype and len(damaged) == len(tensor):
                continue  # other numbers, but a whole table
            tensors = {**model.tensors(), name: damaged}
            with pytest.raises(ValueError, match=r"not int|in order"):
                NGram.from_tensors(model.settings, 7, tensors, begin_id=E, end_id=E, pad_id=PAD)


def test_what_cannot_be_counted():
    with pytest.raises(UserError, match="no text"):
        fit("kneser-ney", texts=[[], []])
    with pytest.raises(UserError, match="arpa"):
        fit("arpa")
    with pytest.raises(ValueError, match="ids must lie"):
        fit("mle", texts=[[7]])
    with pytest.raises(ValueError, match="fit first"):
        NGram(NGramSettings(), 7, begin_id=E, end_id=E, pad_id=PAD).score(torch.tensor([[E, A]]))


def test_order_longer_than_any_text():
    model = fit("kneser-ney", order=9, texts=[[A], [B]])
    logits, _ = model.step(torch.tensor([[E, A]]), model.init_state(1, 2))
    assert logits.exp().sum(-1).tolist() == [pytest.approx([1, 1])]
