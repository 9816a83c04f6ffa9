"""PE3: d = 512, k = 64, r = 8: A and B have 512 + 4096 = 4608 numbers in the place of 32768, 85.9% fewer."""

from torch import nn

from idiolect.adapt.edits import edit
from idiolect.adapt.settings import LoraSettings


def test_PE3_prints_4608_of_32768_and_85_9_percent_fewer():
    model = nn.Sequential(nn.Linear(512, 64, bias=False))
    report = edit(model, LoraSettings(rank=8, targets=("0",)))
    pair = model[0].pairs["default"]
    assert (pair.A.numel(), pair.B.numel()) == (8 * 512, 8 * 64)
    assert report.line().startswith("4608 / 32768 / 85.9% fewer; ")
