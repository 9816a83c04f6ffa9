"""After a power cut at any moment every reader finds the old or the new, and never less than was promised."""

import os
import random
import shutil
import tempfile
from pathlib import Path

import crashes
import pytest
from sizes import CHANGE, NIGHTLY, SIZES, at_each_size, number_of
from writers import WRITERS

from idiolect import files
from idiolect.train import checkpoint


def recorded(writer, root, drop=""):
    root.mkdir()
    with crashes.Recorder(root, drop) as recorder:
        for version in writer.versions:
            writer.write(root, version)
            recorder.acknowledge(version)
    return recorder


def wrong(writer, recorder, folder, wanted, *, seed=0, until=None):
    """(number of states tried, those whose reader finds less than was promised or what was never written).

    Stops at the first one that tells `until`.
    """
    bad, number = [], 0
    for number, state in enumerate(crashes.states(recorder, random.Random(seed), wanted), start=1):
        crashes.lay_out(state.tree, folder)
        try:
            version = writer.read(folder)
        except Exception as error:
            problem = repr(error)
        else:
            promised = state.promised or 0
            problem = "" if promised <= version <= max(writer.versions) else f"{version}, not {promised}"
        shutil.rmtree(folder)
        if problem:
            bad.append(f"{state.case}: {problem}")
            if until is not None and until in problem:
                break
    return number, bad


@pytest.fixture
def root(monkeypatch):
    """Where to record and to lay states out; they need no real flush, and memory is faster than a disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def no_swap(monkeypatch):
    """A system that cannot swap two names in one step."""
    monkeypatch.setattr(files, "_swap", lambda one, other: False)


CASES = {name: (name, None) for name in WRITERS}
CASES |= {f"{name}, renamed twice": (name, no_swap) for name in ("Folder", "Checkpoints", "Model")}


@pytest.mark.slow
@at_each_size
@pytest.mark.parametrize("case", CASES)
def test_no_power_cut_loses_what_was_saved_or_shows_what_was_not(monkeypatch, root, record, case, size):
    name, prepare = CASES[case]
    if prepare:
        prepare(monkeypatch)
    seed = 1 if size == CHANGE else int.from_bytes(os.urandom(4))
    operations = recorded(WRITERS[name], root / "recorded")
    wanted = number_of("crash states", size)
    number, bad = wrong(WRITERS[name], operations, root / "state", wanted, seed=seed)
    record("crash states", case, states=number, operations=len(operations.operations), wrong=len(bad))
    assert bad[:3] == [], f"seed {seed}"
    assert number == wanted or size == NIGHTLY  # for which the smallest writers have too few


# The enumeration is worth what it catches


def no_hash_check(monkeypatch):
    monkeypatch.setattr(files, "_problem", lambda path, folder, entry: None)


def old_removed_first(monkeypatch):
    real = files.put_in_place

    def put(temporary, target):
        shutil.rmtree(target, ignore_errors=True)
        real(temporary, target)

    monkeypatch.setattr(files, "put_in_place", put)


def visible_before_whole(monkeypatch):
    place, manifest, waiting = files.put_in_place, files.write_manifest, []
    monkeypatch.setattr(files, "write_manifest", lambda folder, **about: waiting.append(about))

    def put(temporary, target):
        place(temporary, target)
        manifest(target, **waiting.pop())

    monkeypatch.setattr(files, "put_in_place", put)


def pruned_first(monkeypatch):
    real = checkpoint._write

    def write(run, snapshot, reason):
        for step in run.steps():
            files.remove_folder(run.checkpoint(step))
        return real(run, snapshot, reason)

    monkeypatch.setattr(checkpoint, "_write", write)


def metrics_not_flushed(monkeypatch):
    monkeypatch.setattr("idiolect.runs.Run.sync_metrics", lambda self: None)


MUTANTS = {
    "a file is not flushed": ("Json", "files", None, "is not valid JSON"),
    "a file's folder is not flushed": ("Json", "folders", None, "0, not 1"),
    "a folder's files are not flushed": ("Folder", "files", None, "Damaged"),
    "folders are not flushed": ("Folder", "folders", None, "0, not 1"),
    "a checkpoint's files are not flushed": ("Checkpoints", "files", None, "0, not 1"),
    "a checkpoint's folders are not flushed": ("Checkpoints", "folders", None, "0, not 1"),
    "files are neither flushed nor checked": ("Folder", "files", no_hash_check, "Wrong"),
    "the old one is removed first": ("Folder", "", old_removed_first, "0, not 1"),
    "the folder is visible before it is whole": ("Folder", "", visible_before_whole, "Damaged"),
    "older checkpoints go before the new one stands": ("Checkpoints", "", pruned_first, "0, not 1"),
    "metrics are not flushed before a checkpoint": ("Checkpoints", "", metrics_not_flushed, "Wrong"),
}


SEEN = {
    "is not valid JSON": "half a file",
    "0, not 1": "what was told of is lost",
    "Damaged": "what is there is not whole",
    "Wrong": "what nobody wrote is taken for whole",
}
"""The reader's words, and what they mean."""


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_writer_that_cuts_a_corner_is_caught(monkeypatch, root, record, name):
    writer, drop, mutate, problem = MUTANTS[name]
    if mutate:
        mutate(monkeypatch)
    operations = recorded(WRITERS[writer], root / "recorded", drop)
    number, bad = wrong(WRITERS[writer], operations, root / "state", SIZES["crash states"][CHANGE], until=problem)
    assert any(problem in line for line in bad), bad[:3]
    record("mutants", name, caught_by=f"{SEEN[problem]} (state {number})")
