"""What the fault tests run: functions of a run folder that begin a run or go on with it, like `train` and `resume`."""

import contextlib
import itertools
import json
import os
import resource
import shutil
import time
from pathlib import Path

import torch

from idiolect import cli, files, native, runs, seeds
from idiolect.data import packing, shards
from idiolect.data.batch import Batch
from idiolect.interop import folder as model_folder
from idiolect.models.build import build
from idiolect.models.settings import FAMILIES, RecurrentSettings
from idiolect.recipes import library, planning
from idiolect.recipes.watch import Watched
from idiolect.runs import Run
from idiolect.testing import ByteTokenizer, TinyModel
from idiolect.text.corpus import Corpus
from idiolect.train import checkpoint, hooks, loop, objectives, optimisers, schedules
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
    out["checkpoints"] = sorted(path.name for path in run.checkpoints.glob("*"))
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


def without_memory(folder):
    """A mutant that forgets what the loop remembers."""
    Memory.load_state = lambda self, state: None
    tiny(folder)


def with_doubled_metrics(folder):
    """A mutant that leaves the lines of the steps it does again."""
    Run.truncate_metrics = lambda self, step: None
    tiny(folder)


def without_lock(folder):
    """A mutant that believes to have locked what another has."""
    runs._flock = lambda handle, kind, tries=1: True
    tiny(folder)


def fill(ballast, room):
    """Leaves room for so many bytes on the disk."""
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    os.truncate(ballast, os.path.getsize(ballast) - int(room))


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


def text_of(folder):
    """Some real text beside a run's folder, the same for every run there."""
    text = folder.parent / "text.jsonl"
    if not text.exists():
        lines = [json.dumps({"text": text[:500]}) for text in itertools.islice(library.documents(), 40)]
        files.write_text(text, "\n".join(lines))
    return text


def own_cache(folder):
    """A run's cache of shards is its own; compiled kernels are everybody's."""
    cache, common = Path(f"{folder}-cache"), native.folder().resolve()
    os.environ["IDIOLECT_CACHE"] = str(cache)
    cache.mkdir(exist_ok=True)
    if not (cache / "native").is_symlink():
        common.mkdir(parents=True, exist_ok=True)
        (cache / "native").symlink_to(common)


def pairs_of(folder):
    """Some words beside a run's folder, each with what it is backwards."""
    path = folder.parent / "pairs.jsonl"
    if not path.exists():
        words = dict.fromkeys(word for text in itertools.islice(library.documents(), 9) for word in text.split()[:40])
        files.write_text(path, "\n".join(json.dumps({"source": word, "target": word[::-1]}) for word in words))
    return path


def sentences_of(folder):
    """Sentences beside a run's folder: their words, a tag each (whether it is capitalised), and how many are."""
    path = folder.parent / "sentences.jsonl"
    if not path.exists():
        rows = []
        for text in itertools.islice(library.documents(), 30):
            words = text.split()[:12]
            tags = ["B-UP" if word[:1].isupper() else "O" for word in words]
            label = "many" if tags.count("B-UP") > 2 else "few"
            rows.append(json.dumps({"text": " ".join(words), "label": label, "tokens": words, "tags": tags}))
        files.write_text(path, "\n".join(rows))
    return path


TRAINERS = {
    "spans": ("encoder-decoder", text_of, ("task.kind=spans", "task.sentinels=20")),
    "pairs, transformer": ("encoder-decoder", pairs_of, ("task.kind=pairs",)),
    "seq2seq": ("seq2seq", pairs_of, ()),
    "labels": ("lstm", sentences_of, ("task.kind=labels",)),
    "tags": ("decoder", sentences_of, ("task.kind=tags",)),
}
"""Trainers that need more than a kind of model and a text: that kind, what they learn from, what else to say."""


def arguments(folder, name, *overrides):
    """What `idiolect` is called with to train a small model: a kind of model, or one of TRAINERS."""
    kind, data_of, more = TRAINERS.get(name, (name, text_of, ()))
    known = FAMILIES[kind].model_fields
    settings = [key for key in SMALL if not key.startswith("model.") or key[6:].partition("=")[0] in known]
    overrides = [*more, *settings, *overrides]
    return ["train", "gpt", f"data.train={data_of(folder)}", f"model.kind={kind}", *overrides, "-o", folder]


def train(folder, kind, *overrides):
    """`train` where there is no run yet, `resume` where there is one."""
    folder = Path(folder)
    begun = (folder / "recipe.toml").exists()
    return idiolect(folder, *(["resume", folder] if begun else arguments(folder, kind, *overrides)))


def idiolect(folder, *arguments):
    """The command line, with the cache of the run in `folder`; IDIOLECT_MUTANT names what is taken away before."""
    own_cache(folder)
    if mutant := os.environ.get("IDIOLECT_MUTANT"):
        MUTANTS[mutant]()
    return cli.run([*map(str, arguments)])


def idiolect_with_limits(folder, size, memory, *arguments):
    """The same, where no file grows beyond `size` bytes and no more than `memory` bytes are given besides."""
    if int(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    if int(memory):
        most = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + int(memory)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return idiolect(folder, *arguments)


def idiolect_unplanned_with_limits(folder, *arguments):
    """The same, where the plan believes that all will fit."""
    planning.check_fits = lambda *what, **more: None
    return idiolect_with_limits(folder, *arguments)


def idiolect_with_a_mad_clock(folder, *arguments):
    """The same, where the clock goes back two hours whenever it is read."""
    real = time.time
    reads = itertools.count()
    time.time = lambda: real() - 7200 * next(reads)
    return idiolect(folder, *arguments)


def trained(folder):
    """All of a finished recipe that must be the same bit for bit; clocks and paths are not."""
    run = Run.open(Path(folder))
    files.verify(run.model)
    out = {name: (run.model / name).read_bytes() for name in ("model.safetensors", "tokenizer.json", "config.json")}
    out["checkpoints"] = sorted(path.name for path in run.checkpoints.glob("*"))
    for step in run.steps():
        files.verify(run.checkpoint(step))
        for name in ("model.safetensors", "optimizer.safetensors"):
            out[f"{step}/{name}"] = (run.checkpoint(step) / name).read_bytes()
    told = ("step", "loss", "norm", "sample", "validation.loss", "final.loss", "final.bits_per_byte")
    out["metrics"] = [{key: line[key] for key in told if key in line} for line in run.read_metrics()]
    return out


def unchecked_numbers():
    loop._check_losses = loop._check_gradients = lambda *values: None
    checkpoint._check_finite = lambda snapshot: None


def by_date():
    steps = Run.steps
    Run.steps = lambda self: sorted(steps(self), key=lambda step: self.checkpoint(step).stat().st_mtime)


def unheeded():
    hooks.stop_on_signals = lambda: contextlib.nullcontext(lambda step: None)


MUTANTS = {
    "checkpoints are not compared with their hashes": lambda: setattr(files, "_problem", lambda *what: None),
    "fingerprints are not compared": lambda: setattr(checkpoint, "check_unchanged", lambda *what: []),
    "versions are not compared": lambda: setattr(checkpoint, "differences", lambda *what: []),
    "checkpoints are ordered by date": by_date,
    "durations are taken from the calendar": lambda: setattr(time, "perf_counter", lambda: time.time()),
    "memory errors are not explained": lambda: setattr(
        loop, "memory_errors_explained", lambda *what: contextlib.nullcontext()
    ),
    "numbers are not checked": unchecked_numbers,
    "losses are not watched": lambda: setattr(Memory, "watch", lambda *what: None),
    "nothing is kept aside": lambda: setattr(Watched, "save_aside", lambda *what: None),
    "errors of the disk are not told as such": lambda: setattr(
        files, "writing", lambda target: contextlib.nullcontext()
    ),
    "signals are not heeded": unheeded,
}
"""What keeps a promise, taken away (see test_longruns.py)."""


# What is made in one go


def tokenizer(folder):
    """`tokenizer train`."""
    return idiolect(folder, "tokenizer", "train", text_of(Path(folder)), "--out", folder, "--size", 300)


def encoded(folder):
    """Shards of six parts, with the rows for a context of 64, in the cache `folder`."""
    shards.PART_SIZE = 4096
    made = shards.encode(Corpus([text_of(Path(folder))]), ByteTokenizer(), cache=Path(folder))
    packing.packing(made, 64)


def exported(folder):
    """`export` of a model, to a folder of the same kind."""
    model = Path(folder).parent / "model"
    if not model.exists():
        model_folder.save(model, build(RecurrentSettings(kind="lstm", width=9, context=8), 300, seed=1), None, {})
    return idiolect(folder, "export", model, folder)


def as_arpa(folder):
    """`export --to arpa` of an n-gram, to a file."""
    run = Path(folder).parent / "ngram"
    if not (run / "model").exists():
        train(run, "ngram", "tokenizer.kind=word")
    return idiolect(folder, "export", run, folder, "--to", "arpa")


def made(path):
    """Every file below a folder, or the one file."""
    path = Path(path)
    found = [path] if path.is_file() else [p for p in sorted(path.rglob("*")) if p.is_file() and p.name != "lock"]
    return {str(p.relative_to(path)): p.read_bytes() for p in found}
