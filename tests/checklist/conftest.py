"""What several rows learn: sequences turned around."""

import json
import random

import pytest

from idiolect import api

SYMBOLS = "abcdefghij"
QUARTERS = ((5, 13), (14, 22), (23, 31), (32, 40))
"""Lengths of the sequences, shortest quarter first."""


def sequence(generator, low, high):
    return " ".join(generator.choices(SYMBOLS, k=generator.randint(low, high)))


@pytest.fixture
def reversal(tmp_path):
    """Trains a recipe to answer sequences of 5 to 40 symbols by their reversal; other sequences measure it.

    Returns the run folder and the share of exact answers in each quarter of lengths.
    """

    def learn(recipe, *overrides):
        generator = random.Random(11)
        for name, count in (("train", 20_000), ("held", 100)):
            rows = [sequence(generator, 5, 40) for _ in range(count)]
            lines = [json.dumps({"source": row, "target": " ".join(reversed(row.split()))}) for row in rows]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        run = tmp_path / "run"
        api.train(
            recipe,
            [
                f"data.train={tmp_path / 'train.jsonl'}",
                f"data.validation={tmp_path / 'held.jsonl'}",
                *("tokenizer.kind=word", "model.dropout=0", "model.context=41", "train.precision=fp32"),
                *("validation.every=0", "sample.every=0", "checkpoint.every=10000", "train.weight_decay=0"),
                *overrides,
            ],
            run,
        )
        shares = []
        for low, high in QUARTERS:
            asked = [sequence(generator, low, high) for _ in range(125)]
            written = api.translate(run, asked)["translations"]
            shares.append(sum(w["text"].split() == a.split()[::-1] for a, w in zip(asked, written, strict=True)) / 125)
        return run, shares

    return learn
