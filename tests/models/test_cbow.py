"""Word vectors by pencil and by the papers' equations."""

import pytest
import torch
from pydantic import ValidationError

from idiolect.data.batch import Batch
from idiolect.models.build import build
from idiolect.models.settings import CbowSettings
from idiolect.train import objectives

V = 7


def model(width=3, **changes):
    """Vectors that are no two the same, in float64."""
    found = build(CbowSettings(width=width, **changes), V).double()
    with torch.no_grad():
        found.embedding.weight.copy_(torch.randn(V, width, generator=torch.Generator().manual_seed(1)))
        found.head.weight.copy_(torch.randn(V, width, generator=torch.Generator().manual_seed(2)))
    return found


LEFT = {"left_only": True, "loss": "softmax"}


def test_the_body_of_left_only_is_the_mean_of_the_last_words():
    cbow = model(**LEFT, window=2)
    u = cbow.embedding.weight
    hidden = cbow.body(torch.tensor([[3, 5, 2]]))
    expected = torch.stack((u[3], (u[3] + u[5]) / 2, (u[5] + u[2]) / 2))
    torch.testing.assert_close(hidden[0], expected)


def test_the_body_of_cbow_is_the_mean_of_the_words_around():
    cbow = model(window=1)
    u = cbow.embedding.weight
    hidden = cbow.body(torch.tensor([[3, 5, 2]]))
    torch.testing.assert_close(hidden[0], torch.stack((u[5], (u[3] + u[2]) / 2, u[5])))
    assert not cbow.body(torch.tensor([[3]])).any()  # nothing is around it
    wide = model(window=11).body(torch.tensor([[3, 5, 2]]))
    torch.testing.assert_close(wide[0, 0], (u[5] + u[2]) / 2)


def test_a_bag_is_the_mean_of_its_real_words():
    cbow = model()
    u = cbow.embedding.weight
    bags = cbow.bag(torch.tensor([[3, 5, 5], [2, 1, 1], [6, 6, 6]]), torch.tensor([3, 1, 0]))
    torch.testing.assert_close(bags, torch.stack(((u[3] + 2 * u[5]) / 3, u[2], 0 * u[0])))


def test_the_softmax_moves_vectors_by_rongs_equations():
    """Rong 2014, section 1.2: dE/dv'_j = e_j h with e = y - t; each of C words around has EH / C, EH = Σ_j e_j v'_j."""
    cbow = model(loss="softmax")
    u, v = (w.detach().clone() for w in (cbow.embedding.weight, cbow.head.weight))
    loss = objectives.neighbours(cbow, Batch(torch.tensor([[2, 4]]), torch.tensor([5]), lengths=torch.tensor([2])))
    loss.total.backward()
    h = (u[2] + u[4]) / 2
    e = torch.exp(v @ h) / torch.exp(v @ h).sum() - torch.eye(V)[5]
    torch.testing.assert_close(cbow.head.weight.grad, torch.outer(e, h))
    expected = torch.zeros_like(u)
    expected[2] = expected[4] = (e @ v) / 2
    torch.testing.assert_close(cbow.embedding.weight.grad, expected)
    assert loss.count == 1


def test_negative_sampling_moves_vectors_by_rongs_equations():
    """Rong 2014, section 3.2: as above with e_j = σ(v'_j·h) - t_j, for the label and the drawn words alone."""
    cbow = model()
    u, v = (w.detach().clone() for w in (cbow.embedding.weight, cbow.head.weight))
    # 3 is drawn twice, and the label itself once, which does not count
    batch = Batch(
        torch.tensor([[2, 4]]), torch.tensor([5]), lengths=torch.tensor([2]), negatives=torch.tensor([[3, 5, 3]])
    )
    loss = objectives.neighbours(cbow, batch)
    loss.total.backward()
    h = (u[2] + u[4]) / 2
    sigma = 1 / (1 + torch.exp(-(v @ h)))
    e = torch.zeros(V, dtype=torch.float64)
    e[5], e[3] = sigma[5] - 1, 2 * sigma[3]
    assert loss.total.item() == pytest.approx(float(-sigma[5].log() - 2 * (1 - sigma[3]).log()))
    torch.testing.assert_close(cbow.head.weight.grad, torch.outer(e, h))
    expected = torch.zeros_like(u)
    expected[2] = expected[4] = (e @ v) / 2
    torch.testing.assert_close(cbow.embedding.weight.grad, expected)


@pytest.mark.parametrize("changes", [{}, LEFT])
def test_first_weights_are_those_of_word2vec(changes):
    fresh = build(CbowSettings(width=50, **changes), 301)
    assert not fresh.head.weight.any()
    assert 0.0099 < float(fresh.embedding.weight.detach().abs().max()) <= 0.5 / 50


def test_only_left_only_continues_texts():
    assert "looks into the future" in build(CbowSettings(), V).refusal
    assert build(CbowSettings(**LEFT), V).refusal == ""
    for wrong in ({"left_only": True}, {**LEFT, "mode": "skipgram"}):
        with pytest.raises(ValidationError, match="left_only continues texts"):
            CbowSettings(**wrong)


def test_sparse_gradients_move_the_same_rows():
    dense, sparse = model(), model()
    sparse.embedding.sparse = True
    batch = Batch(torch.tensor([[2, 4], [4, 1]]), torch.tensor([5, 3]), lengths=torch.tensor([2, 1]))
    for cbow in (dense, sparse):
        objectives.neighbours(cbow, batch).total.backward()
    assert sparse.embedding.weight.grad.is_sparse
    torch.testing.assert_close(sparse.embedding.weight.grad.to_dense(), dense.embedding.weight.grad)
