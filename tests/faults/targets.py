"""What the fault tests run: functions of a run folder that begin a run or go on with it, like `train` and `resume`."""

import contextlib
import itertools
import json
import os
import resource
import shutil
from pathlib import Path

import torch

from idiolect import files, seeds
from idiolect.data.batch import Batch
from idiolect.runs import Run
from idiolect.testing import TinyModel
from idiolect.train import checkpoint, objectives, optimisers, schedules
from idiolect.train.loop import Memory, fit
from idiolect.train.settings import Resolved, TrainSettings

STEPS, EVERY, VOCABULARY = 24, 3, 37
SETTINGS = TrainSettings(steps=STEPS, micro_batches=2, learning_rate=0.02, clip=0.5, warmup_steps=5, seed=11)


def batch_at(step):
    """Two micro-batches of unequal numbers of supervised positions."""
    draw = seeds.generator(SETTINGS.seed, "batch", step)
    rows = torch.randint(0, VOCABULARY, (2, 3, 8), generator=draw)
    labels = rows[:, :, 1:].clone()
    labels[1, :, 4:] = -100
    return [Batch(rows[m, :, :-1], labels[m]) for m in range(2)]


def tiny(folder):
    """Trains the ten-line model with dropout, accumulation, clipping and AdamW; saves every EVERY steps."""
    run = Run(Path(folder))
    if not run.recipe.exists():
        run = Run.create(Path(folder))
    with run.lock():
        files.sweep(run.folder)
        if not run.recipe.exists():
            files.write_text(run.recipe, "# the tiny fit\n")
        fit_tiny(run)


def fit_tiny(run):
    model = TinyModel(VOCABULARY, width=5, seed=3, dropout=0.3)
    optimizer, resolved = optimisers.build(model, SETTINGS), Resolved(threads=1)
    memory, start = Memory(resolved), 0
    snapshot = checkpoint.newest(run)
    if snapshot is not None:
        start = snapshot.step
        model.load_state_dict(snapshot.model)
        optimizer.load_tensors(snapshot.optimizer)
        memory.load_state(snapshot.memory["loop"])
        checkpoint.prune(run, 2, start)
    run.truncate_metrics(start)

    def after(step):
        run.append_metrics({"step": step.step, "loss": step.loss, "norm": step.norm})
        if step.step % EVERY == 0:
            about = {"validation_loss": abs(step.step - STEPS / 2)}  # as if step 12 were the best
            state = {"loop": memory.state()}
            made = checkpoint.Snapshot(step.step, model.state_dict(), optimizer.tensors(), state, about)
            checkpoint.save(run, made, reason="interval", keep=2)

    schedule = schedules.build(SETTINGS)
    fit(
        model,
        batch_at,
        objectives.next_token,
        optimizer,
        schedule,
        settings=SETTINGS,
        resolved=resolved,
        memory=memory,
        start=start,
        hooks=[after],
    )


def result(folder):
    """All of a finished run that must be the same bit for bit: every file of its checkpoints, and its metrics."""
    run = Run.open(Path(folder))
    out = {"metrics": run.metrics.read_bytes()}
    for step in run.steps():
        files.verify(run.checkpoint(step))
        for path in sorted(run.checkpoint(step).iterdir()):
            out[f"{step}/{path.name}"] = path.read_bytes()
    return out


def without_optimizer(folder):
    """A mutant that forgets the optimiser's moments."""
    optimisers.Optimizer.load_tensors = lambda self, tensors: None
    tiny(folder)


def with_torchs_own_draws(folder):
    """A mutant whose dropout follows torch's global generator."""
    seeds.scope = lambda *purpose: contextlib.nullcontext()
    torch.manual_seed(0)
    tiny(folder)


def tiny_with_limit(folder, size):
    """No file may grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    tiny(folder)


def fill(ballast):
    """Leaves no room on the disk."""
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


def empty(ballast):
    os.truncate(ballast, 0)


def assert_whole(folder, step):
    run = Run.open(Path(folder))
    assert int(step) in run.steps(), run.steps()
    for step in run.steps():
        files.verify(run.checkpoint(step))
    assert not list(run.checkpoints.glob(".*"))


def copy_out(folder, place):
    shutil.copytree(folder, place)


# Whole recipes: text, tokenizer, shards, the fit, the model folder


SMALL = [
    "tokenizer.size=300",
    "model.width=16",
    "model.layers=2",
    "model.context=32",
    "model.dropout=0.2",
    "train.steps=12",
    "train.batch_tokens=256",
    "train.micro_batches=2",
    "train.precision=fp32",
    "train.compile=no",
    "train.threads=1",
    "checkpoint.every=4",
    "validation.every=4",
    "validation.tokens=500",
    "sample.every=6",
    "sample.tokens=5",
    "track.log_every=1",
]


def train(folder, kind):
    """`train` where there is no run yet, `resume` where there is one; the cache of shards is the run's own."""
    from idiolect import api
    from idiolect.recipes import library

    folder = Path(folder)
    text = folder.parent / "text.jsonl"
    if not text.exists():
        lines = [json.dumps({"text": text[:500]}) for text in itertools.islice(library.documents(), 40)]
        files.write_text(text, "\n".join(lines))
    os.environ["IDIOLECT_CACHE"] = f"{folder}-cache"
    if (folder / "recipe.toml").exists():
        api.resume(folder)
        return
    settings = [key for key in SMALL if kind != "ngram" or not key.startswith("model.")]
    api.train("gpt", [f"data.train={text}", f"model.kind={kind}", *settings], folder)


def lstm(folder):
    train(folder, "lstm")


def decoder(folder):
    train(folder, "decoder")


def ngram(folder):
    train(folder, "ngram")


def trained(folder):
    """All of a finished recipe that must be the same bit for bit; clocks and paths are not."""
    run = Run.open(Path(folder))
    files.verify(run.model)
    out = {name: (run.model / name).read_bytes() for name in ("model.safetensors", "tokenizer.json", "config.json")}
    for step in run.steps():
        files.verify(run.checkpoint(step))
        for name in ("model.safetensors", "optimizer.safetensors"):
            out[f"{step}/{name}"] = (run.checkpoint(step) / name).read_bytes()
    told = ("step", "loss", "norm", "sample", "validation.loss", "final.loss", "final.bits_per_byte")
    out["metrics"] = [{key: line[key] for key in told if key in line} for line in run.read_metrics()]
    return out
