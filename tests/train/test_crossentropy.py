from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from idiolect.data.batch import IGNORE
from idiolect.train import crossentropy
from idiolect.train.crossentropy import linear_cross_entropy

N, D, V = 53, 7, 101


@pytest.fixture
def chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(crossentropy.CHUNK, "cpu", 11 * V)  # five chunks, the last one short
    monkeypatch.setattr(crossentropy, "FEWEST_ROWS", 1)


def parts(dtype: torch.dtype = torch.float32, bias: bool = True) -> list[torch.Tensor | None]:
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(N, D, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    w = torch.randn(V, D, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    b = torch.randn(V, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() if bias else None
    labels = torch.randint(0, V, (N,), generator=draw)
    labels[1], labels[2] = 0, V - 1
    labels[::4] = IGNORE
    return [x, w, b, labels]


def gradients(total: torch.Tensor, *tensors: torch.Tensor | None) -> list[torch.Tensor]:
    return list(torch.autograd.grad(total * 0.37, [t for t in tensors if t is not None]))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_equal_torch_in_loss_and_gradients(chunked: None, dtype: torch.dtype, bias: bool) -> None:
    x, w, b, labels = parts(dtype, bias)
    ours = linear_cross_entropy(x, w, b, labels)
    reference = F.cross_entropy(F.linear(x, w, b), labels, reduction="sum")
    close = 1e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(ours, reference, rtol=close, atol=0)
    for got, want in zip(gradients(ours, x, w, b), gradients(reference, x, w, b)):
        torch.testing.assert_close(got, want, rtol=close * 20, atol=close * 20)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in chunks"])
def test_capped_logits_equal_torch_in_loss_and_gradients(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, whole: bool, bias: bool
) -> None:
    if not whole:
        request.getfixturevalue("chunked")
    x, w, b, labels = parts(torch.float64, bias)
    ours = linear_cross_entropy(x, w, b, labels, softcap=1.7)
    capped = torch.tanh(F.linear(x, w, b) / 1.7) * 1.7
    reference = F.cross_entropy(capped, labels, reduction="sum")
    assert reference != F.cross_entropy(F.linear(x, w, b), labels, reduction="sum")
    torch.testing.assert_close(ours, reference, rtol=1e-13, atol=0)
    for got, want in zip(gradients(ours, x, w, b), gradients(reference, x, w, b)):
        torch.testing.assert_close(got, want, rtol=2e-12, atol=2e-12)


def test_chunks_equal_torchs_own_fused_operator(chunked: None) -> None:
    x, w, b, labels = parts()
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=11)
    theirs = F.linear_cross_entropy(x, w, labels, linear_bias=b, reduction="sum", options=options)
    torch.testing.assert_close(linear_cross_entropy(x, w, b, labels), theirs, rtol=1e-6, atol=0)


def test_one_row_by_hand() -> None:
    # logits 0, ln 2, ln 5: probabilities 1/8, 2/8, 5/8; label 1 costs ln 4
    w = torch.tensor([[0.0], [math.log(2)], [math.log(5)]])
    total = linear_cross_entropy(torch.ones(1, 1), w, None, torch.tensor([1]))
    assert total.item() == pytest.approx(math.log(4), abs=1e-6)


def test_shapes_before_the_last_are_free_and_nothing_supervised_is_zero(chunked: None) -> None:
    x, w, b, labels = parts()
    labels = torch.full_like(labels, IGNORE)
    total = linear_cross_entropy(x.reshape(1, N, D), w, b, labels.reshape(1, N))
    assert total.item() == 0
    assert all((g == 0).all() for g in gradients(total, x, w, b))


def test_large_logits_do_not_overflow(chunked: None) -> None:
    x, w, b, labels = parts()
    reference = F.cross_entropy(F.linear(x * 1000, w, b), labels, reduction="sum")
    torch.testing.assert_close(linear_cross_entropy(x * 1000, w, b, labels), reference, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_products_are_low_and_the_loss_is_fp32(chunked: None, dtype: torch.dtype) -> None:
    x, w, b, labels = parts()
    exact = linear_cross_entropy(x, w, b, labels)
    want = gradients(exact, x, w, b)
    with torch.autocast("cpu", dtype=dtype):
        total = linear_cross_entropy(x, w, b, labels)
    got = gradients(total, x, w, b)
    assert total.dtype == torch.float32
    assert total.item() != exact.item()  # it did run in low precision
    assert total.item() == pytest.approx(exact.item(), rel=2e-2)
    for g, h in zip(got, want):
        assert g.dtype == torch.float32
        assert (g - h).norm() < 2e-2 * h.norm()


def test_no_gradients_are_computed_where_none_are_wanted(chunked: None) -> None:
    x, w, b, labels = parts()
    with torch.no_grad():
        total = linear_cross_entropy(x, w, b, labels)
    assert not total.requires_grad
    torch.testing.assert_close(total, F.cross_entropy(F.linear(x, w, b), labels, reduction="sum"))


@pytest.mark.parametrize("frozen", ["x", "w", "b", "w and b"])
def test_what_is_frozen_has_no_gradient_and_the_others_have_torchs(chunked: None, frozen: str) -> None:
    named = dict(zip("xwb", parts(torch.float64)))
    labels = parts(torch.float64)[3]
    assert labels is not None
    for name in frozen.split(" and "):
        named[name].requires_grad_(False)  # type: ignore[union-attr]
    moving = [tensor for tensor in named.values() if tensor is not None and tensor.requires_grad]
    x, w, b = named.values()
    ours = linear_cross_entropy(x, w, b, labels)  # type: ignore[arg-type]
    reference = F.cross_entropy(F.linear(x, w, b), labels, reduction="sum")  # type: ignore[arg-type]
    for got, want in zip(gradients(ours, *moving), gradients(reference, *moving), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_under_a_frozen_head_no_product_for_its_gradient_is_computed(
    chunked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w, _, labels = parts()
    assert x is not None and w is not None and labels is not None
    made: list[tuple[int, ...]] = []
    inner = crossentropy._loss_and_gradients

    def watched(*given: object) -> object:
        found = inner(*given)  # type: ignore[arg-type]
        made.append(tuple(0 if part is None else len(part) for part in found[1:]))
        return found

    monkeypatch.setattr(crossentropy, "_loss_and_gradients", watched)
    linear_cross_entropy(x, w.detach(), None, labels).backward()
    supervised = int((labels != IGNORE).sum())
    assert made == [(supervised, 0, 0)]  # of the rows that are supervised, and of nothing else


def test_only_one_backward(chunked: None) -> None:
    x, w, b, labels = parts()
    total = linear_cross_entropy(x, w, b, labels)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward"):
        total.backward()


def test_deterministic(chunked: None) -> None:
    runs = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            x, w, b, labels = parts()
            runs.append(gradients(linear_cross_entropy(x, w, b, labels), x, w, b))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*runs))


def test_the_logits_are_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MB of logits at once would be 2^24 floats; no single allocation may come near."""
    monkeypatch.setattr(crossentropy, "FEWEST_ROWS", 255)
    rows, vocabulary, width = 1024, 16_411, 8
    x, w = torch.randn(rows, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
    labels = torch.randint(0, vocabulary, (rows,))
    with torch.profiler.profile(profile_memory=True) as profile:
        linear_cross_entropy(x, w, None, labels).backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= crossentropy.CHUNK["cpu"] * 4
    with torch.profiler.profile(profile_memory=True) as profile:
        F.cross_entropy(F.linear(x, w), labels, reduction="sum").backward()
    assert max(event.cpu_memory_usage for event in profile.events()) >= rows * vocabulary * 4  # the probe does see it
