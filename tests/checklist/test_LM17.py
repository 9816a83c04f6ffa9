"""LM17: a decoder-only model, pretrained and sampled from: text → ids → packed batches → the loop → text again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from idiolect import api
from idiolect.data import shards
from idiolect.data.batches import held_out, next_token
from idiolect.decode.generate import complete
from idiolect.decode.settings import ChatSettings, DecodeSettings
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings
from idiolect.testing import ByteTokenizer
from idiolect.text.corpus import Corpus
from idiolect.train import objectives, optimisers, schedules
from idiolect.train.hooks import evaluating
from idiolect.train.loop import Step, fit
from idiolect.train.settings import Resolved, TrainSettings

LINES = [
    "the cows eat corn",
    "the cows eat grass",
    "some cows eat hay",
    "if cows eat, they grow",
    "which cows eat corn",
]
IDS = {"begin_id": 0, "end_id": 0, "pad_id": 1}


def text(folder: Path) -> Corpus:
    (folder / "lines.txt").write_text("\n".join(LINES * 8) + "\n")
    return Corpus([folder / "lines.txt"], "line")


def pretrain(folder: Path, model: Any, *, steps: int = 160) -> list[Step]:
    encoded = shards.encode(text(folder), ByteTokenizer(), cache=folder / "cache")
    settings = TrainSettings(steps=steps, batch_tokens=6 * 48, micro_batches=2, learning_rate=0.01)
    batch_at = next_token(encoded, context=48, batch_tokens=settings.batch_tokens, micro_batches=2, seed=3, **IDS)
    done: list[Step] = []
    optimizer, schedule = optimisers.build(model, settings), schedules.build(settings)
    hooks: list[Any] = [done.append]
    fit(
        model,
        batch_at,
        objectives.next_token,
        optimizer,
        schedule,
        settings=settings,
        resolved=Resolved(),
        hooks=hooks,
    )
    return done


def decoder() -> Any:
    return build(DecoderSettings(layers=2, heads=2, width=32, context=48), ByteTokenizer.size, seed=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Step], Path]:
    folder = tmp_path_factory.mktemp("pretrain")
    model = decoder()
    return model, pretrain(folder, model), folder


def test_LM17_pretraining_learns_the_text(trained: tuple[Any, list[Step], Path]) -> None:
    model, steps, folder = trained
    assert steps[0].loss == pytest.approx(5.55, abs=0.2)  # ln 258
    # knowing the lines by heart leaves the choice of the line and little else: ln 5 nats over some 20 tokens a line
    assert steps[-1].loss < 2 * 1.609 / 20
    encoded = shards.encode(text(folder), ByteTokenizer(), cache=folder / "cache")
    nats = count = 0.0
    for batch in held_out(encoded, context=48, rows=4, **IDS):
        with evaluating(model):
            loss = objectives.next_token(model, batch)
        nats, count = nats + loss.total.item(), count + loss.count
    assert count == 8 * sum(len(line) + 1 for line in LINES)  # every byte, and every end of a document
    assert 1.609 / 20 < nats / count < 2 * 1.609 / 20


def test_LM17_it_writes_left_to_right_in_the_manner_of_the_text(trained: tuple[Any, list[Step], Path]) -> None:
    model, _, _ = trained
    with evaluating(model):
        greedy = complete(model, ByteTokenizer(), ["some", "which"], DecodeSettings(max_tokens=40, temperature=0))
        drawn = complete(model, ByteTokenizer(), [""] * 40, DecodeSettings(max_tokens=40, temperature=0.7, seed=5))
    assert ["some" + greedy[0].text, "which" + greedy[1].text] == [LINES[2], LINES[4]]
    assert {made.finish_reason for made in greedy} == {"stop"}  # it learnt where a document ends
    written = [made.text for made in drawn]
    assert sum(line in LINES for line in written) >= 32
    assert len(set(written) & set(LINES)) >= 4


def test_LM17_no_position_sees_what_comes_after_it(trained: tuple[Any, list[Step], Path]) -> None:
    model, _, _ = trained
    ids = torch.tensor([ByteTokenizer().encode("the cows eat corn")])
    changed = ids.clone()
    changed[0, 9:] = 77
    with evaluating(model):
        before, after = model.head(model.body(ids)), model.head(model.body(changed))
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_LM17_the_same_seed_gives_the_same_model(tmp_path: Path) -> None:
    model, again = decoder(), decoder()
    steps, repeated = pretrain(tmp_path, model, steps=10), pretrain(tmp_path, again, steps=10)
    assert [step.loss for step in repeated] == [step.loss for step in steps]
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters()))


def test_LM17_pretrained_sampled_from_tuned_and_chatted_with(tmp_path: Path) -> None:
    """The recipe gpt and, from its model, the recipe sft: a conversation of two turns, each answered and ended."""
    (tmp_path / "lines.txt").write_text("\n".join(LINES * 8))
    turns = [("Who eats hay?", "some cows"), ("Who grows?", "the cows that eat"), ("Who eats corn?", "the cows")]
    roles = ("user", "assistant") * 2
    talks = [[*turns[i], *turns[j]] for i in range(3) for j in range(3) if i != j]
    rows = [{"messages": [{"role": r, "content": c} for r, c in zip(roles, talk, strict=True)]} for talk in talks]
    (tmp_path / "talks.json").write_text(json.dumps(rows * 2))
    quick = ["train.precision=fp32", "train.compile=no", "train.threads=1", "validation.every=0", "sample.every=0"]
    base = [f"data.train={tmp_path / 'lines.txt'}", "data.document=line", "tokenizer.size=280", "train.steps=20"]
    shape = ["model.layers=1", "model.heads=2", "model.width=48", "model.context=96", "train.batch_tokens=768"]
    api.train("gpt", [*base, *shape, *quick], tmp_path / "base")
    assert api.generate(tmp_path / "base", "the", DecodeSettings(max_tokens=5))["text"]
    given = [f"data.train={tmp_path / 'talks.json'}", f"model.from={tmp_path / 'base'}", "train.steps=70"]
    api.train("sft", [*given, *quick, "train.batch_tokens=768", "train.learning_rate=1e-2"], tmp_path / "run")
    talk = api.chat(tmp_path / "run", settings=ChatSettings(temperature=0, top_p=1))
    for asked, answer in (turns[2], turns[0]):
        pieces = list(talk.answer(asked))
        assert ("".join(piece.text for piece in pieces), pieces[-1].finish_reason) == (answer, "stop")
