"""PE6: additive adapters inside the layers, which at first change nothing."""

import torch

from idiolect.adapt.bottleneck import adapters
from idiolect.adapt.edits import edit
from idiolect.adapt.settings import AdapterSettings
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, EncoderDecoderSettings

SHAPE = DecoderSettings(layers=2, heads=11, width=22, context=19)


def test_PE6_adapters_stand_after_attention_and_mlp_and_are_the_identity_at_first():
    model, base = build(SHAPE, 31), build(SHAPE, 31)
    report = edit(model, AdapterSettings(width=3))
    assert list(adapters(model)) == [f"blocks.{i}.{at}" for i in (0, 1) for at in ("attention.out", "mlp.down")]
    assert report.trainable == 4 * (2 * 3 * 22 + 3 + 22)
    ids = torch.randint(31, (3, 17), generator=torch.Generator().manual_seed(1))
    assert torch.equal(model.body(ids), base.body(ids))
    both = build(EncoderDecoderSettings(layers=2, heads=11, width=22, context=19), 31)
    edit(both, AdapterSettings(places=("attention",)))
    assert [name for name in adapters(both) if "cross" in name] == [f"decoder.blocks.{i}.cross.out" for i in (0, 1)]
    assert len(adapters(both)) == 2 + 4


def test_PE6_by_hand():
    """y = 2 x = [2, -4]; D y = 2 + 4 = 6, f = relu, U = [1, 0.5], e = [0, 1]: y + [6, 3] + [0, 1] = [8, 0]."""
    model = torch.nn.ModuleDict({"mlp": torch.nn.ModuleDict({"down": torch.nn.Linear(2, 2, bias=False)})})
    edit(model, AdapterSettings(width=1, activation="relu", places=("mlp",)))
    made = adapters(model)["mlp.down"]
    with torch.no_grad():
        made.linear.weight.copy_(2 * torch.eye(2))
        made.down.copy_(torch.tensor([[1.0, -1.0]]))
        made.up.copy_(torch.tensor([[1.0], [0.5]]))
        made.up_bias.copy_(torch.tensor([0.0, 1.0]))
    assert made(torch.tensor([[1.0, -2.0]])).tolist() == [[8.0, 0.0]]
    assert made(torch.tensor([[-1.0, 2.0]])).tolist() == [[-2.0, 5.0]]  # where the relu is 0
