"""Recurrent layers against torch's own modules, and what the settings promise."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from idiolect import seeds
from idiolect.models.build import build
from idiolect.models.settings import RecurrentSettings

V, B, T, D = 101, 3, 11, 7
KINDS = ("rnn", "lstm", "gru")
THEIRS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def sequence():
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))


def loud(model):
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_layers_equal_torchs_module(kind):
    model = loud(build(RecurrentSettings(kind=kind, layers=2, width=D), V))
    theirs = THEIRS[kind](D, D, num_layers=2, batch_first=True)
    with torch.no_grad():
        for i, layer in enumerate(model.layers):
            getattr(theirs, f"weight_ih_l{i}").copy_(layer.input)
            getattr(theirs, f"weight_hh_l{i}").copy_(layer.hidden)
            getattr(theirs, f"bias_ih_l{i}").copy_(layer.bias)
            getattr(theirs, f"bias_hh_l{i}").copy_(layer.hidden_bias if kind == "gru" else torch.zeros_like(layer.bias))
        ids = sequence()
        expected, final = theirs(model.embedding(ids))
        torch.testing.assert_close(model.body(ids), expected, rtol=0, atol=1e-6)
        _, state = model.step(ids, model.init_state(B, T))
    final = final if kind == "lstm" else (final,)
    torch.testing.assert_close(state.vectors, torch.stack(final, 0).permute(2, 1, 0, 3), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "layer"), [("rnn", 2 * D * D + D), ("lstm", 8 * D * D + 4 * D), ("gru", 6 * D * D + 6 * D)]
)
def test_parameters_equal_the_formula(kind, layer):
    """Matrices of input and state for each gate; one bias, but two where the GRU multiplies one by its reset gate."""
    for tied in (False, True):
        model = build(RecurrentSettings(kind=kind, layers=3, width=D, tied=tied), V)
        assert sum(p.numel() for p in model.parameters()) == V * D + 3 * layer + (0 if tied else V * D) + V


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_initial_loss_is_about_that_of_a_uniform_guess(kind, tied):
    model = build(RecurrentSettings(kind=kind, layers=2, width=64, tied=tied), V)
    logits = model.head(model.body(torch.randint(0, V, (8, 32), generator=torch.Generator().manual_seed(1))))
    labels = torch.randint(0, V, (8, 32), generator=torch.Generator().manual_seed(2))
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert float(loss.detach()) == pytest.approx(math.log(V), abs=0.2)


def test_forget_bias_is_as_set():
    for value in (1.0, 4.0):
        bias = build(RecurrentSettings(kind="lstm", width=D, forget_bias=value), V).layers[0].bias
        assert bias.tolist() == [0.0] * D + [value] * D + [0.0] * 2 * D


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_only_while_training(kind):
    model = build(RecurrentSettings(kind=kind, layers=2, width=D, dropout=0.4), V)
    ids = sequence()
    with seeds.scope(0, "a"):
        first = model.body(ids)
    with seeds.scope(0, "a"):
        assert torch.equal(model.body(ids), first)
    assert 0.2 < float((first == 0).float().mean()) < 0.6
    model.eval()
    assert torch.equal(model.body(ids), build(RecurrentSettings(kind=kind, layers=2, width=D), V).body(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_changes_no_gradient(kind):
    gradients = []
    for switch in (False, True):
        model = build(RecurrentSettings(kind=kind, layers=2, width=D, dropout=0.3, nonlinearity="logistic"), V)
        model.activation_checkpointing = switch
        with seeds.scope(0, "dropout"):
            model.head(model.body(sequence())).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients):
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_state_starts_at_zero_in_every_segment_and_gradients_flow_through():
    model = build(RecurrentSettings(kind="lstm", width=D), V)
    ids, segments = sequence(), torch.tensor([[0] * 4 + [1] * 7, [0] * 11, [0] * 9 + [-1] * 2])
    model.body(ids, segments).sum().backward()
    assert model.embedding.weight.grad[ids[0, 4]].abs().sum() > 0


def test_any_length_may_be_read():
    model = build(RecurrentSettings(kind="gru", width=D, context=5), V)
    assert model.context is None
    assert model.score(torch.zeros(1, 23, dtype=torch.int64)).shape == (1, 23)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_runs_and_is_near(kind):
    model, ids = build(RecurrentSettings(kind=kind, width=D), V), sequence()
    expected = model.score(ids)
    assert torch.allclose(model.bfloat16().score(ids), expected, atol=0.05)
    logits, _ = model.step(ids, model.init_state(B, T))
    assert logits.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_step_compiles_whole(kind):
    torch._dynamo.reset()
    model = build(RecurrentSettings(kind=kind, layers=2, width=D), V).eval()
    step = torch.compile(model.step, backend="eager", fullgraph=True)
    ids = sequence()
    expected, _ = model.step(ids, model.init_state(B, T))
    state = model.init_state(B, T)
    for t in range(T):
        logits, state = step(ids[:, t : t + 1], state)
        torch.testing.assert_close(logits[:, 0], expected[:, t], rtol=0, atol=1e-5)
