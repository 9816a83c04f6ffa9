"""AR4: an encoder's positions all see each other, a decoder's see what came before; both pass messages on a graph."""

import math

import pytest
import torch

from idiolect.models.build import build
from idiolect.models.layers import Attention, Block
from idiolect.models.settings import DecoderSettings, EncoderSettings

V, T = 29, 13

DECODERS = {
    "llama": DecoderSettings(layers=3, heads=4, kv_heads=2, width=22, head_width=6),
    "gpt2": DecoderSettings(
        layers=3,
        heads=2,
        width=22,
        norm="layer",
        position="learned",
        mlp="gelu",
        attention_bias="all",
        mlp_bias=True,
    ),
    "window": DecoderSettings(layers=2, heads=2, width=12, window=4),
}


def sequence():
    return torch.randint(0, V, (2, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("t", [1, 6, 12])
def test_AR4_what_follows_leaves_a_decoders_logits_bit_identical(name, t):
    model = build(DECODERS[name], V, seed=1).eval()
    ids, other = sequence(), sequence()
    other[:, t:] = (other[:, t:] + 1 + torch.arange(T - t)) % V
    with torch.no_grad():
        before, after = model.head(model.body(ids)), model.head(model.body(other))
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t:], after[:, t:])


ENCODERS = {
    "new": EncoderSettings(layers=3, heads=4, kv_heads=2, width=22, head_width=6),
    "bert": EncoderSettings(
        layers=2,
        heads=2,
        width=22,
        norm="layer",
        norm_place="residual",
        position="learned",
        mlp="gelu-exact",
        attention_bias="all",
        mlp_bias=True,
        embedding_norm=True,
        head="transform",
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("t", [1, 6, 12])
def test_AR4_what_follows_changes_all_of_an_encoder_models_logits(name, t):
    model = build(ENCODERS[name], V, seed=1).eval()
    ids, other = sequence(), sequence()
    other[:, t:] = (other[:, t:] + 1 + torch.arange(T - t)) % V
    with torch.no_grad():
        before, after = (model.head(model.transform(model.body(given))) for given in (ids, other))
    assert (before != after).any(-1).all()


def encode(blocks, x):
    """The same blocks, fully connected."""
    for block in blocks:
        x = block(x, causal=False)
    return x


def test_AR4_what_follows_changes_an_encoder():
    model = build(DECODERS["llama"], V, seed=1).eval()
    ids, other = sequence(), sequence()
    other[:, -1] = (other[:, -1] + 1) % V
    before, after = encode(model.blocks, model.embedding(ids)), encode(model.blocks, model.embedding(other))
    assert (before[:, :-1] != after[:, :-1]).any(-1).all()  # every earlier position hears of it


GRAPHS = {
    "full": torch.ones(T, T, dtype=torch.bool),
    "causal": torch.ones(T, T).tril().bool(),
    "random": (torch.rand(T, T, generator=torch.Generator().manual_seed(5)) < 0.3) | torch.eye(T, dtype=torch.bool),
}
"""edge[t, s]: node t reads node s."""


@torch.no_grad()
def messages(attention, x, edges, order):
    """Attention as message passing: each node, in the given order, gathers from the nodes its edges come from."""
    H, d = 4, attention.d
    inbox = {}
    for t in order:
        sources = [s for s in range(T) if edges[t, s]]
        query = attention.query(x[t]).view(H, d)
        gathered = []
        for h in range(H):
            shared = h // 2  # two query heads to each key/value head
            keys = [attention.key(x[s]).view(2, d)[shared] for s in sources]
            values = [attention.value(x[s]).view(2, d)[shared] for s in sources]
            strengths = [math.exp(float(query[h] @ key) / math.sqrt(d)) for key in keys]
            gathered.append(sum(a / sum(strengths) * value for a, value in zip(strengths, values)))
        inbox[t] = attention.out(torch.cat(gathered))
    return torch.stack([inbox[t] for t in range(T)])


@pytest.mark.parametrize("name", GRAPHS)
def test_AR4_node_by_node_on_a_directed_graph_equals_the_matrix_form(name):
    settings = DecoderSettings(layers=1, heads=4, kv_heads=2, width=22, head_width=6, position="none")
    attention = Attention(settings).double()
    x = torch.randn(T, 22, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    edges = GRAPHS[name]
    for seed in (0, 1):  # the order of the nodes is of no consequence
        order = torch.randperm(T, generator=torch.Generator().manual_seed(seed)).tolist()
        passed = messages(attention, x, edges, order)
        torch.testing.assert_close(passed, attention(x[None], mask=edges)[0], rtol=0, atol=1e-6)
    if name != "random":  # the kernel's own forms of the two graphs everyone uses
        torch.testing.assert_close(passed, attention(x[None], causal=name == "causal")[0], rtol=0, atol=1e-6)


def test_AR4_an_unconnected_node_hears_nothing():
    """Node 0 reads only itself: whatever the others say, its block output stays."""
    block = Block(DECODERS["llama"])
    x = torch.randn(1, T, 22)
    other = x.clone()
    other[:, 1:] += 1
    edges = GRAPHS["full"].clone()
    edges[0, 1:] = False
    assert torch.equal(block(x, mask=edges)[:, 0], block(other, mask=edges)[:, 0])
    assert not torch.equal(block(x, mask=edges)[:, 1], block(other, mask=edges)[:, 1])
