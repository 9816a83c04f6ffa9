import os
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from idiolect import native
from idiolect.data.batch import Batch
from idiolect.models import fused, layers
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings
from idiolect.train import objectives

BF16 = 2.0**-8
"""The spacing of bf16 around 1: results that are right differ by about half of it."""

needs_compiler = pytest.mark.skipif(fused.library() is None, reason="no C++ compiler here")
needs_bf16 = pytest.mark.skipif(
    fused.library() is None or not fused.library().attention_works(), reason="this CPU does not multiply bf16"
)


needs_products = pytest.mark.skipif(not fused.products(), reason="this CPU leaves its products to torch")


def drawn(*shape, scale=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * scale).bfloat16()


def assert_near(ours, exact, times=2.0):
    assert (ours.float() - exact).norm() <= times * BF16 * exact.norm() + 1e-5


def gradients(out, inputs, upstream):
    return torch.autograd.grad(out, inputs, upstream.to(out.dtype))


@needs_compiler
@pytest.mark.parametrize(("ours", "exact", "count"), [
    (fused.gelu, lambda x: F.gelu(x, approximate="tanh"), 1),
    (fused.swiglu, lambda gate, x: F.silu(gate) * x, 2),
], ids=["gelu", "swiglu"])  # fmt: skip
def test_activations_and_their_gradients_are_torchs_in_fp32(ours, exact, count):
    inputs = [drawn(7, 101 + i, scale=3)[:, :101].contiguous().requires_grad_() for i in range(count)]
    precise = [x.detach().float().requires_grad_() for x in inputs]
    upstream = drawn(101, 7).t()  # not contiguous
    assert_near(ours(*inputs), exact(*precise))
    for got, want in zip(gradients(ours(*inputs), inputs, upstream), gradients(exact(*precise), precise, upstream)):
        assert_near(got, want)


@needs_compiler
def test_activations_far_from_zero_are_the_identity_or_zero():
    x = torch.tensor([-300.0, -40.0, 0.0, 40.0, 300.0]).bfloat16()
    for got in (fused.gelu(x), fused.swiglu(x, torch.ones_like(x))):
        torch.testing.assert_close(got, torch.tensor([0, 0, 0, 40, 300]).bfloat16(), rtol=0, atol=1e-15)


@needs_compiler
@pytest.mark.parametrize("rows", [3, 64, 131])
@pytest.mark.parametrize("kind", ["layer", "layer without bias", "rms"])
def test_norms_and_their_gradients_are_torchs_in_fp32(kind, rows):
    x = (torch.randn(rows, 37, generator=torch.Generator().manual_seed(rows)) * 3 + 1).requires_grad_()
    weight, bias = (torch.linspace(0.5, 2, 37) + i for i in range(2))
    inputs = [x, weight.requires_grad_()] + ([bias.requires_grad_()] if kind == "layer" else [])
    ours = fused.norm(x, weight, bias if kind == "layer" else None, 1e-5, centre=kind != "rms")
    if kind == "rms":
        exact = F.rms_norm(x, (37,), weight, 1e-5)
    else:
        exact = F.layer_norm(x, (37,), weight, bias if kind == "layer" else None, 1e-5)
    assert ours.dtype == torch.bfloat16
    assert_near(ours, exact)
    upstream = drawn(rows, 37)
    for got, want in zip(gradients(ours, inputs, upstream), gradients(exact, inputs, upstream)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@needs_compiler
def test_cross_entropy_and_its_gradient_are_torchs_in_fp32():
    logits, labels = drawn(5, 50_257, scale=4), torch.tensor([0, 50_256, -100, 17, 4_001])
    exact = logits.float().requires_grad_()
    want = F.cross_entropy(exact, labels, reduction="none", ignore_index=-100)
    want.sum().backward()
    torch.testing.assert_close(fused.cross_entropy_(logits, labels), want.detach(), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(logits.float(), exact.grad, rtol=2 * BF16, atol=1e-6)


@needs_compiler
def test_cross_entropy_clears_what_lies_between_rows():
    buffer, labels = drawn(5, 101), torch.tensor([3, -100, 0, 96, 50])
    alone = buffer[:, :97].contiguous()
    losses = fused.cross_entropy_(buffer[:, :97], labels), fused.cross_entropy_(alone, labels)
    assert torch.equal(*losses) and torch.equal(buffer[:, :97], alone) and not buffer[:, 97:].any()


needs_products = pytest.mark.skipif(not fused.products(), reason="products are torch's here")


@needs_products
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n", "K", "N"), [(6, 2, 2), (7, 38, 62), (101, 1034, 66), (1543, 58, 134), (53, 34, 1030)])
def test_linear_layers_and_their_gradients_are_torchs_in_fp32(n, K, N, bias):
    layer, x = torch.nn.Linear(K, N, bias=bias), drawn(n, K)
    given = [x.requires_grad_(), *layer.parameters()]
    exact = F.linear(x.float(), layer.weight, layer.bias)
    with torch.autocast("cpu", torch.bfloat16):
        ours = fused.linear(layer, x)
    assert ours.dtype == torch.bfloat16
    assert_near(ours, exact)
    upstream = drawn(n, N)
    for got, want in zip(gradients(ours, given, upstream), gradients(exact, given, upstream)):
        assert got.dtype == want.dtype
        assert_near(got, want.float())


@needs_products
def test_products_add_in_place_and_keep_to_their_columns():
    x, dout, weight = drawn(13, 34), drawn(13, 22), drawn(22, 34).float()
    room = torch.full((13, 29), 3.0).bfloat16()
    fused.product(x, weight, None, room[:, 3:25])
    assert_near(room[:, 3:25], x.float() @ weight.t())
    assert (room[:, :3] == 3).all() and (room[:, 25:] == 3).all()
    dx = x.clone()
    assert_near(fused.product_input(dout, weight, dx, dx), x.float() + dout.float() @ weight)
    dw = weight.clone()
    assert_near(fused.product_weight(dout, x, dw), weight + dout.float().t() @ x.float())


@needs_products
def test_an_odd_number_of_outputs_is_read_past_its_end():
    dout, weight = torch.zeros(11, 9).bfloat16(), drawn(7, 6).float()
    dout[:, :7] = drawn(11, 7)
    assert_near(fused.product_input(dout[:, :7], weight, torch.empty(11, 6).bfloat16()), dout[:, :7].float() @ weight)


def ranges(B, T):
    """Documents of different lengths in each row: the first position that each query reads."""
    starts = torch.rand(B, T, generator=torch.Generator().manual_seed(T)) < 0.07
    return torch.where(starts, torch.arange(T), 0).cummax(dim=1).values.int()


def lstm_input(B, T, D):
    """x, vectors, and the three weights."""
    g = torch.Generator().manual_seed(5)
    weights = [torch.randn(shape, generator=g) * D**-0.5 for shape in ((4 * D, D), (4 * D, D), (4 * D,))]
    return torch.randn(B, T, D, generator=g), torch.randn(2, B, D, generator=g).bfloat16().float() / 2, weights


def lstm_and_gradients(run, B, T, D):
    x, vectors, weights = lstm_input(B, T, D)
    inputs = [given.requires_grad_() for given in (x, vectors, *weights)]
    outputs = run(x, vectors, weights)
    upstream = [drawn(*out.shape).to(out.dtype) for out in outputs]
    return [*outputs, *torch.autograd.grad(outputs, inputs, upstream)]


def torchs_lstm(x, vectors, weights):
    both = [*weights, torch.zeros_like(weights[2])]
    out, hidden, cell = torch.lstm(x, (vectors[:1], vectors[1:]), both, True, 1, 0.0, True, False, True)
    return out, torch.cat((hidden, cell))


@needs_products
@pytest.mark.parametrize(("B", "T", "D"), [(7, 5, 26), (2, 11, 64), (13, 3, 202)])
def test_an_lstm_and_its_gradients_are_torchs_in_fp32(B, T, D):
    exact = lstm_and_gradients(torchs_lstm, B, T, D)
    for ours, theirs in zip(lstm_and_gradients(fused.lstm, B, T, D), exact, strict=True):
        assert_near(ours, theirs)


@needs_products
def test_an_lstm_of_two_windows_is_that_of_one_and_no_row_sees_another():
    x, vectors, weights = lstm_input(7, 10, 26)
    whole, after = fused.lstm(x, vectors, weights)
    first, between = fused.lstm(x[:, :4], vectors, weights)
    second, end = fused.lstm(x[:, 4:], between, weights)
    assert torch.equal(torch.cat((first, second), dim=1), whole)
    assert torch.equal(end, after)
    alone, _ = fused.lstm(x[3:5], vectors[:, 3:5], weights)
    assert torch.equal(alone, whole[3:5])


@needs_bf16
@pytest.mark.parametrize("packed", [False, True], ids=["", "packed"])
@pytest.mark.parametrize(
    ("B", "T", "H", "K", "d"), [(2, 101, 6, 6, 64), (3, 47, 4, 2, 32), (1, 149, 3, 1, 16), (5, 1, 2, 2, 48)]
)
def test_attention_and_its_gradients_are_torchs_in_fp32(B, T, H, K, d, packed):
    whole = drawn(B, T, (H + 2 * K) * d).view(B, T, H + 2 * K, d)  # one tensor, as a joint projection makes it
    q, k, v = (part.detach().requires_grad_() for part in whole.split([H, K, K], dim=2))
    first = ranges(B, T) if packed else None
    mask = layers.between(torch.zeros(B, T) if first is None else first, torch.arange(T))[:, None]
    precise = [x.detach().float().requires_grad_() for x in (q, k, v)]
    heads = [x.transpose(1, 2) for x in precise]
    exact = F.scaled_dot_product_attention(*heads, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    ours, upstream = fused.attention(q, k, v, first), drawn(B, T, H, d)
    assert_near(ours, exact)
    for got, want in zip(gradients(ours, (q, k, v), upstream), gradients(exact, precise, upstream)):
        assert_near(got, want, times=3)


@needs_bf16
@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize(
    ("B", "T", "S", "H", "K", "d"), [(3, 101, 53, 6, 6, 64), (5, 7, 131, 4, 2, 32), (2, 1, 17, 3, 1, 16)]
)
def test_attention_to_another_sequence_and_its_gradients_are_torchs_in_fp32(B, T, S, H, K, d, scale):
    q, k, v = (drawn(B, n, heads, d, scale=0.5).requires_grad_() for n, heads in ((T, H), (S, K), (S + 1, K)))
    v = v[:, 1:].detach().requires_grad_()
    lengths = torch.tensor([S, 1, 5, S - 1, 16])[:B].int()
    precise = [x.detach().float().requires_grad_() for x in (q, k, v)]
    heads, mask = [x.transpose(1, 2) for x in precise], (torch.arange(S) < lengths[:, None])[:, None, None]
    exact = F.scaled_dot_product_attention(*heads, attn_mask=mask, enable_gqa=True, scale=scale).transpose(1, 2)
    ours, upstream = fused.attention(q, k, v, causal=False, lengths=lengths, scale=scale), drawn(B, T, H, d)
    assert_near(ours, exact, times=3)
    for got, want in zip(gradients(ours, (q, k, v), upstream), gradients(exact, precise, upstream)):
        assert_near(got, want, times=6 if scale else 3)
    k.data[1, 1:] = v.data[1, 1:] = 7.0  # what lies past a row's length is not read
    assert torch.equal(fused.attention(q, k, v, causal=False, lengths=lengths, scale=scale), ours)
    every = fused.attention(q, k, v, causal=False, scale=scale)
    whole = torch.full((B,), S).int()
    assert torch.equal(every, fused.attention(q, k, v, causal=False, lengths=whole, scale=scale))


@needs_bf16
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("B", "T", "S", "H", "K", "d"), [(3, 101, 53, 6, 6, 64), (5, 7, 83, 4, 2, 32)])
def test_attention_with_a_bias_and_its_gradients_are_torchs_in_fp32(B, T, S, H, K, d, causal):
    S = T if causal else S
    q, k, v = (drawn(B, n, heads, d, scale=0.5) for n, heads in ((T, H), (S, K), (S, K)))
    inputs = [x.requires_grad_() for x in (q, k, v, torch.linspace(-2, 2, H * T * S).sin().view(H, T, S))]
    lengths = None if causal else torch.tensor([S, 1, 5, S - 1, 16])[:B].int()
    mask = torch.ones(T, S).tril().bool() if causal else (torch.arange(S) < lengths[:, None])[:, None, None]
    precise = [x.detach().float().requires_grad_() for x in inputs]
    bias = torch.where(mask, precise[3], -torch.inf)
    heads = [x.transpose(1, 2) for x in precise[:3]]
    exact = F.scaled_dot_product_attention(*heads, attn_mask=bias, enable_gqa=True, scale=0.5).transpose(1, 2)
    ours = fused.attention(q, k, v, causal=causal, lengths=lengths, bias=inputs[3], scale=0.5)
    assert_near(ours, exact, times=3)
    upstream = drawn(B, T, H, d)
    for got, want in zip(gradients(ours, inputs, upstream), gradients(exact, precise, upstream), strict=True):
        assert_near(got, want, times=6)


@needs_bf16
def test_attention_with_scores_far_apart_neither_overflows_nor_vanishes():
    q = torch.full((1, 5, 1, 16), 60.0).bfloat16()
    k = torch.linspace(-60, 60, 5)[None, :, None, None].expand(1, 5, 1, 16).bfloat16()
    v = torch.eye(5, 16)[None, :, None].bfloat16()
    torch.testing.assert_close(fused.attention(q, k, v)[0, :, 0, :5].float(), torch.eye(5))


SETTINGS = {
    "gpt2": DecoderSettings(layers=2, heads=3, width=48, context=37, norm="layer", position="learned", mlp="gelu"),
    "llama": DecoderSettings(layers=2, heads=4, kv_heads=2, width=64, context=37, mlp="swiglu", qk_norm=True),
    "window": DecoderSettings(layers=2, heads=2, width=32, context=37, window=5),
    "after": DecoderSettings(layers=2, heads=2, width=32, context=37, norm_place="after", mlp="geglu"),
    "both": DecoderSettings(layers=2, heads=2, width=32, context=37, norm_place="both", norm="rms-offset"),
    "yarn": DecoderSettings(
        layers=2,
        heads=2,
        width=32,
        context=37,
        rope_scaling={"kind": "yarn", "factor": 4.0, "original_context": 9, "attention_factor": 1.3},
    ),
    "scaled": DecoderSettings(layers=2, heads=2, width=32, context=37, attention_scale=0.4, scaled_embedding=True),
    "capped": DecoderSettings(
        layers=2, heads=2, width=32, context=37, attention_softcap=0.5, logit_softcap=0.7, window=5, global_layers=[0]
    ),
    "in part": DecoderSettings(
        layers=2, heads=2, width=32, context=37, rope_share=0.5, unrotated_layers=[1], qk_norm=True, qk_norm_joint=True
    ),
    "experts": DecoderSettings(  # all of them, as rounding must not choose
        layers=2, heads=2, width=32, context=37, experts={"count": 3, "per_token": 3, "shared_width": 48}
    ),
    "residual": DecoderSettings(
        layers=2, heads=2, width=32, context=37, norm_place="residual", norm="layer", mlp="gelu-exact"
    ),
}
BATCHES = {
    "": None,
    "packed": (torch.arange(37) * 3 // 37).expand(3, 37),
}


def loss_and_gradients(settings, segments):
    model = build(settings, 101, seed=3)
    ids = torch.randint(0, 101, (3, 38), generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        loss = objectives.next_token(model, Batch(ids[:, :-1], ids[:, 1:], segments)).total
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


@needs_compiler
@pytest.mark.parametrize("segments", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_model_trains_the_same_without_a_compiler(monkeypatch, settings, segments):
    loss, ours = loss_and_gradients(settings, segments)
    monkeypatch.setattr(fused, "library", lambda: None)
    reference, theirs = loss_and_gradients(settings, segments)
    assert loss == pytest.approx(reference, rel=1e-3)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)  # both paths did run
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).norm() <= 0.03 * theirs[name].norm(), name


BLOCKS = {
    "gpt2": {"norm": "layer", "mlp": "gelu", "position": "learned"},
    "llama": {},
    "grouped, biased": {"kv_heads": 2, "attention_bias": "all", "mlp_bias": True},
    "gpt2, biased": {"norm": "layer", "mlp": "gelu", "attention_bias": "qkv", "mlp_bias": True},
}


def block_and_input(changes):
    settings = DecoderSettings(layers=1, heads=4, width=64, mlp_width=106, context=53, **changes)
    block, generator = layers.Block(settings), torch.Generator().manual_seed(5)
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator)
    rope = layers.rotary(torch.arange(53), 16, 1e4) if settings.position == "rope" else None
    return block, rope, torch.randn(3, 53, 64, generator=generator).requires_grad_(), drawn(3, 53, 64).float()


@needs_products
@pytest.mark.parametrize("packed", [False, True], ids=["", "packed"])
@pytest.mark.parametrize("changes", BLOCKS.values(), ids=BLOCKS.keys())
def test_a_block_and_its_gradients_are_those_of_its_modules_in_fp32(changes, packed):
    block, rope, x, upstream = block_and_input(changes)
    first = ranges(3, 53) if packed else None
    mask = None if first is None else layers.between(first, torch.arange(53))[:, None]
    exact, wanted = block(x, rope, mask), [x, *block.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        assert block.fuses(x)
        ours = block(x, rope, first=first)
    assert ours.dtype == torch.float32
    assert_near(ours, exact)
    for got, want in zip(gradients(ours, wanted, upstream), gradients(exact, wanted, upstream)):
        assert got.dtype == torch.float32
        assert (got - want).norm() <= 6 * BF16 * want.norm()


@needs_products
def test_a_block_with_frozen_parts_moves_the_others_alone():
    block, rope, x, upstream = block_and_input({"attention_bias": "all"})
    frozen = ["attention.key.weight", "attention.out.bias", "mlp.up.weight", "mlp_norm.weight"]
    for name in frozen:
        block.get_parameter(name).requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        block(x, rope).backward(upstream)
    assert sorted(name for name, p in block.named_parameters() if p.grad is None) == sorted(frozen)


class Around(torch.nn.Module):
    """Another module around one of ours."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, *arguments, **more):
        self.calls += 1
        return self.inner(*arguments, **more)


@needs_products
@pytest.mark.parametrize("part", ["attention", "mlp", "mlp_norm", "attention.query", "mlp.down"])
def test_a_block_with_a_hook_calls_it(part):
    block, rope, x, _ = block_and_input({})
    seen = []
    block.get_submodule(part).register_forward_hook(lambda *call: seen.append(part))
    with torch.autocast("cpu", torch.bfloat16):
        block(x, rope)
    assert seen == [part]


@needs_products
def test_a_block_is_left_to_its_modules_when_one_of_them_is_another():
    block, _, x, _ = block_and_input({})
    with torch.autocast("cpu", torch.bfloat16):
        assert block.fuses(x)
        assert not block.fuses(x.bfloat16())
        block.mlp.down = torch.nn.Sequential(block.mlp.down)  # as an adapter would
        assert not block.fuses(x)
        for name in ("mlp", "attention", "mlp_norm"):
            block, rope, x, _ = block_and_input({})
            whole = getattr(block, name)
            setattr(block, name, Around(whole))
            assert not block.fuses(x)
            assert block(x, rope).shape == x.shape and getattr(block, name).calls == 1
    others = [{"norm": "rms-offset"}, *({"norm_place": place} for place in ("after", "both", "residual"))]
    others += [{"mlp": mlp} for mlp in ("relu", "geglu", "gelu-exact")]
    for settings in (*others, {"qk_norm": True}, {"dropout": 0.1}):
        block, _, x, _ = block_and_input(settings)
        with torch.autocast("cpu", torch.bfloat16):
            assert not block.fuses(x)


@needs_compiler
def test_the_number_of_threads_changes_no_bit():
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            x = torch.randn(131, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
            weight = torch.ones(48, requires_grad=True)
            out = fused.swiglu(fused.norm(x, weight, None, 1e-5, True), fused.norm(x, weight, None, 1e-5, False))
            if fused.library().attention_works():
                head, bias = out[:130].view(2, 65, 3, 16), torch.ones(3, 65, 65, requires_grad=True)
                out = fused.attention(head, head, head) + fused.attention(head, head, head, bias=bias)
                results.append([torch.autograd.grad(out.float().sum(), bias, retain_graph=True)[0]])
            results.append([out, *torch.autograd.grad(out.float().sum(), (x, weight))])
            if not fused.products():  # torch's own products make no such promise
                continue
            block, rope, x, upstream = block_and_input({})
            with torch.autocast("cpu", torch.bfloat16):
                out = block(x, rope)
            results[-1] += [out, *torch.autograd.grad(out, [x, *block.parameters()], upstream)]
            results[-1] += lstm_and_gradients(fused.lstm, 7, 5, 26)
    finally:
        torch.set_num_threads(before)
    half = len(results) // 2
    assert all(torch.equal(a, b) for one, two in zip(results[:half], results[half:]) for a, b in zip(one, two))


@needs_compiler
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["gelu", "swiglu"])
def test_a_linear_layer_of_an_activation_keeps_only_its_inputs(kind, bias):
    linear = torch.nn.Linear(16, 5, bias=bias)
    inputs = [drawn(3, 7, 16 + i)[..., :16].contiguous().requires_grad_() for i in range(2 if kind == "swiglu" else 1)]
    sizes, wanted = [], [*linear.parameters(), *inputs]

    def pack(kept):
        sizes.append(kept.numel())
        return kept

    with torch.autocast("cpu", torch.bfloat16):
        plain = linear(getattr(fused, kind)(*inputs))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
            ours = fused.activated(linear, kind, *inputs)
    torch.testing.assert_close(ours, plain, rtol=2 * BF16, atol=BF16)  # the bias may have been rounded before
    assert sorted(sizes) == [16 * 5, *(3 * 7 * 16 for _ in inputs)]
    upstream = drawn(3, 7, 5)
    for got, want in zip(gradients(ours, wanted, upstream), gradients(plain, wanted, upstream)):
        assert got.dtype == want.dtype
        assert_near(got, want.float())


@needs_compiler
def test_what_is_not_a_number_stays_so():
    x = torch.full((3, 32), 1.0)
    x[1, 4] = torch.nan
    one = torch.ones(32)
    bad = fused.norm(x, one, None, 1e-5, True)
    assert bad[1].isnan().all() and not bad[0].isnan().any()
    assert fused.gelu(bad)[1].isnan().all()
    assert fused.swiglu(bad, bad)[1].isnan().all()
    assert fused.cross_entropy_(bad, torch.tensor([0, 1, 2]))[1].isnan()


def test_other_types_and_devices_and_traced_graphs_take_torchs_operations():
    x = torch.ones(2, 3)
    assert not fused.usable(x) and not fused.usable(x.half()) and not fused.usable(x.to("meta").bfloat16())
    with torch.autocast("cpu", torch.float16):
        assert not fused.usable(x)
    assert not fused.attends(x.bfloat16(), 24)


# The loader


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A cache of its own, and nothing loaded before."""
    monkeypatch.setenv("IDIOLECT_CACHE", str(tmp_path / "cache"))
    native.load.cache_clear()
    yield tmp_path
    native.load.cache_clear()


def source(folder, text='extern "C" int answer() { return 42; }'):
    path = folder / "small.cpp"
    path.write_text(text)
    return path


@needs_compiler
def test_a_kernel_is_compiled_once_and_anew_when_its_source_changes(fresh):
    assert native.load(source(fresh)).answer() == 42
    made = list((fresh / "cache" / "native").glob("small-*/kernel.so"))
    assert len(made) == 1
    before = made[0].stat().st_mtime_ns
    native.load.cache_clear()
    assert native.load(source(fresh)).answer() == 42
    assert made[0].stat().st_mtime_ns == before
    native.load.cache_clear()
    assert native.load(source(fresh, 'extern "C" int answer() { return 43; }')).answer() == 43


@needs_compiler
def test_what_does_not_compile_is_said_in_one_line_and_leaves_nothing(fresh, capsys):
    assert native.load(source(fresh, "this is no C++")) is None
    said = capsys.readouterr().err
    assert said.startswith("small.cpp was not compiled; ") and len(said.splitlines()) == 1
    assert [path.name for path in (fresh / "cache" / "native").iterdir()] == ["lock"]


@needs_compiler
@pytest.mark.parametrize("damage", [b"", b"no library"])
def test_a_kernel_that_was_damaged_is_compiled_again(fresh, damage):
    path = source(fresh)
    made = Path(native.load(path)._name)
    whole = made.read_bytes()
    os.unlink(made)  # which is still mapped
    made.write_bytes(damage)
    native.load.cache_clear()
    assert native.load(path).answer() == 42
    assert made.read_bytes() == whole


def test_without_a_compiler_there_is_nothing_to_call(fresh, monkeypatch):
    monkeypatch.setattr(native.devices, "compiler", lambda: None)
    assert native.load(source(fresh)) is None


@needs_compiler
def test_two_that_compile_at_once_both_get_it(fresh):
    path, found = source(fresh), []
    threads = [threading.Thread(target=lambda: found.append(native.load.__wrapped__(path).answer())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [42] * 4
