"""The encoder: every position reads every other, and neither padding nor a neighbour in the row changes anything."""

import pytest
import torch

from idiolect.decode.verbs import language_model
from idiolect.errors import UserError
from idiolect.interop.folder import Loaded
from idiolect.models import fused
from idiolect.models.build import build
from idiolect.models.settings import EncoderSettings

V, B, T = 23, 5, 17
BERT = {
    "norm": "layer",
    "norm_place": "residual",
    "position": "learned",
    "mlp": "gelu-exact",
    "attention_bias": "all",
    "mlp_bias": True,
    "token_types": 2,
    "embedding_norm": True,
    "head": "transform",
}
SETTINGS = {
    "bert": EncoderSettings(layers=2, heads=3, width=15, context=19, **BERT),
    "roberta": EncoderSettings(layers=2, heads=3, width=15, context=19, position_offset=2, **BERT),
    "new": EncoderSettings(layers=3, heads=2, width=14, head_width=6, context=19, embedding_norm=True),
    "grouped": EncoderSettings(layers=2, heads=6, kv_heads=3, width=13, head_width=2, context=19, qk_norm=True),
    "bare": EncoderSettings(layers=1, heads=1, width=7, context=19, position="none", mlp="relu", head="none"),
}


@pytest.fixture(params=SETTINGS)
def model(request):
    model = build(SETTINGS[request.param], V, seed=3)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    return model.eval()


@pytest.fixture
def ids():
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(7))


def close(a, b):
    return torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@torch.no_grad()
def test_batch_equals_single_and_padding_changes_nothing(model, ids):
    lengths = torch.tensor([17, 1, 11, 5, 2])
    padded = torch.where(torch.arange(T) < lengths[:, None], ids, V)  # an id that the model has no row for
    together = model.body(padded, lengths)
    for b in range(B):
        close(together[b, : lengths[b]], model.body(ids[b : b + 1, : lengths[b]])[0])
    close(model.body(ids, torch.full((B,), T)), model.body(ids))


@pytest.mark.skipif(not fused.products(), reason="this processor has no fused kernels")
@pytest.mark.parametrize("gradients", [False, True])
def test_the_kernel_reads_as_far_as_the_mask_lets(ids, gradients, monkeypatch):
    """In bf16, where lengths go to the kernel: the same hidden vectors and gradients, but for rounding."""
    found = {}
    for kernel in (True, False):
        if not kernel:
            monkeypatch.setattr(fused, "attends", lambda *_: False)
        model = build(SETTINGS["grouped"].model_copy(update={"head_width": 32}), V, seed=3)
        lengths = torch.tensor([17, 1, 11, 5, 2])
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.body(ids, lengths)
        real = hidden[torch.arange(T) < lengths[:, None]]
        real.float().pow(3).sum().backward()
        found[kernel] = torch.cat([p.grad.flatten() for p in model.parameters()]) if gradients else real.float()
    difference, size = (found[True] - found[False]).norm(), found[False].norm()
    assert 0 < difference < 0.02 * size


@torch.no_grad()
def test_a_row_without_tokens_is_still_numbers(model, ids):
    assert model.body(ids, torch.tensor([17, 0, 11, 5, 0])).isfinite().all()


@torch.no_grad()
def test_documents_that_share_a_row_read_only_themselves(model, ids):
    segments = torch.tensor([[0] * 5 + [1] * 9 + [-1] * 3] * B)
    together = model.body(ids, segments=segments)
    close(together[:, :5], model.body(ids[:, :5]))
    close(together[:, 5:14], model.body(ids[:, 5:14]))
    assert together.isfinite().all()


@torch.no_grad()
def test_every_position_reads_every_other(model, ids):
    for t in (0, 8, 16):
        changed = ids.clone()
        changed[:, t] = (ids[:, t] + 1) % V
        moved = (model.body(changed) - model.body(ids)).abs().amax(-1)
        assert (moved > 1e-6).all()


@torch.no_grad()
def test_types_tell_tokens_apart(ids):
    model = build(SETTINGS["bert"], V)
    first = torch.zeros_like(ids)
    assert torch.equal(model.body(ids), model.body(ids, types=first))
    assert not torch.equal(model.body(ids), model.body(ids, types=first + 1))


def test_recomputed_layers_have_the_same_gradients(ids):
    gradients = []
    for again in (False, True):
        model = build(SETTINGS["new"], V)
        model.activation_checkpointing = again
        model.head(model.transform(model.body(ids, torch.tensor([17, 1, 11, 5, 2])))).logsumexp(-1).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(map(torch.equal, *gradients))


def test_longer_texts_than_the_context_are_refused(model):
    with pytest.raises(UserError, match="20 tokens are more than the context of 19"):
        model.body(torch.zeros(1, 20, dtype=torch.int64))


def test_it_cannot_continue_a_text_and_says_why(model):
    with pytest.raises(UserError, match="cannot continue a text: it fills in what is hidden, and so looks into the"):
        language_model(Loaded(model, None, {}, model.settings), "folder")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"window": 5}, "no window"),
        ({"position_offset": 2}, "position_offset needs position = learned"),
        ({"head": "none", "tied": False}, "tied must be true"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, what):
    with pytest.raises(ValueError, match=what):
        EncoderSettings(**changes)
