"""PE4: W + B A for inference: merged and unmerged logits agree, unmerging restores W, targets can be chosen."""

import pytest
import torch

from idiolect.adapt import lora
from idiolect.adapt.edits import edit
from idiolect.adapt.settings import LoraSettings
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings


@pytest.mark.parametrize("dora", [False, True])
def test_PE4_merged_is_unmerged_and_back_is_W_to_the_bit(dora):
    targets = tuple(f"attention.{part}" for part in ("query", "key", "value", "out"))
    model = build(DecoderSettings(layers=3, heads=11, width=22, context=19), 31).eval()
    edit(model, LoraSettings(rank=5, targets=targets, dora=dora))
    assert {name.partition(".attention.")[2] for name in lora.layers(model)} == {"query", "key", "value", "out"}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".B"):
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
        ids = torch.randint(31, (3, 17), generator=torch.Generator().manual_seed(1))
        weights = {name: layer.weight.clone() for name, layer in lora.layers(model).items()}
        apart = model.head(model.body(ids))
        lora.merge(model)
        merged = model.head(model.body(ids))
        assert (merged - apart).abs().max() <= 1e-5
        assert not any(torch.equal(layer.weight, weights[name]) for name, layer in lora.layers(model).items())
        lora.unmerge(model)
        assert all(torch.equal(layer.weight, weights[name]) for name, layer in lora.layers(model).items())
        assert torch.equal(model.head(model.body(ids)), apart)
