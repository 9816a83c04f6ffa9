"""AR6: the eight sizes of GPT-3, as printed and as they can be built."""

import pytest

from idiolect.models.build import build
from idiolect.models.presets import PRESETS, VOCABULARY

PRINTED = {
    "gpt3-small": (125e6, 12, 768, 12, 64, 0.5e6, 6.0e-4),
    "gpt3-medium": (350e6, 24, 1024, 16, 64, 0.5e6, 3.0e-4),
    "gpt3-large": (760e6, 24, 1536, 16, 96, 0.5e6, 2.5e-4),
    "gpt3-xl": (1.3e9, 24, 2048, 24, 128, 1e6, 2.0e-4),
    "gpt3-2.7b": (2.7e9, 32, 2560, 32, 80, 1e6, 1.6e-4),
    "gpt3-6.7b": (6.7e9, 32, 4096, 32, 128, 2e6, 1.2e-4),
    "gpt3-13b": (13.0e9, 40, 5140, 40, 128, 2e6, 1.0e-4),
    "gpt3-175b": (175.0e9, 96, 12288, 96, 128, 3.2e6, 0.6e-4),
}
COUNTED = {
    "gpt3-small": 125.2e6,
    "gpt3-medium": 355.9e6,
    "gpt3-large": 760.3e6,
    "gpt3-xl": 1.316e9,
    "gpt3-2.7b": 2.652e9,
    "gpt3-6.7b": 6.658e9,
    "gpt3-13b": 12.853e9,
    "gpt3-175b": 174.6e9,
}


def test_AR6_rows_are_kept_as_printed():
    assert list(PRESETS) == list(PRINTED)
    for name, (row, _) in PRESETS.items():
        kept = (row.parameters, row.layers, row.width, row.heads, row.head_width, row.batch, row.learning_rate)
        assert kept == PRINTED[name]


def test_AR6_two_rows_are_repaired_and_six_are_not():
    for name, (row, settings) in PRESETS.items():
        shape = (settings.layers, settings.width, settings.heads, settings.d_head)
        repaired = {"gpt3-xl": (24, 2048, 16, 128), "gpt3-13b": (40, 5120, 40, 128)}
        assert shape == repaired.get(name, (row.layers, row.width, row.heads, row.head_width))
        assert settings.heads * settings.d_head == settings.width
        assert settings.context == 2048 and settings.tied
        assert settings.attention_bias == "all" and settings.mlp_bias
    assert VOCABULARY == 50257


@pytest.mark.parametrize("name", PRESETS)
def test_AR6_counted_on_the_meta_device(name):
    row, settings = PRESETS[name]
    model = build(settings, VOCABULARY, device="meta")
    parameters = list(model.parameters())
    assert all(parameter.is_meta for parameter in parameters)
    counted = sum(parameter.numel() for parameter in parameters)
    assert counted == pytest.approx(COUNTED[name], rel=0.0005)  # the four digits of the table
    assert counted == pytest.approx(row.parameters, rel=0.02)
