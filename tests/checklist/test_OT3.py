"""OT3: J = Σ log p(w_i), one trainer; a recurrent model is swapped for a transformer by one configuration key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from idiolect.data.batch import Batch
from idiolect.models.build import build
from idiolect.recipes import load
from idiolect.recipes.settings import Recipe
from idiolect.testing import ByteTokenizer
from idiolect.train import objectives, optimisers, schedules
from idiolect.train.loop import Step, fit
from idiolect.train.settings import Resolved

RECIPE = """
[data]
train = ["{text}"]

[tokenizer]
kind = "byte"

[model]
kind = "lstm"
layers = 1
width = 24
context = 16

[train]
steps = 40
batch_tokens = 64
learning_rate = 0.02
"""
TEXT = "the cows eat grass and the cows eat corn and the cows eat hay. "


def recipe(folder: Path, *overrides: str) -> Recipe:
    (folder / "text.txt").write_text(TEXT * 20)
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(text=(folder / "text.txt").as_posix()))
    return load.load(str(path), overrides)[0]


def train(made: Recipe) -> tuple[Any, list[Step], list[Batch]]:
    """The same lines for every family: text → ids → windows → the loop."""
    (source,) = made.data.train
    ids = torch.tensor(ByteTokenizer().encode(source.read_text()))
    length = made.model.context  # type: ignore[union-attr]
    rows = made.train.batch_tokens // length
    given: list[Batch] = []

    def batch_at(step: int) -> list[Batch]:
        starts = [(step * rows + row) * 7 % (len(ids) - length - 1) for row in range(rows)]
        windows = torch.stack([ids[start : start + length + 1] for start in starts])
        given.append(Batch(windows[:, :-1], windows[:, 1:]))
        return given[-1:]

    model = build(made.model, ByteTokenizer.size, seed=made.train.seed)
    steps: list[Step] = []
    optimizer = optimisers.build(model, made.train)
    schedule = schedules.build(made.train)
    fit(
        model,
        batch_at,
        objectives.next_token,
        optimizer,
        schedule,
        settings=made.train,
        resolved=Resolved(),
        hooks=[steps.append],  # type: ignore[list-item]
    )
    return model, steps, given


def test_OT3_one_key_changes_the_family_and_nothing_else(tmp_path: Path) -> None:
    first = recipe(tmp_path)
    _, steps, batches = train(first)
    assert first.model.kind == "lstm"
    for kind in ("rnn", "gru", "decoder"):
        other = recipe(tmp_path, f"model.kind={kind}")
        assert other.model.kind == kind
        assert other.model_copy(update={"model": first.model}) == first  # data, tokenizer, optimiser, evaluation
        model, other_steps, other_batches = train(other)
        assert type(model).__name__ == ("Decoder" if kind == "decoder" else "Recurrent")
        for a, b in zip(batches, other_batches, strict=True):
            assert torch.equal(a.ids, b.ids)
        assert [s.learning_rate for s in other_steps] == [s.learning_rate for s in steps]
        assert [s.count for s in other_steps] == [s.count for s in steps]
    assert steps[-1].loss < 0.6 * steps[0].loss


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "decoder"])
def test_OT3_what_is_maximised_is_the_sum_of_log_probabilities(tmp_path: Path, kind: str) -> None:
    made = recipe(tmp_path, f"model.kind={kind}")
    trained, steps, batches = train(made)
    fresh = build(made.model, ByteTokenizer.size, seed=made.train.seed)
    whole = torch.cat([batches[0].ids, batches[0].labels[:, -1:]], 1)
    log_p = fresh.score(whole)  # the model's own scorer, which evaluation uses
    assert steps[0].loss * steps[0].count == pytest.approx(-log_p.sum().item(), rel=1e-5)
    assert trained.eval().score(whole).sum() > log_p.sum() / 2  # half the nats, or fewer, after forty steps
