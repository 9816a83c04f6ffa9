"""New tokens: rows that are the mean of the others, and everything else as it was."""

import pytest
import torch

from idiolect.adapt.vocabulary import grow
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, RecurrentSettings

V = 11


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["decoder", "lstm"])
def test_new_rows_are_the_mean_and_nothing_else_moves(tied, kind):
    shape = {"layers": 2, "width": 8, "tied": tied}
    settings = (
        DecoderSettings(heads=2, context=13, **shape) if kind == "decoder" else RecurrentSettings(kind="lstm", **shape)
    )
    model = build(settings, V, seed=1).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.tensor([[3, 5, 7]])
    with torch.no_grad():
        logits = model.head(model.body(ids))
    grown, report = grow(model, 13)
    after = grown.eval().state_dict()
    assert {name for name in after if after[name].shape != before[name].shape} == set(report.touched)
    assert {"embedding.weight", "head.weight"} <= set(report.touched)
    for name, tensor in after.items():
        assert torch.equal(tensor[:V] if name in report.touched else tensor, before[name])
        if name in report.touched:
            assert torch.allclose(tensor[V:], before[name].mean(0).expand_as(tensor[V:]))
    with torch.no_grad():
        found = grown.head(grown.body(ids))
    assert torch.equal(found[..., :V], logits) or torch.allclose(found[..., :V], logits, atol=1e-6)
    assert found.shape[-1] == grown.vocabulary == 13
    assert (grown.head.weight is grown.embedding.weight) == tied


def test_padding_of_the_vocabulary_that_gets_a_meaning_is_no_part_of_the_mean():
    model = build(DecoderSettings(layers=1, heads=2, width=8, context=13), V, seed=1)
    rows = model.embedding.weight.detach().clone()
    grown, _ = grow(model, V, fresh=[9, 10])
    expected = torch.cat([rows[:9], rows[:9].mean(0).expand(2, 8)])
    assert torch.allclose(grown.embedding.weight, expected) and grown.vocabulary == V
