"""One model, many ways to ask it: cached = uncached, batch = single, pieces = whole, score = step, in every family."""

import pytest
import torch

from idiolect.models import stepping
from idiolect.models.build import build
from idiolect.models.settings import (
    CbowSettings,
    DecoderSettings,
    NGramSettings,
    RecurrentSettings,
    Seq2SeqSettings,
)

V, B, T, S = 23, 5, 17, 13
TOLERANCE = 1e-5

SETTINGS = {
    "rnn": RecurrentSettings(kind="rnn", layers=2, width=13),
    "rnn-logistic": RecurrentSettings(kind="rnn", layers=2, width=13, nonlinearity="logistic"),
    "lstm": RecurrentSettings(kind="lstm", layers=3, width=11),
    "gru": RecurrentSettings(kind="gru", layers=2, width=11, tied=True),
    "llama": DecoderSettings(layers=3, heads=2, width=14, head_width=6, context=19),
    "grouped": DecoderSettings(layers=2, heads=6, kv_heads=3, width=13, head_width=2, context=19, qk_norm=True),
    "window": DecoderSettings(layers=2, heads=3, width=12, context=19, window=3, tied=False, attention_bias="qkv"),
    "gpt2": DecoderSettings(
        layers=2,
        heads=3,
        width=15,
        context=19,
        norm="layer",
        position="learned",
        mlp="gelu",
        attention_bias="all",
        mlp_bias=True,
    ),
    "after": DecoderSettings(layers=2, heads=2, width=12, context=19, norm_place="after", mlp="geglu"),
    "both": DecoderSettings(layers=2, heads=2, width=12, context=19, norm_place="both", norm="rms-offset"),
    "residual": DecoderSettings(
        layers=2, heads=2, width=12, context=19, norm_place="residual", norm="layer", mlp="gelu-exact"
    ),
    "gemma": DecoderSettings(
        layers=3,
        heads=4,
        kv_heads=2,
        width=14,
        head_width=6,
        context=19,
        norm="rms-offset",
        norm_place="both",
        mlp="geglu",
        scaled_embedding=True,
        qk_norm=True,
        attention_scale=0.3,
        attention_softcap=2.0,
        logit_softcap=3.0,
        window=3,
        global_layers=[1],
        rope_theta=500.0,
        rope_local_theta=20.0,
        rope_scaling={"kind": "linear", "factor": 3.0},
    ),
    "longrope": DecoderSettings(
        layers=2,
        heads=2,
        width=14,
        head_width=10,
        context=19,
        rope_share=0.4,
        rope_scaling={"kind": "longrope", "short": [1.0, 1.5], "long": [2.0, 7.0], "original_context": 7},
    ),
    "joint norms": DecoderSettings(
        layers=2, heads=4, kv_heads=2, width=14, head_width=6, context=19, qk_norm=True, qk_norm_joint=True
    ),
    "some unrotated": DecoderSettings(
        layers=3,
        heads=2,
        width=12,
        context=19,
        unrotated_layers=[0, 2],
        rope_scaling={"kind": "yarn", "factor": 4.0, "original_context": 5},
    ),
    "mixture": DecoderSettings(
        layers=3,
        heads=2,
        width=12,
        mlp_width=17,
        context=19,
        experts={"count": 5, "per_token": 2, "width": 7, "shared_width": 11, "normalised": False, "dense_layers": [1]},
    ),
    "cbow": CbowSettings(width=13, window=5, left_only=True, loss="softmax"),
    "last-word": CbowSettings(width=13, window=1, left_only=True, loss="softmax"),
    "bare": DecoderSettings(layers=1, heads=1, width=7, context=19, position="none", mlp="relu"),
}
SETTINGS |= {f"{name} by torch": s for name, s in SETTINGS.items() if s.kind == "decoder"}  # without the kernel
ANSWERING = {
    "rnn without attention": Seq2SeqSettings(cell="rnn", width=11, attention="none", context=19, tied=False),
    "lstm without attention": Seq2SeqSettings(cell="lstm", layers=2, width=11, attention="none", context=19),
    "lstm with attention": Seq2SeqSettings(cell="lstm", layers=2, width=7, embedding_width=13, context=19),
    "gru with attention": Seq2SeqSettings(cell="gru", layers=3, width=11, bidirectional=False, context=19),
}
"""Models of a target given a source."""
COUNTED = {
    "mle": NGramSettings(order=3, smoothing="mle"),
    "add-k": NGramSettings(order=2, smoothing="add-k"),
    "stupid-backoff": NGramSettings(order=3, smoothing="stupid-backoff"),
    "kneser-ney": NGramSettings(order=5, smoothing="kneser-ney"),
    "infinite": NGramSettings(smoothing="infinite"),
}


class Documents:
    """Three documents for the n-grams to count."""

    ids = torch.randint(2, 7, (500,), generator=torch.Generator().manual_seed(13)).numpy()
    offsets = torch.tensor([0, 101, 311, 500]).numpy()


class Answering:
    """A model of targets, to be asked like any other: each row answers the same source, padded for a longer one."""

    def __init__(self, model):
        self.model, self.head, self.step = model, model.head, model.step
        self.source = torch.randint(0, V, (1, S), generator=torch.Generator().manual_seed(17))

    def sources(self, batch):
        return self.source.expand(batch, -1), torch.full((batch,), S - 2)

    def init_state(self, batch, length):
        return self.model.init_state(batch, length, *self.sources(batch))

    def body(self, ids):
        return self.model.body(ids, *self.sources(len(ids)))

    def score(self, ids, lengths=None):
        return self.model.score(ids, lengths, *self.sources(len(ids)))


@pytest.fixture(params=[*SETTINGS, *ANSWERING, *COUNTED])
def model(request, monkeypatch):
    if request.param.endswith("by torch"):
        monkeypatch.setattr(stepping, "library", lambda: None)
    if request.param in COUNTED:
        return build(COUNTED[request.param], V).fit(Documents)
    model = build((SETTINGS | ANSWERING)[request.param], V, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():  # far from the initial symmetry: no term may hide behind a small weight
            parameter.mul_(2).add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    model.eval()
    return Answering(model) if request.param in ANSWERING else model


@pytest.fixture
def ids(request):
    """Ids the n-grams have counted, too, so that their answers are not all the same."""
    high = 7 if any(name in request.node.name for name in COUNTED) else V
    return torch.randint(0, high, (B, T), generator=torch.Generator().manual_seed(7))


def whole(model, ids):
    """Logits [B, T, V] without a cache: one call on a fresh state for each prefix."""
    columns = []
    for t in range(1, ids.shape[1] + 1):
        logits, _ = model.step(ids[:, :t], model.init_state(len(ids), T), last=True)
        columns.append(logits)
    return torch.cat(columns, dim=1)


def close(a, b):
    return torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)


def test_cached_equals_uncached(model, ids):
    state = model.init_state(B, T)
    cached = []
    for t in range(T):
        logits, state = model.step(ids[:, t : t + 1], state)
        cached.append(logits)
    close(torch.cat(cached, dim=1), whole(model, ids))
    assert state.lengths.tolist() == [T] * B


@pytest.mark.parametrize("model", [*SETTINGS, *ANSWERING], indirect=True)
def test_body_and_head_equal_step(model, ids):
    logits, _ = model.step(ids, model.init_state(B, T))
    read = getattr(model, "prefixes", model.body)  # of a text that ends with each position
    close(model.head(read(ids)), logits)


def test_step_in_pieces_equals_step_at_once(model, ids):
    once, _ = model.step(ids, model.init_state(B, T))
    state = model.init_state(B, T)
    pieces = []
    for start, end in ((0, 5), (5, 6), (6, 13), (13, 17)):
        logits, state = model.step(ids[:, start:end], state)
        pieces.append(logits)
    close(torch.cat(pieces, dim=1), once)


def test_batch_equals_single_with_unequal_lengths(model, ids):
    lengths = torch.tensor([17, 1, 11, 0, 2])
    more = torch.tensor([0, 3, 2, 3, 1])  # after the prompts, uneven continuations; one row is full, one just begins
    state = model.init_state(B, T)
    first, state = model.step(ids, state, lengths)
    assert state.lengths.tolist() == lengths.tolist()
    second, state = model.step(ids[:, :3], state, more)
    third, state = model.step(ids[:, :1], state, torch.tensor([0, 1, 1, 1, 1]), last=True)
    assert state.lengths.tolist() == (lengths + more + torch.tensor([0, 1, 1, 1, 1])).tolist()
    for b in range(B):
        n, m = int(lengths[b]), int(more[b])
        sequence = torch.cat((ids[b, :n], ids[b, :m], ids[b, :1]))[None, :T]
        alone, _ = model.step(sequence, model.init_state(1, T))
        close(first[b, :n], alone[0, :n])
        close(second[b, :m], alone[0, n : n + m])
        if n < T:
            close(third[b, 0], alone[0, n + m])


def test_last_gives_each_rows_last_real_position(model, ids):
    lengths = torch.tensor([17, 1, 11, 5, 2])
    every, _ = model.step(ids, model.init_state(B, T), lengths)
    only, _ = model.step(ids, model.init_state(B, T), lengths, last=True)
    assert only.shape == (B, 1, V)
    for b in range(B):
        close(only[b, 0], every[b, lengths[b] - 1])


def test_score_equals_step(model, ids):
    lengths = torch.tensor([17, 1, 11, 5, 2])
    logs, _ = model.step(ids, model.init_state(B, T))
    logs = logs.log_softmax(-1) if hasattr(model, "head") else logs  # an n-gram's are log-probabilities
    scores = model.score(ids, lengths)
    for b in range(B):
        for t in range(T):
            expected = logs[b, t - 1, ids[b, t]] if 0 < t < lengths[b] else 0.0
            assert float(scores[b, t]) == pytest.approx(float(expected), abs=TOLERANCE)
    close(model.score(ids)[0], scores[0])


@pytest.mark.parametrize("model", [*SETTINGS, *ANSWERING], indirect=True)
def test_padding_may_hold_any_id(model, ids):
    """Also one past the vocabulary: a tokenizer may have been given a padding token that the model never saw."""
    lengths = torch.tensor([17, 1, 11, 5, 2])
    padded = torch.where(torch.arange(T) < lengths[:, None], ids, V)
    logits, state = model.step(padded, model.init_state(B, T + 1), lengths)
    expected, plain = model.step(ids, model.init_state(B, T + 1), lengths)
    for b in range(B):
        close(logits[b, : lengths[b]], expected[b, : lengths[b]])
    close(model.step(ids[:, :1], state)[0], model.step(ids[:, :1], plain)[0])
    close(model.score(padded, lengths), model.score(ids, lengths))


def test_select_forks_without_sharing(model, ids):
    lengths = torch.tensor([7, 1, 6, 5, 2])
    _, state = model.step(ids[:, :7], model.init_state(B, T), lengths)
    rows = torch.tensor([2, 2, 4])
    fork = state.select(rows)
    other = torch.randint(0, V, (3, 4), generator=torch.Generator().manual_seed(11))
    forked, _ = model.step(other, fork)
    kept, _ = model.step(ids[:, :4], state)  # the original has not moved
    for i, b in enumerate(rows.tolist()):
        alone, _ = model.step(torch.cat((ids[b, : lengths[b]], other[i]))[None], model.init_state(1, T))
        close(forked[i], alone[0, lengths[b] :])
    for b in range(B):
        alone, _ = model.step(torch.cat((ids[b, : lengths[b]], ids[b, :4]))[None], model.init_state(1, T))
        close(kept[b], alone[0, lengths[b] :])


def test_put_fills_slots(model, ids):
    _, state = model.step(ids[:, :7], model.init_state(B, T))
    _, fresh = model.step(ids[:2, 9:12], model.init_state(2, 5), torch.tensor([3, 2]))
    state.put(torch.tensor([3, 0]), fresh)
    assert state.lengths.tolist() == [2, 7, 7, 3, 7]
    logits, _ = model.step(ids[:, :4], state)
    for b, begin in enumerate((ids[1, 9:11], ids[1, :7], ids[2, :7], ids[0, 9:12], ids[4, :7])):
        alone, _ = model.step(torch.cat((begin, ids[b, :4]))[None], model.init_state(1, T))
        close(logits[b], alone[0, len(begin) :])


def test_truncate_goes_back_within_the_last_call(model, ids):
    _, state = model.step(ids[:, :3], model.init_state(B, T))
    _, state = model.step(ids[:, 3:9], state, torch.tensor([6, 6, 5, 2, 0]))
    kept = torch.tensor([3, 5, 8, 4, 3])
    state.truncate(kept)
    assert state.lengths.tolist() == kept.tolist()
    logits, _ = model.step(ids[:, 11:15], state)
    for b in range(B):
        alone, _ = model.step(torch.cat((ids[b, : kept[b]], ids[b, 11:15]))[None], model.init_state(1, T))
        close(logits[b], alone[0, kept[b] :])


def test_put_then_truncate(model, ids):
    _, state = model.step(ids[:, :7], model.init_state(B, T))
    _, other = model.step(ids[:1, 5:14], model.init_state(1, T))
    state.put(torch.tensor([2]), other)
    state.truncate(torch.tensor([7, 6, 4, 7, 1]))
    logits, _ = model.step(ids[:, :2], state)
    begins = (ids[0, :7], ids[1, :6], ids[0, 5:9], ids[3, :7], ids[4, :1])
    for b, begin in enumerate(begins):
        alone, _ = model.step(torch.cat((begin, ids[b, :2]))[None], model.init_state(1, T))
        close(logits[b], alone[0, len(begin) :])


def test_put_into_a_fresh_state_then_truncate(model, ids):
    state = model.init_state(3, T)
    _, other = model.step(ids[:1, :4], model.init_state(1, T))
    _, other = model.step(ids[:1, 4:9], other)
    state.put(torch.tensor([1]), other)
    assert state.lengths.tolist() == [0, 9, 0]
    state.truncate(torch.tensor([0, 6, 0]))
    logits, _ = model.step(ids[:3, :3], state)
    for b, begin in enumerate((ids[0, :0], ids[0, :6], ids[0, :0])):
        alone, _ = model.step(torch.cat((begin, ids[b, :3]))[None], model.init_state(1, T))
        close(logits[b], alone[0, len(begin) :])


@pytest.mark.parametrize("model", SETTINGS, indirect=True)
@pytest.mark.filterwarnings("error")
def test_autocast_is_near_and_trains(model, ids):
    segments = torch.tensor([[0] * 5 + [1] * 12] * B)
    expected = model.body(ids, segments)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.body(ids, segments)
        logits, state = model.step(ids[:, :9], model.init_state(B, T))
        model.step(ids[:, 9:], state)
    torch.testing.assert_close(hidden.float(), expected, rtol=0, atol=0.1 * float(expected.detach().abs().max()))
    hidden.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in model.named_parameters() if "head" not in n)


@pytest.mark.parametrize("name", SETTINGS)
def test_segments_equal_documents_apart(name, ids):
    model = build(SETTINGS[name], V, seed=3).eval()
    segments = torch.tensor([[0] * 5 + [1] * 11 + [2], [0] * 17, [0] + [1] * 9 + [-1] * 7])
    hidden = model.body(ids[:3], segments)
    for b, start, end in ((0, 0, 5), (0, 5, 16), (0, 16, 17), (1, 0, 17), (2, 0, 1), (2, 1, 10)):
        close(hidden[b, start:end], model.body(ids[b : b + 1, start:end])[0])
