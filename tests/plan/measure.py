"""A training run in a process of its own, which prints how far its resident memory grew: python measure.py JSON."""

import json
import re
import sys
from pathlib import Path

import torch

from idiolect import seeds
from idiolect.data.batch import Batch
from idiolect.models.build import build
from idiolect.models.settings import FAMILIES, CbowSettings
from idiolect.train import loop, objectives, optimisers
from idiolect.train.settings import Resolved, TrainSettings


def resident(name: str) -> int:
    """VmRSS (now) or VmHWM (highest), bytes. Not getrusage: its peak is inherited from the parent process."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def main() -> None:
    asked = json.loads(sys.argv[1])
    kind, V = asked["model"].setdefault("kind", "decoder"), asked["vocabulary"]
    settings = FAMILIES[kind](**asked["model"])
    pairs = kind in ("seq2seq", "encoder-decoder")  # half of the positions are the source's
    train = TrainSettings(steps=4, warmup_steps=0, **asked["train"])
    rows = train.batch_tokens // settings.context // train.micro_batches // (2 if pairs else 1)

    def batch_at(step: int) -> list[Batch]:
        generator = seeds.generator(0, "batch", step)
        if isinstance(settings, CbowSettings):
            places = train.batch_tokens // train.micro_batches
            ids, negatives = torch.randint(0, V, (places, 10)), torch.randint(0, V, (places, settings.negatives))
            batch = Batch(ids, ids[:, 0], lengths=torch.full((places,), 10), negatives=negatives)
            return [batch] * train.micro_batches
        drawn = [
            torch.randint(0, V, (rows, settings.context + 1), generator=generator) for _ in range(train.micro_batches)
        ]
        if pairs:
            return [Batch(ids[:, :-1], ids[:, 1:], source=ids[:, :-1]) for ids in drawn]
        segments = (torch.arange(settings.context) // (settings.context // 2)).expand(rows, -1)
        return [Batch(ids[:, :-1], ids[:, 1:], segments) for ids in drawn]

    torch.randn(64, 64) @ torch.randn(64, 64)
    before = resident("VmRSS")
    model = build(settings, V)
    model.activation_checkpointing = train.activation_checkpointing
    optimizer = optimisers.build(model, train)
    known = {"encoder": objectives.masked, "cbow": objectives.neighbours}
    objective = objectives.translate if pairs else known.get(kind, objectives.next_token)
    loop.fit(model, batch_at, objective, optimizer, lambda i: 1.0, settings=train, resolved=Resolved())
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main()
