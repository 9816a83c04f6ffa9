"""A run that is killed at any moment and gone on with ends bit-identical to one that was left alone."""

import itertools
import os
import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import targets
from forkserver import KILLED
from sizes import CHANGE, at_each_size, number_of

from idiolect import files

FILE = Path(targets.__file__)
POINTS = {
    "write": "before its files",
    "manifest": "before the manifest",
    "rename": "before the rename",
    "placed": "before older ones go",
}
"""The moments of a save to be killed at."""


@dataclass
class Target:
    """A function that begins in a folder or goes on there, and what must come out the same."""

    function: str
    arguments: tuple[str, ...]
    result: str
    saves: tuple[str, ...]
    """The folders it saves, to be killed in."""


def matrix():
    """Every trainer × dropout × accumulation; and what else decides how a step is done."""
    saves = ("tokenizer", "step-4", "step-8", "step-12", "model")
    for kind in ("rnn", "lstm", "gru", "decoder", "encoder", "seq2seq"):
        for dropout in ("0", "0.2"):
            for micro in ("1", "2"):
                settings = (f"model.dropout={dropout}", f"train.micro_batches={micro}")
                yield f"{kind}, dropout {dropout}, accumulation {micro}", kind, settings, saves
    for name in ("spans", "pairs, transformer", "labels", "tags", "cbow", "encoder"):
        yield name, name, (), saves
    yield "lstm, SGD", "lstm", ("train.optimizer=sgd", "train.momentum=0.9"), saves
    yield "decoder, Muon", "decoder", ("train.optimizer=muon",), saves
    yield "decoder, bf16", "decoder", ("train.precision=bf16",), saves
    yield "decoder, documents packed", "decoder", ("data.packing=documents",), saves
    yield "ngram", "ngram", (), ("tokenizer", "documents", "model")


TARGETS = {name: Target("train", (kind, *settings), "trained", saves) for name, kind, settings, saves in matrix()}
TARGETS["the loop alone"] = Target("tiny", (), "result", tuple(f"step-{step}" for step in range(3, 25, 3)))
KILLS_A_CHAIN = 3


def chain(server, target, folder, draw, seconds, wanted):
    """Kills a run up to `wanted` times, by the clock or inside a save, then lets it end.

    Returns where each kill fell, and how long a run takes at most.
    """
    fell = []
    while len(fell) < wanted:
        before, fault = unfinished(folder), {}
        ahead = [save for save in target.saves if not [*folder.parent.glob(f"{folder.name}*/**/{save}")]]
        if ahead and draw.random() < 0.5:
            point = draw.choice([*POINTS])
            fault = {"IDIOLECT_TESTING": "1", "IDIOLECT_FAULT": f"hang@{draw.choice(ahead)}:{point}"}
        after = None if fault else draw.uniform(0, seconds)
        began = time.monotonic()
        ended = server.run(FILE, target.function, folder, *target.arguments, environment=fault, kill_after=after)
        assert ended.code in (0, KILLED), ended.output
        assert "Traceback" not in ended.output and "damaged" not in ended.output, ended.output
        if ended.code == 0:
            seconds = min(seconds, time.monotonic() - began)
            break
        fell.append(f"in a save: {POINTS[point]}" if ended.hung else where(folder, before))
    ended = server.run(FILE, target.function, folder, *target.arguments)
    assert ended.code == 0, ended.output
    return fell, seconds


def unfinished(folder):
    """What is being written, by the run or in its cache."""
    return {*folder.parent.glob(f"{folder.name}*/**/{files.TEMPORARY}*")}


def where(folder, before):
    """What a run was doing when the clock killed it, by what it left."""
    if unfinished(folder) - before:
        return "in a save: found by the clock"
    if (folder / "model").exists():
        return "after the model was saved"
    if (folder / "checkpoints").exists() or (folder / "metrics.jsonl").exists():
        return "between the saves of checkpoints"
    return "before the first step"


def kill_until(server, tmp_path, target, wanted, draw):
    """Kills runs `wanted` times in all, and compares each end with that of one left alone; where the kills fell."""
    began = time.monotonic()
    ended = server.run(FILE, target.function, tmp_path / "reference", *target.arguments)
    assert ended.code == 0, ended.output
    seconds, expected = time.monotonic() - began, getattr(targets, target.result)(tmp_path / "reference")
    fell, folders = Counter(), (tmp_path / f"chain-{number}" for number in itertools.count())
    while fell.total() < wanted:
        folder = next(folders)
        some, seconds = chain(server, target, folder, draw, seconds, min(KILLS_A_CHAIN, wanted - fell.total()))
        fell.update(some)
        assert getattr(targets, target.result)(folder) == expected, folder.name
    return fell


@pytest.mark.slow
@at_each_size
@pytest.mark.parametrize("name", TARGETS)
def test_runs_killed_at_any_moment_end_bit_identical(server, tmp_path, record, name, size):
    seed = f"{name} 1" if size == CHANGE else int.from_bytes(os.urandom(4))
    wanted = number_of("kills", size, len(TARGETS))
    print(f"seed {seed}")
    fell = kill_until(server, tmp_path, TARGETS[name], wanted, random.Random(seed))
    inside = sum(number for place, number in fell.items() if place.startswith("in a save"))
    record("kills", name, kills=fell.total(), inside=inside, histogram=dict(fell))


@pytest.mark.slow
def test_the_harness_sees_a_run_that_does_not_come_back_the_same(server, tmp_path, record):
    assert server.run(FILE, "tiny", tmp_path / "reference").code == 0
    expected = targets.result(tmp_path / "reference")
    for name, (function, changed) in MUTANTS.items():
        fault = {"IDIOLECT_TESTING": "1", "IDIOLECT_FAULT": "hang@step-15:write"}
        assert server.run(FILE, function, tmp_path / function, environment=fault).hung
        assert server.run(FILE, function, tmp_path / function).code == 0
        found = targets.result(tmp_path / function)
        assert found[changed] != expected[changed], name
        record("mutants", name, caught_by=f"{changed} differs")


MUTANTS = {
    "the optimiser's moments are not restored": ("without_optimizer", "24/model.safetensors"),
    "draws follow a generator that is not restored": ("with_torchs_own_draws", "24/model.safetensors"),
    "what the loop remembers is not restored": ("without_memory", "24/state.json"),
    "metrics of steps that are done again stay": ("with_doubled_metrics", "metrics"),
}


# Commands without steps: killed, they leave nothing or all; run again, they make the same bytes


@dataclass
class Command:
    """A function that makes something in one go."""

    function: str
    points: tuple[str, ...]


def points(*names):
    return tuple(f"{name}:{point}" for name in names for point in POINTS)


COMMANDS = {
    "tokenizer train": Command("tokenizer", points("out")),
    "text to shards": Command("encoded", points("part-00002", "documents", "packing-64")),
    "export": Command("exported", points("out")),
    "export to ARPA": Command("as_arpa", ()),
}


@pytest.mark.slow
@at_each_size
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_leaves_nothing_or_all_and_makes_the_same_bytes(server, tmp_path, record, name, size):
    command, draw = COMMANDS[name], random.Random(name if size == CHANGE else int.from_bytes(os.urandom(4)))
    for folder in ("warm", "reference"):
        (tmp_path / folder).mkdir()
        began = time.monotonic()
        assert server.run(FILE, command.function, tmp_path / folder / "out").code == 0, server.log.read_text()
    seconds, expected = time.monotonic() - began, targets.made(tmp_path / "reference" / "out")
    kills = inside = 0
    folder = tmp_path / "run"
    while kills < number_of("kills of a command", size):
        folder.mkdir()
        point = draw.choice(command.points) if command.points and draw.random() < 0.5 else None
        fault = {"IDIOLECT_TESTING": "1", "IDIOLECT_FAULT": f"hang@{point}"} if point else {}
        after = None if fault else draw.uniform(0, seconds)
        ended = server.run(FILE, command.function, folder / "out", environment=fault, kill_after=after)
        assert ended.code in (0, KILLED), ended.output
        kills += ended.code == KILLED
        inside += ended.hung
        if (folder / "out").exists() and name != "text to shards":
            assert targets.made(folder / "out") == expected
        else:
            assert server.run(FILE, command.function, folder / "out").code == 0, server.log.read_text()
        assert targets.made(folder / "out") == expected
        shutil.rmtree(folder)
    record("kills of commands", name, kills=kills, inside=inside)
