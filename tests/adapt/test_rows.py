"""LoRA of an embedding, and of the head that shares its matrix."""

import pytest
import torch
from torch import nn

from idiolect.adapt import lora
from idiolect.adapt.edits import edit, whole
from idiolect.adapt.settings import LoraSettings
from idiolect.adapt.updates import Rows
from idiolect.adapt.vocabulary import grow
from idiolect.data.batch import IGNORE, Batch
from idiolect.errors import UserError
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings
from idiolect.train import objectives

V, D, T = 31, 14, 11
TARGETS = ("embedding", "head")
SHAPES = {
    "tied": {},
    "apart": {"tied": False},
    "capped": {"logit_softcap": 3.0},
    "capped, apart": {"logit_softcap": 3.0, "tied": False},
}


def made(shape):
    return build(DecoderSettings(layers=2, heads=7, width=D, context=19, **SHAPES[shape]), V, seed=5).eval()


def stirred(shape, **said):
    """A model with an update of its embedding that is not 0, and the plain one that it should be equal to."""
    settings = LoraSettings(
        **{"rank": 3, "alpha": 6.0, "targets": ("embedding",) if shape == "tied" else TARGETS, **said}
    )
    model, plain = made(shape), made(shape)
    edit(model, settings, seed=3)
    for at, layer in lora.layers(model).items():
        pair = layer.pairs["default"]
        with torch.no_grad():
            pair.B.normal_(generator=torch.Generator().manual_seed(len(at)))
    with torch.no_grad():
        for at in {"embedding"} if plain.settings.tied else set(TARGETS):
            pair = model.get_submodule(at).pairs["default"]
            plain.get_submodule(at).weight += 6.0 / 3 * pair.B @ pair.A
    return model, plain


IDS = torch.randint(2, V, (3, T), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model):
    return model.head(model.body(IDS))


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


def test_a_row_by_hand():
    """W[1] = [3, 4]; B[1] = 2, A = [10, 1], s = 6 / 1: [3, 4] + 12 [10, 1]. Row 0 has B = 0."""
    model = nn.Module()
    model.embedding = nn.Embedding(2, 2)
    with torch.no_grad():
        model.embedding.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    edit(model, LoraSettings(rank=1, alpha=6.0, targets=("embedding",)))
    pair = model.embedding.pairs["default"]
    assert pair.A.shape == (1, 2) and pair.B.shape == (2, 1)
    with torch.no_grad():
        pair.A.copy_(torch.tensor([[10.0, 1.0]]))
        pair.B[1] = 2.0
    assert model.embedding(torch.tensor([[1, 0]])).tolist() == [[[123.0, 16.0], [1.0, 2.0]]]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_matrix_is_the_sum_wherever_it_is_used(shape):
    model, plain = stirred(shape)
    close(logits(model), logits(plain))
    state = model.init_state(len(IDS), T)
    close(model.step(IDS, state)[0], logits(plain))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lora.merge(model)
    close(logits(model), logits(plain))
    if plain.settings.tied:
        assert model.head.linear.weight is model.embedding.linear.weight
    lora.unmerge(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with lora.off(model):
        assert torch.equal(logits(model), logits(made(shape)))
    whole(model)
    close(logits(model), logits(plain))
    assert type(model.head) is type(plain.head) and type(model.embedding) is nn.Embedding
    assert (model.head.weight is model.embedding.weight) == plain.settings.tied
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_and_its_gradients_are_those_of_the_logits(shape):
    """Where the head's update enters the chunked cross-entropy as part of its matrix."""
    labels = IDS.roll(-1, 1).masked_fill(
        torch.rand(IDS.shape, generator=torch.Generator().manual_seed(2)) < 0.5, IGNORE
    )
    model, _ = stirred(shape)
    moving = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = objectives.next_token(model, Batch(IDS, labels)).total
    found = torch.autograd.grad(total, list(moving.values()))
    expected = nn.functional.cross_entropy(
        model.head(model.body(IDS)).flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    close(total, expected)
    for name, a, b in zip(moving, found, torch.autograd.grad(expected, list(moving.values())), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_a_shared_matrix_has_one_update_by_either_name():
    reports = [
        edit(made("tied"), LoraSettings(rank=3, targets=targets)) for targets in (("head",), ("embedding",), TARGETS)
    ]
    assert reports[0] == reports[1] == reports[2]
    assert reports[0].trainable == 3 * (V + D)
    assert reports[0].touched == ("embedding.pairs.default.A", "embedding.pairs.default.B")
    apart = edit(made("apart"), LoraSettings(rank=3, targets=TARGETS))
    assert apart.trainable == 2 * 3 * (V + D)


def test_a_second_adapter_lies_on_the_same_layers():
    model, plain = stirred("tied")
    lora.add(model, LoraSettings(rank=2, targets=("*",)), seed=1, name="other")
    assert isinstance(model.embedding, Rows) and isinstance(model.embedding.linear, nn.Embedding)
    assert isinstance(model.head.linear, nn.Linear) and set(model.head.pairs) == {"default", "other"}
    lora.use(model, "default")
    close(logits(model), logits(plain))


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"adapt\.dora is of linear layers"):
        edit(made("tied"), LoraSettings(dora=True, targets=("head",)))
    grown, _ = grow(made("tied"), V + 2)
    with pytest.raises(UserError, match="all of embedding trains, for it has rows for new tokens"):
        edit(grown, LoraSettings(targets=TARGETS))
