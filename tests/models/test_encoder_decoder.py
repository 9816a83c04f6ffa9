"""The encoder-decoder: one answer however it is asked, padding that changes nothing, and its fused arithmetic."""

import math

import pytest
import torch
import torch.nn.functional as F

from idiolect import seeds
from idiolect.errors import UserError
from idiolect.models import fused
from idiolect.models.build import build
from idiolect.models.encoder_decoder import attention_maps
from idiolect.models.relative import bucket, sinusoids
from idiolect.models.settings import EncoderDecoderSettings, EncoderSettings, EncoderSideSettings

V, B, T, S = 23, 5, 17, 13
LENGTHS = torch.tensor([13, 1, 7, 12, 2])
VASWANI = {
    "norm": "layer",
    "norm_place": "residual",
    "position": "sinusoidal",
    "mlp": "relu",
    "attention_bias": "all",
    "mlp_bias": True,
    "scaled_embedding": True,
    "scaled_scores": True,
    "scaled_head": False,
}
BERT = EncoderSettings(
    layers=2,
    heads=3,
    width=15,
    context=19,
    norm="layer",
    norm_place="residual",
    position="learned",
    mlp="gelu-exact",
    attention_bias="all",
    mlp_bias=True,
    embedding_norm=True,
    token_types=2,
    head="transform",
    pooler=True,
)
SETTINGS = {
    "2017": EncoderDecoderSettings(layers=2, heads=3, width=15, context=19, **VASWANI),
    "t5": EncoderDecoderSettings(
        layers=2, encoder_layers=3, heads=3, width=14, head_width=4, context=19, relative_buckets=6, relative_distance=9
    ),
    "grouped": EncoderDecoderSettings(
        layers=1, heads=6, kv_heads=2, width=13, head_width=2, context=19, qk_norm=True, position="rope", tied=False
    ),
    "learned": EncoderDecoderSettings(
        layers=1, heads=1, width=7, context=19, position="learned", norm_place="both", shared_embedding=False
    ),
    "frames": EncoderDecoderSettings(layers=2, heads=2, width=12, context=19, source_features=5, position="sinusoidal"),
    "own encoder": EncoderDecoderSettings(layers=1, heads=5, width=15, context=19, encoder=BERT),
    "other side": EncoderDecoderSettings(
        layers=1,
        heads=5,
        width=15,
        context=19,
        position="rope",
        head_width=2,
        encoder=EncoderSideSettings(layers=2, heads=3, width=15, context=19, position="learned"),
    ),
}


@pytest.fixture(params=SETTINGS)
def model(request):
    model = build(SETTINGS[request.param], V, seed=3)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):  # far from the initial symmetry
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    return model.eval()


@pytest.fixture
def ids():
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(7))


@pytest.fixture
def source(model):
    generator = torch.Generator().manual_seed(8)
    if model.settings.source_features:
        return torch.randn(B, S, model.settings.source_features, generator=generator)
    return torch.randint(0, V, (B, S), generator=generator)


def close(a, b):
    return torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def alone(model, ids, source, n):
    """Logits [T, V] of one target after one source of n positions, without a cache and without padding."""
    with torch.no_grad():
        return model.head(model.body(ids[None], source[None, :n]))[0].float()


def test_cached_equals_uncached_and_batch_equals_single(model, ids, source):
    state = model.init_state(B, T, source, LENGTHS)
    cached = []
    for t in range(T):
        logits, state = model.step(ids[:, t : t + 1], state)
        cached.append(logits)
    assert state.lengths.tolist() == [T] * B
    whole = model.head(model.body(ids, source, LENGTHS))
    pieces = model.init_state(B, T, source, LENGTHS)
    parts = []
    for start, end in ((0, 5), (5, 6), (6, 17)):
        logits, pieces = model.step(ids[:, start:end], pieces)
        parts.append(logits)
    for b in range(B):
        expected = alone(model, ids[b], source[b], LENGTHS[b])
        for found in (torch.cat(cached, dim=1)[b], torch.cat(parts, dim=1)[b], whole[b]):
            close(found, expected)


def test_what_lies_past_a_source_or_a_target_changes_nothing(model, ids, source):
    past = torch.arange(S) >= LENGTHS[:, None]
    other = source.clone()
    other[past] = V if source.dim() == 2 else torch.nan  # an id that the model has no row for
    lengths = torch.tensor([17, 1, 11, 0, 2])
    padded = torch.where(torch.arange(T) < lengths[:, None], ids, V)
    logits, state = model.step(padded, model.init_state(B, T + 1, other, LENGTHS), lengths)
    after, _ = model.step(ids[:, :1], state, last=True)
    only, _ = model.step(padded, model.init_state(B, T, other, LENGTHS), lengths, last=True)
    for b, n in enumerate(lengths.tolist()):
        expected = alone(model, torch.cat((ids[b, :n], ids[b, :1])), source[b], LENGTHS[b])
        close(logits[b, :n], expected[:n])
        close(after[b, 0], expected[n])
        if n:
            close(only[b, 0], expected[n - 1])
    close(model.body(ids, other, LENGTHS), model.body(ids, source, LENGTHS))
    close(model.body(ids, source, torch.full((B,), S)), model.body(ids, source))


def test_score_equals_step(model, ids, source):
    lengths = torch.tensor([17, 1, 11, 5, 2])
    scores = model.score(ids, lengths, source, LENGTHS)
    for b in range(B):
        logs = alone(model, ids[b], source[b], LENGTHS[b]).log_softmax(-1)
        for t in range(T):
            expected = logs[t - 1, ids[b, t]] if 0 < t < lengths[b] else 0.0
            assert float(scores[b, t]) == pytest.approx(float(expected), abs=1e-5)


def test_states_fork_fill_slots_and_go_back(model, ids, source):
    _, state = model.step(ids[:, :7], model.init_state(B, T, source, LENGTHS))
    rows = torch.tensor([2, 2, 4])
    fork = state.select(rows)
    forked, _ = model.step(ids[:3, 9:13], fork)
    kept, state = model.step(ids[:, 7:10], state)  # the original has not moved
    for i, b in enumerate(rows.tolist()):
        expected = alone(model, torch.cat((ids[b, :7], ids[i, 9:13])), source[b], LENGTHS[b])
        close(forked[i], expected[7:])
    for b in range(B):
        close(kept[b], alone(model, ids[b, :10], source[b], LENGTHS[b])[7:])
    longer = torch.cat((source, source), dim=1)[:, : 2 * S - 7]
    _, other = model.step(ids[:2, 3:8], model.init_state(2, 9, longer[:2]), torch.tensor([5, 2]))
    state.put(torch.tensor([3, 0]), other)
    _, third = model.step(ids[:1, :2], model.init_state(1, 4, source[2:3, :3]))
    state.put(torch.tensor([1]), third)
    state.truncate(torch.tensor([2, 1, 8, 4, 10]))
    logits, _ = model.step(ids[:, :4], state)
    n = longer.shape[1]
    begins = [
        (ids[1, 3:5], longer[1], n),
        (ids[0, :1], source[2], 3),
        (ids[2, :8], source[2], 7),
        (ids[0, 3:7], longer[0], n),
        (ids[4, :10], source[4], 2),
    ]
    for b, (begin, read, length) in enumerate(begins):
        close(logits[b], alone(model, torch.cat((begin, ids[b, :4])), read, length)[len(begin) :])


def test_an_empty_source_is_one_position_of_padding(model, ids, source):
    blank = torch.zeros_like(source[:, :1])
    expected = model.body(ids, blank)
    close(model.body(ids, source[:, :0]), expected)
    close(model.body(ids, source, torch.zeros(B, dtype=torch.int64)), expected)


def test_maps_of_attention_sum_to_one_and_show_what_is_read(model, ids, source):
    maps = attention_maps(model, ids[0], source[0])
    L, H = model.settings.layers, model.settings.heads
    encoder = model.settings.encoder
    blocks = model.settings.n_encoder if encoder is None else encoder.layers
    shapes = [(blocks, (encoder or model.settings).heads, S, S)]
    shapes += [(L, H, T, T), (L, H, T, S)]
    for found, shape in zip((maps.encoder, maps.decoder, maps.source), shapes, strict=True):
        assert found.shape == shape
        close(found.sum(-1), torch.ones(shape[:-1]))
    assert (maps.decoder.triu(1) == 0).all()
    close(model.alignments(ids[0], source[0]), maps.source)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_weights_of_a_source_are_those_that_mix_its_values(ids):
    """With values of one position set to a large number, what is read of it is what the map says."""
    settings = EncoderDecoderSettings(layers=1, heads=1, width=8, context=19, norm="layer")
    model = build(settings, V, seed=1).eval()
    source = torch.arange(5)
    cross, seen = model.decoder.blocks[0].cross, []
    cross.out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    maps = model.alignments(ids[0], source)
    memory = model.encode(source[None])
    expected = maps[0, 0] @ cross.values(memory)[0, 0]
    close(seen[0][0], expected)


@pytest.mark.parametrize("name", ["2017", "t5", "frames", "own encoder"])
def test_every_parameter_trains_and_recomputing_changes_no_gradient(name):
    gradients = []
    settings = SETTINGS[name].model_copy(update={"dropout": 0.3})
    source = torch.randint(0, V, (B, S)) if name != "frames" else torch.randn(B, S, 5)
    ids = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(7))
    for switch in (False, True):
        model = build(settings, V)
        model.activation_checkpointing = switch
        with seeds.scope(0, "dropout"):
            F.cross_entropy(model.head(model.body(ids, source, LENGTHS)).flatten(0, 1), ids.flatten()).backward()
        gradients.append([p.grad for p in model.parameters()])
        for key, parameter in model.named_parameters():
            # a bias of all keys shifts every score of a query alike, which the softmax cancels
            assert parameter.grad.abs().sum() > 0 or key.endswith("key.bias"), key
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_dropout_only_while_training(model, ids, source):
    dropped = build(model.settings.model_copy(update={"dropout": 0.5}), V, seed=3)
    dropped.load_state_dict(model.state_dict())
    assert not torch.equal(dropped.body(ids, source), dropped.body(ids, source))
    assert torch.equal(dropped.eval().body(ids, source), model.body(ids, source))


@pytest.mark.parametrize("changes", [{}, VASWANI, {"tied": False, "scaled_head": False}], ids=["t5", "2017", "untied"])
def test_the_first_loss_is_near_a_uniform_guess(changes):
    model = build(EncoderDecoderSettings(layers=2, heads=2, width=64, context=T, **changes), 499)
    ids = torch.randint(0, 499, (7, T + 1), generator=torch.Generator().manual_seed(1))
    loss = F.cross_entropy(model.head(model.body(ids[:, :-1], ids)).flatten(0, 1), ids[:, 1:].flatten())
    assert math.log(499) - 0.1 < float(loss.detach()) < math.log(499) + 1.5


def test_what_is_too_long_is_refused(ids):
    model = build(SETTINGS["learned"], V)
    with pytest.raises(UserError, match="20 positions of source are more than the context of 19"):
        model.body(ids, torch.zeros(B, 20, dtype=torch.int64))
    with pytest.raises(UserError, match="20 tokens are more than the context of 19"):
        model.body(torch.zeros(B, 20, dtype=torch.int64), ids)
    with pytest.raises(UserError, match="20 tokens are more than the context of 19"):
        model.init_state(B, 20, ids)
    free = build(SETTINGS["t5"], V)  # distances have no end
    assert free.encode(torch.zeros(1, 300, dtype=torch.int64)).shape == (1, 300, 14)
    with pytest.raises(UserError, match="20 positions of source are more than the context of 19"):
        build(SETTINGS["own encoder"], V).encode(torch.zeros(1, 20, dtype=torch.int64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 3}, "an encoder-decoder has no window"),
        ({"relative_buckets": 5}, "must be even"),
        ({"relative_buckets": 8, "relative_distance": 4}, "must be even, and relative_distance above half"),
        ({"heads": 3, "width": 18, "encoder": BERT}, r"the encoder's width \(15\) must be the decoder's \(18\)"),
        ({"heads": 3, "width": 15, "encoder": BERT, "encoder_layers": 2}, "takes no encoder_layers"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EncoderDecoderSettings(**{"width": 16, **changes})


def test_sinusoids_by_hand():
    """Position 3 of four components: sin 3, cos 3, sin 3/100, cos 3/100 (Vaswani et al. 2017, section 3.5)."""
    expected = [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]
    close(sinusoids(torch.tensor([3]), 4)[0], torch.tensor(expected))


def test_buckets_by_hand():
    """Of 8 buckets one side has 4: distances 0 and 1 alone, 2 to 5 and the rest by their logarithm up to 16."""
    both = bucket(torch.tensor([0, -1, -2, -5, -6, -99, 1, 2, 99]), 8, 16, causal=False)
    assert both.tolist() == [0, 1, 2, 2, 3, 3, 5, 6, 7]
    causal = bucket(torch.tensor([3, 0, -1, -3, -4, -5, -6, -99]), 8, 16, causal=True)
    assert causal.tolist() == [0, 0, 1, 3, 4, 4, 5, 7]


WIDE = {"layers": 2, "heads": 2, "width": 64, "head_width": 32, "context": 40}
FUSED = {
    "t5": EncoderDecoderSettings(**WIDE),
    "relu": EncoderDecoderSettings(**WIDE, mlp="relu", kv_heads=1),
    "2017": EncoderDecoderSettings(**WIDE, **VASWANI),
    "rope": EncoderDecoderSettings(**WIDE, position="rope", scaled_scores=True),
}


@pytest.mark.skipif(fused.library() is None or not fused.library().attention_works(), reason="no kernel for this CPU")
@pytest.mark.parametrize("name", FUSED)
def test_the_fused_arithmetic_gives_the_gradients_of_fp32(name):
    source = torch.randint(0, V, (4, 37), generator=torch.Generator().manual_seed(1))
    ids = torch.randint(0, V, (4, 31), generator=torch.Generator().manual_seed(2))
    lengths, found = torch.tensor([37, 1, 20, 5]), []
    for autocast in (False, True):
        model = build(FUSED[name], V, seed=5)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert model.decoder.fuses(torch.zeros(1, 1, 64)) == autocast
            hidden = model.body(ids, source, lengths)
        loss = F.cross_entropy(model.head(hidden.float()).flatten(0, 1), ids.flatten())
        loss.backward()
        found.append({key: p.grad for key, p in model.named_parameters()})
    for key, want in found[0].items():
        assert (found[1][key] - want).norm() <= 0.1 * want.norm() + 1e-4, key
