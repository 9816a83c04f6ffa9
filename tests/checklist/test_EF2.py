"""EF2: a cache keeps keys and values; queries, scores and weights are dropped."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from idiolect.models import stepping
from idiolect.models.build import build
from idiolect.models.decoder import BLOCK
from idiolect.models.settings import DecoderSettings

V, L, D, H, K, d, C = 37, 3, 22, 6, 2, 4, 200

SETTINGS = DecoderSettings(layers=L, heads=H, kv_heads=K, width=D, head_width=d, context=C)


@pytest.fixture
def model():
    return build(SETTINGS, V, seed=1).eval()


def tensors(value):
    """Every tensor reachable from a state."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors(item)]
    return [tensor for item in vars(value).values() for tensor in tensors(item)] if hasattr(value, "__dict__") else []


def test_EF2_cached_equals_uncached(model):
    ids = torch.randint(0, V, (2, 140), generator=torch.Generator().manual_seed(1))  # more than two blocks of the cache
    state = model.init_state(2, 140)
    logits, state = model.step(ids[:, :61], state)
    cached = [logits]
    for t in range(61, 140):
        logits, state = model.step(ids[:, t : t + 1], state)
        cached.append(logits)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(cached, 1), model.head(model.body(ids)), rtol=0, atol=1e-5)


def test_EF2_bytes_follow_the_formula(model):
    """2 (keys and values) · L · B · K · (S + 1) · d · 4 bytes: grouped heads, not query heads; one slot for padding."""
    B, S = 5, 89
    state = model.init_state(B, S)
    held = sum(tensor.numel() * tensor.element_size() for tensor in state.keys + state.values)
    assert held == 2 * L * B * K * (S + 1) * d * 4
    half = model.bfloat16().init_state(B, S)
    assert sum(tensor.numel() * tensor.element_size() for tensor in half.keys + half.values) == held // 2


def test_EF2_the_state_holds_keys_and_values_only(model):
    state = model.init_state(2, 50)
    _, state = model.step(torch.zeros(2, 31, dtype=torch.int64), state)
    _, state = model.step(torch.zeros(2, 1, dtype=torch.int64), state)
    found = {id(tensor) for tensor in tensors(state)}
    assert found == {id(tensor) for tensor in (*state.keys, *state.values, state.lengths)}
    # and what they hold is what the layers computed: recompute layer 0 from the embedding
    x = model.embed(torch.zeros(1, 32, dtype=torch.int64), torch.arange(32))
    rope = model.ropes(torch.arange(32), None)[0]
    _, keys, values = model.blocks[0].attention.project(model.blocks[0].attention_norm(x), rope)
    torch.testing.assert_close(state.keys[0][:1, :, :32], keys, rtol=0, atol=1e-6)
    torch.testing.assert_close(state.values[0][:1, :, :32], values, rtol=0, atol=1e-6)


def flops(function):
    """The plain form of attention, since the counter does not know the CPU's fused kernel."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_EF2_flops_of_a_cached_token_are_at_most_linear(model):
    """a: the weights once, 2 per number, and one block of the cache; b: scores and sums of each head, 4 H d a layer."""
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2)  # the embedding is the head too
    b = L * 4 * H * d
    a = 2 * matrices + b * BLOCK
    state = model.init_state(1, C)
    token = torch.zeros(1, 1, dtype=torch.int64)
    counted = []
    for t in range(1, C + 1):
        if t % 7 and t < C:  # every seventh token is counted
            model.step(token, state, last=True)
            continue
        counted.append(flops(lambda: model.step(token, state, last=True)))
        assert counted[-1] <= a + b * t
    assert counted[0] >= 2 * matrices  # the counter saw the products
    assert 0 < counted[-1] - counted[0] <= b * C  # flat but for attention, which is counted
    # without a cache the same token costs the whole text again
    half, whole = (flops(lambda: model.body(torch.zeros(1, t, dtype=torch.int64))) for t in (C // 2, C))
    assert whole > 2 * half > 50 * counted[-1]


@pytest.mark.skipif(stepping.library() is None, reason="no C++ compiler here")
def test_EF2_the_kernels_operations_are_exactly_linear(model):
    """The same token as one call into the kernel, which counts where it multiplies: no block of the cache, t slots."""
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2)
    state = model.init_state(1, C)
    token = torch.zeros(1, 1, dtype=torch.int64)
    for t in range(1, C + 1):
        kernel = stepping.stepper(model, model.settings, token, state)
        model.step(token, state, last=True)
        assert 2 * kernel.operations == 2 * matrices + L * 4 * H * d * t
