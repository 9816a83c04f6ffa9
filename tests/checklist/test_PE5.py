"""PE5: selective tuning: a subset of the model's own parameters, by name, biases, norms, the last n blocks."""

import pytest

from idiolect.adapt.edits import edit
from idiolect.adapt.settings import SelectiveSettings
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings

GPT2 = DecoderSettings(
    layers=5, heads=11, width=22, context=19, norm="layer", mlp="gelu", attention_bias="all", mlp_bias=True
)
CHOICES = {
    "biases": ({"biases": True}, lambda name: name.endswith("bias")),
    "norms": ({"norms": True}, lambda name: "norm" in name),
    "last 2": ({"last_blocks": 2}, lambda name: name.startswith(("blocks.3.", "blocks.4."))),
    "names": ({"parameters": ("blocks.*.mlp.up.weight",)}, lambda name: name.endswith("mlp.up.weight")),
    "both": ({"parameters": ("embedding.*",), "norms": True}, lambda name: "norm" in name or "embedding" in name),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_PE5_just_what_is_named_trains(choice):
    said, expected = CHOICES[choice]
    model = build(GPT2, 31)
    edit(model, SelectiveSettings(**said))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == expected(name), name
