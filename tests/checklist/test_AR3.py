"""AR3: many heads, independent of each other, of a width of their own; and what a table of shapes must satisfy."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from idiolect.models.build import build
from idiolect.models.decoder import attention_maps
from idiolect.models.presets import GPT3, check_table
from idiolect.models.settings import DecoderSettings

V, T = 19, 7


def test_AR3_width_of_attention_is_heads_times_head_width():
    attention = build(DecoderSettings(layers=1, heads=5, kv_heads=5, width=7, head_width=6), V).blocks[0].attention
    assert tuple(attention.query.weight.shape) == (30, 7)
    assert tuple(attention.out.weight.shape) == (7, 30)
    assert attention(torch.randn(2, T, 7)).shape == (2, T, 7)


def test_AR3_without_head_width_heads_must_divide_the_width():
    assert DecoderSettings(width=24, heads=3).d_head == 8
    with pytest.raises(ValidationError, match=r"heads \(5\) must divide width \(24\)"):
        DecoderSettings(width=24, heads=5)


def test_AR3_heads_are_independent():
    """Changing one head's queries leaves what every other head looks at as it was."""
    model = build(DecoderSettings(layers=1, heads=3, width=5, head_width=4), V, seed=2)
    ids = torch.randint(0, V, (T,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.blocks[0].attention.query.weight.mul_(20)
        before = attention_maps(model, ids)
        model.blocks[0].attention.query.weight[4:8].neg_()  # head 1
        after = attention_maps(model, ids)
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.allclose(before[:, 1], after[:, 1])


@pytest.mark.parametrize("window", [None, 3])
def test_AR3_per_head_maps_are_those_the_output_is_made_of(window):
    settings = DecoderSettings(layers=2, heads=6, kv_heads=3, width=13, head_width=4, window=window, qk_norm=True)
    model = build(settings, V, seed=2).eval()
    ids = torch.randint(0, V, (T,), generator=torch.Generator().manual_seed(1))
    maps = attention_maps(model, ids)
    assert maps.shape == (2, 6, T, T)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 6, T))
    distance = torch.arange(T)[:, None] - torch.arange(T)
    allowed = (distance >= 0) & (distance < (window or T))
    assert (maps[..., ~allowed] == 0).all() and (maps[..., allowed] > 0).all()
    # weights times values is what the fused kernel gave: rebuild the first layer's output from the map
    index = torch.arange(T)
    x, rope = model.embed(ids[None], index), model.ropes(index, None)[0]
    block = model.blocks[0]
    inside = block.attention_norm(x)
    _, _, values = block.attention.project(inside, rope)
    heads = maps[0] @ values[0].repeat_interleave(2, dim=0)
    rebuilt = block.attention.out(heads.transpose(0, 1).flatten(1))
    torch.testing.assert_close(rebuilt, block.attention(inside, rope, allowed)[0], rtol=0, atol=1e-6)


def test_AR3_the_checker_flags_exactly_xl_and_13b():
    assert set(check_table(GPT3)) == {"GPT-3 XL", "GPT-3 13B"}
    assert "24 heads x 128 = 3072, not the width 2048" in check_table(GPT3)["GPT-3 XL"]


SOUND = [row.name for row in GPT3 if row.name not in ("GPT-3 XL", "GPT-3 13B")]


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("field", ["parameters", "layers", "width", "heads", "head_width"])
@pytest.mark.parametrize("change", ["double", "halve", "more", "less"])
def test_AR3_the_checker_flags_any_other_row_once_altered(name, field, change):
    """Doubled, halved, one more or one less (for the printed sizes: 10% more or less)."""
    row = next(row for row in GPT3 if row.name == name)
    value = getattr(row, field)
    step = value / 10 if field == "parameters" else 1
    altered = {"double": value * 2, "halve": type(value)(value / 2), "more": value + step, "less": value - step}[change]
    table = [replace(row, **{field: altered}) if other is row else other for other in GPT3]
    assert set(check_table(table)) >= {name, "GPT-3 XL", "GPT-3 13B"}
    # and no row is known by its name
    renamed = [replace(other, name=f"row {i}") for i, other in enumerate(table)]
    assert f"row {table.index(next(other for other in table if other.name == name))}" in check_table(renamed)


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("field", ["batch", "learning_rate"])
@pytest.mark.parametrize("factor", [10, 0.1])
def test_AR3_the_checker_flags_batches_and_rates_out_of_line(name, field, factor):
    row = next(row for row in GPT3 if row.name == name)
    altered = replace(row, **{field: getattr(row, field) * factor})
    assert name in check_table([altered if other is row else other for other in GPT3])


def test_AR3_the_sound_rows_alone_pass():
    sound = [row for row in GPT3 if row.name in SOUND]
    assert check_table(sound) == {}
