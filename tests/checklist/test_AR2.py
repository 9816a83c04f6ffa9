"""AR2: A = softmax(Q Kᵀ / √d) V, with queries, keys and values from learnt weights."""

import math

import pytest
import torch

from idiolect.models.build import build
from idiolect.models.layers import Attention, reach
from idiolect.models.settings import DecoderSettings

B, T, D, H, d = 2, 11, 13, 6, 4


@pytest.mark.parametrize(
    ("kv_heads", "window", "bias"), [(6, None, "all"), (2, None, "none"), (3, 5, "qkv"), (1, 1, "none")]
)
def test_AR2_naive_loop_equals_fused_kernel(kv_heads, window, bias):
    settings = DecoderSettings(
        width=D, heads=H, kv_heads=kv_heads, head_width=d, window=window, attention_bias=bias, position="none"
    )
    attention = Attention(settings)
    x = torch.randn(B, T, D, generator=torch.Generator().manual_seed(1))
    index = torch.arange(T)
    fused = attention(x) if window is None else attention(x, mask=reach(index, index, window))
    with torch.no_grad():
        for b in range(B):
            for t in range(T):
                heads = []
                for h in range(H):
                    mine, shared = slice(h * d, (h + 1) * d), h // (H // kv_heads)
                    theirs = slice(shared * d, (shared + 1) * d)
                    query = attention.query(x[b, t])[mine]
                    scores, values = [], []
                    for s in range(t + 1):
                        if window is not None and t - s >= window:
                            continue
                        key, value = attention.key(x[b, s])[theirs], attention.value(x[b, s])[theirs]
                        scores.append(sum(float(query[i] * key[i]) for i in range(d)) / math.sqrt(d))
                        values.append(value)
                    weights = [math.exp(score - max(scores)) for score in scores]
                    heads.append(sum(w / sum(weights) * value for w, value in zip(weights, values)))
                expected = attention.out(torch.cat(heads))
                torch.testing.assert_close(fused[b, t], expected, rtol=0, atol=1e-5)


def test_AR2_by_pencil():
    """Two positions, one head of width 1, Q = K = V = x: the second reads σ-weights e^{x2 x1}, e^{x2 x2}."""
    model = build(DecoderSettings(layers=1, heads=1, width=1, position="none"), 2)
    attention = model.blocks[0].attention
    with torch.no_grad():
        for layer in (attention.query, attention.key, attention.value, attention.out):
            layer.weight.fill_(1.0)
    out = attention(torch.tensor([[[0.0], [math.log(2.0) ** 0.5]]]))
    # scores of position 2: 0 and ln 2, so weights 1/3 and 2/3
    assert out[0, :, 0].tolist() == pytest.approx([0.0, 2 / 3 * math.log(2.0) ** 0.5], abs=1e-6)
