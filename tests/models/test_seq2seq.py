"""The recurrent encoder and decoder against torch's modules and the papers' equations; sources padded, put, refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from idiolect import seeds
from idiolect.errors import UserError
from idiolect.models.build import build
from idiolect.models.settings import Seq2SeqSettings

V, B, T, S, D, E = 101, 3, 7, 11, 5, 13
LENGTHS = torch.tensor([11, 1, 6])
CELLS = {"rnn": (nn.RNN, nn.RNNCell), "lstm": (nn.LSTM, nn.LSTMCell), "gru": (nn.GRU, nn.GRUCell)}


def draw(high, *shape, seed=0):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def loud(**settings):
    """A model whose parameters, biases too, are far from their first values."""
    model = build(Seq2SeqSettings(width=D, embedding_width=E, context=19, **settings), V)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    return model.eval()


def fill(theirs, layer, end):
    """Our layer's weights in torch's module, whose names end so."""
    getattr(theirs, f"weight_ih{end}").copy_(layer.input)
    getattr(theirs, f"weight_hh{end}").copy_(layer.hidden)
    getattr(theirs, f"bias_ih{end}").copy_(layer.bias)
    getattr(theirs, f"bias_hh{end}").copy_(0.0 if layer.hidden_bias is None else layer.hidden_bias)


@torch.no_grad()
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_encoder_equals_torchs_module_over_packed_sources(cell, bidirectional):
    model = loud(cell=cell, layers=2, attention="none", bidirectional=bidirectional)
    theirs = CELLS[cell][0](E, D, num_layers=2, batch_first=True, bidirectional=bidirectional)
    for i in range(2):
        fill(theirs, model.encoder.forwards[i], f"_l{i}")
        if bidirectional:
            fill(theirs, model.encoder.backwards[i], f"_l{i}_reverse")
    x = model.embedding(draw(V, B, S))
    packed = nn.utils.rnn.pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    expected, final = theirs(packed)
    expected, _ = nn.utils.rnn.pad_packed_sequence(expected, batch_first=True)
    annotations = model.encoder(x, LENGTHS)
    for b, n in enumerate(LENGTHS):
        torch.testing.assert_close(annotations[b, :n], expected[b, :n], rtol=0, atol=1e-6)
    final = final[0] if cell == "lstm" else final  # [layers, directions] as rows
    summary = torch.cat(tuple(final[2:] if bidirectional else final[1:]), dim=-1)
    torch.testing.assert_close(model.encode(draw(V, B, S), LENGTHS).annotations[:, 0], summary, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("attention", ["none", "bahdanau"])
def test_the_decoder_follows_the_equations(cell, attention):
    """One example, one position after the other, as the papers write it."""
    model = loud(cell=cell, layers=2, attention=attention)
    ids, source = draw(V, T), draw(V, S, seed=1)
    h = model.encoder(model.embedding(source)[None], torch.tensor([S]))[0]
    summary = torch.cat((h[-1, :D], h[0, D:]))
    cells = []
    for layer in model.layers:
        cells.append(CELLS[cell][1](layer.input.shape[1], D))
        fill(cells[-1], layer, "")
    hidden = (model.start.weight @ summary + model.start.bias).tanh().view(2, D)
    states = [(s, torch.zeros(D)) if cell == "lstm" else s for s in hidden]
    shown, alignments = [], []
    for y in model.embedding(ids):
        context = summary
        if attention == "bahdanau":
            s = states[0][0] if cell == "lstm" else states[0]
            W, U, v = model.attention.query.weight, model.attention.key.weight, model.attention.energy.weight[0]
            alpha = torch.stack([v @ (W @ s + U @ h_j).tanh() for h_j in h]).exp()
            alignments.append(alpha / alpha.sum())
            context = sum(a * h_j for a, h_j in zip(alignments[-1], h, strict=True))
        x = torch.cat((y, context))
        for i, one in enumerate(cells):
            states[i] = one(x, states[i])
            x = states[i][0] if cell == "lstm" else states[i]
        shown.append((model.readout.weight @ torch.cat((y, x, context)) + model.readout.bias).tanh())
    hidden = model.body(ids[None], source[None])
    torch.testing.assert_close(hidden[0], torch.stack(shown), rtol=0, atol=1e-5)
    if attention == "bahdanau":
        found = model.alignments(ids, source)
        assert found.shape == (1, 1, T, S)
        torch.testing.assert_close(found[0, 0], torch.stack(alignments), rtol=0, atol=1e-5)
    else:
        with pytest.raises(UserError, match="no attention"):
            model.alignments(ids, source)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["none", "bahdanau"])
@pytest.mark.parametrize("cell", CELLS)
def test_padded_sources_equal_sources_alone(cell, attention):
    model = loud(cell=cell, layers=2, attention=attention)
    ids, source = draw(V, B, T), draw(V, B, S, seed=1)
    padded = torch.where(torch.arange(S) < LENGTHS[:, None], source, V)  # an id that the model has no row for
    hidden, scores = model.body(ids, padded, LENGTHS), model.score(ids, None, padded, LENGTHS)
    for b, n in enumerate(LENGTHS):
        torch.testing.assert_close(hidden[b], model.body(ids[b : b + 1], source[b : b + 1, :n])[0], rtol=0, atol=1e-5)
        alone = model.score(ids[b : b + 1], None, source[b : b + 1, :n])
        torch.testing.assert_close(scores[b], alone[0], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["none", "bahdanau"])
def test_states_carry_their_sources(attention):
    """Rows forked and put into slots, beside longer and shorter sources, go on with their own."""
    model = loud(attention=attention)
    ids, source = draw(V, B, T), draw(V, B, S, seed=1)
    state = model.init_state(B, T, source, LENGTHS)
    _, state = model.step(ids[:, :3], state)
    short = model.init_state(1, T, source[:1, :4])
    _, short = model.step(ids[:1, :2], short)
    fork = state.select(torch.tensor([2, 2]))
    state.put(torch.tensor([0]), short)
    short.put(torch.tensor([0]), fork.select(torch.tensor([1])))
    logits, _ = model.step(ids[:, 4:6], state)
    forked, _ = model.step(ids[:2, 4:6], fork)
    moved, _ = model.step(ids[:1, 4:6], short)
    expected = [(ids[0, :2], source[:1, :4]), (ids[1, :3], source[1:2, :1]), (ids[2, :3], source[2:, :6])]

    def alone(begin, one, more):
        fresh = model.init_state(1, T, one)
        return model.step(torch.cat((begin, more))[None], fresh)[0][0, len(begin) :]

    for b, (begin, one) in enumerate(expected):
        torch.testing.assert_close(logits[b], alone(begin, one, ids[b, 4:6]), rtol=0, atol=1e-5)
    for b in range(2):
        torch.testing.assert_close(forked[b], alone(*expected[2], ids[b, 4:6]), rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[0], alone(*expected[2], ids[0, 4:6]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_source_of_frames_takes_the_place_of_tokens():
    model = loud(source_features=3)
    frames = torch.randn(B, S, 3, generator=torch.Generator().manual_seed(1))
    ids = draw(V, B, T)
    for b, n in enumerate(LENGTHS):
        alone = model.body(ids[b : b + 1], frames[b : b + 1, :n])
        torch.testing.assert_close(model.body(ids, frames, LENGTHS)[b], alone[0], rtol=0, atol=1e-5)
    assert not torch.allclose(model.body(ids, frames), model.body(ids, frames + 1))


def test_no_gradient_comes_from_padding():
    model = loud()
    embedded = []
    model.embedding.register_forward_hook(lambda _, __, out: embedded.append(out) or out.retain_grad())
    model.body(draw(V, B, T), draw(V, B, S), LENGTHS).square().sum().backward()
    gradient = embedded[0].grad  # of the source
    for b, n in enumerate(LENGTHS):
        assert gradient[b, :n].abs().amax(-1).min() > 0
        assert gradient[b, n:].abs().sum() == 0


@pytest.mark.parametrize("attention", ["none", "bahdanau"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.filterwarnings("error")
def test_autocast_is_near_and_every_parameter_learns(cell, attention):
    model = loud(cell=cell, layers=2, attention=attention)
    ids, source = draw(V, B, T), draw(V, B, S, seed=1)
    expected = model.body(ids, source, LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.body(ids, source, LENGTHS)
        model.step(ids, model.init_state(B, T, source, LENGTHS))
        model.head(hidden).float().square().sum().backward()
    torch.testing.assert_close(hidden.float(), expected, rtol=0, atol=0.1)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tied", [False, True])
def test_initial_loss_is_about_that_of_a_uniform_guess(cell, tied):
    model = build(Seq2SeqSettings(cell=cell, width=64, tied=tied), V)
    logits = model.head(model.body(draw(V, 8, 32), draw(V, 8, 32, seed=1)))
    loss = F.cross_entropy(logits.flatten(0, 1), draw(V, 8, 32, seed=2).flatten())
    assert float(loss.detach()) == pytest.approx(math.log(V), abs=0.2)


def test_activation_checkpointing_changes_no_gradient():
    gradients = []
    for switch in (False, True):
        model = build(Seq2SeqSettings(layers=2, width=D, dropout=0.3), V)
        model.activation_checkpointing = switch
        with seeds.scope(0, "dropout"):
            model.head(model.body(draw(V, B, T), draw(V, B, S), LENGTHS)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_what_is_too_long_is_refused():
    model = loud(source_context=S)
    with pytest.raises(UserError, match="source_context"):
        model.body(draw(V, B, T), draw(V, B, S + 1))
    with pytest.raises(UserError, match="context of 19"):
        model.body(draw(V, B, 20), draw(V, B, S))
    with pytest.raises(UserError, match="context of 19"):
        model.init_state(B, 20, draw(V, B, S))
