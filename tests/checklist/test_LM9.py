"""LM9: the Elman network and its loss, equation by equation.

a_t = W_ah h_{t-1} + W_ax x_t + b_a, h_t = σ(a_t), y_t = softmax(W_yh h_t + b_y), h_0 = 0,
ℓ = Σ_t -Σ_k y*_{t,k} log y_{t,k}
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from idiolect.models.build import build
from idiolect.models.settings import RecurrentSettings

V, D, T = 7, 5, 11
SIGMA = {"logistic": lambda a: 1 / (1 + np.exp(-a)), "tanh": np.tanh}


@pytest.fixture(params=SIGMA)
def model(request):
    model = build(RecurrentSettings(kind="rnn", width=D, nonlinearity=request.param), V).double()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):  # biases away from 0, too
            parameter.copy_(
                torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
            )
    return model


@pytest.fixture
def word():
    return torch.randint(0, V, (1, T + 1), generator=torch.Generator().manual_seed(3))


def forward(model, ids, targets):
    """The textbook's procedure in numpy: (h_1 … h_T, y_1 … y_T, ℓ)."""
    named = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    W_ah, W_ax, b_a = named["layers.0.hidden"], named["layers.0.input"], named["layers.0.bias"]
    W_yh, b_y, E = named["head.weight"], named["head.bias"], named["embedding.weight"]
    sigma = SIGMA[model.settings.nonlinearity]
    h, states, outputs, loss = np.zeros(D), [], [], 0.0
    for token, target in zip(ids, targets):
        x = E[token]
        a = W_ah @ h + W_ax @ x + b_a
        h = sigma(a)
        exponentials = np.exp(W_yh @ h + b_y)
        y = exponentials / exponentials.sum()
        truth = np.eye(V)[target]
        loss += -(truth * np.log(y)).sum()
        states.append(h)
        outputs.append(y)
    return np.array(states), np.array(outputs), loss


def test_LM9_equals_the_written_out_reference(model, word):
    states, outputs, loss = forward(model, word[0, :-1].tolist(), word[0, 1:].tolist())
    hidden = model.body(word[:, :-1])
    np.testing.assert_allclose(hidden[0].detach().numpy(), states, rtol=0, atol=1e-6)
    logits = model.head(hidden)
    np.testing.assert_allclose(logits[0].softmax(-1).detach().numpy(), outputs, rtol=0, atol=1e-6)
    total = F.cross_entropy(logits[0], word[0, 1:], reduction="sum")
    assert float(total.detach()) == pytest.approx(loss, abs=1e-6)
    stepped, _ = model.step(word[:, :-1], model.init_state(1, T))
    np.testing.assert_allclose(stepped[0].softmax(-1).numpy(), outputs, rtol=0, atol=1e-6)


def test_LM9_one_bias_and_no_other_parameters(model):
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes == {
        "embedding.weight": (V, D),
        "layers.0.input": (D, D),
        "layers.0.hidden": (D, D),
        "layers.0.bias": (D,),
        "head.weight": (V, D),
        "head.bias": (V,),
    }


def test_LM9_logistic_by_pencil():
    """One unit, weights 1, bias 0, inputs ln 3 and -3/4: h_1 = σ(ln 3) = 3/4, then h_2 = σ(3/4 - 3/4) = 1/2."""
    model = build(RecurrentSettings(kind="rnn", width=1, nonlinearity="logistic"), 2).double()
    with torch.no_grad():
        model.embedding.weight.copy_(torch.tensor([[math.log(3)], [-0.75]]))
        model.layers[0].input.fill_(1.0)
        model.layers[0].hidden.fill_(1.0)
    np.testing.assert_allclose(model.body(torch.tensor([[0, 1]]))[0, :, 0].detach(), [0.75, 0.5], atol=1e-12)


def test_LM9_gradients_are_those_of_finite_differences(model, word):
    names = [name for name, _ in model.named_parameters()]

    def loss(*values):
        def total(ids, targets):
            return F.cross_entropy(model.head(model.body(ids))[0], targets, reduction="sum")

        return torch.func.functional_call(Loss(model, total), {f"model.{n}": v for n, v in zip(names, values)}, (word,))

    values = tuple(parameter.detach().clone().requires_grad_() for parameter in model.parameters())
    assert torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-5)


class Loss(torch.nn.Module):
    """The summed loss of a word as a module, so that its parameters can be exchanged."""

    def __init__(self, model, total):
        super().__init__()
        self.model, self.total = model, total

    def forward(self, word):
        return self.total(word[:, :-1], word[0, 1:])


def test_LM9_log_probability_of_a_word_is_the_sum_over_its_letters(model, word):
    """log p(w) = Σ_t log p(w_t | h_t), against the probabilities of the written-out network."""
    _, outputs, _ = forward(model, word[0, :-1].tolist(), word[0, 1:].tolist())
    expected = sum(math.log(outputs[t, target]) for t, target in enumerate(word[0, 1:].tolist()))
    assert float(model.score(word).sum()) == pytest.approx(expected, abs=1e-9)
