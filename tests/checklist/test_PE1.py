"""PE1: most weights are frozen and few train: what trains is said, and the frozen ones keep every bit."""

import re

import torch
from safetensors.torch import load_file

from idiolect.cli import run
from idiolect.interop import folder

SMALL = ["tokenizer.kind=char", "train.precision=fp32", "train.batch_tokens=256", "train.threads=1", "sample.every=0"]
TEXT = "the quick brown fox jumps over the lazy dog and the cow\n\n" * 60


def test_PE1_trainable_of_total_is_printed_and_frozen_weights_stay_bit_for_bit(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT)
    data = [f"data.train={tmp_path / 'text.txt'}", "data.document=paragraph", *SMALL]
    shape = ["model.layers=2", "model.width=16", "model.context=32", "train.steps=5"]
    assert run(["train", "gpt", *data, *shape, "-o", str(tmp_path / "base")]) == 0
    before = load_file(tmp_path / "base" / "model" / "model.safetensors")
    capsys.readouterr()
    said = [*data, "train.steps=8", "validation.every=2", f"model.from={tmp_path / 'base'}"]
    assert run(["train", "lora", *said, "-o", str(tmp_path / "lora")]) == 0
    found = re.search(
        r"lora: (\d+) / (\d+) / ([\d.]+)% fewer; ([\d.]+)% of (\d+) .*, (\d+) bytes", capsys.readouterr().err
    )
    trainable, full, fewer, share, total, held = map(float, found.groups())
    assert full == sum(tensor.numel() for tensor in before.values())
    assert (total, held) == (full + trainable, 4 * trainable)
    assert round(100 * trainable / total, 2) == share and round(100 - 100 * trainable / full, 1) == fewer
    adapted = folder.load(tmp_path / "lora" / "model").model
    frozen = {
        key.replace(".linear.", "."): tensor for key, tensor in adapted.state_dict().items() if ".pairs." not in key
    }
    base = folder.load(tmp_path / "base" / "model").model.state_dict()
    assert frozen.keys() == base.keys() and all(torch.equal(frozen[key], tensor) for key, tensor in base.items())
    now = load_file(tmp_path / "base" / "model" / "model.safetensors")
    assert all(torch.equal(now[key], tensor) for key, tensor in before.items())
    assert sum(float(layer.abs().sum()) for key, layer in adapted.state_dict().items() if key.endswith(".B")) > 0
    checkpoint = load_file(tmp_path / "lora" / "checkpoints" / "step-8" / "model.safetensors")
    assert sum(tensor.numel() for tensor in checkpoint.values()) == trainable
    assert f"{int(trainable)} / {int(full)}" in (tmp_path / "lora" / "report.html").read_text()
