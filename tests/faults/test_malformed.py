"""Input that is not what it should be is refused in one line, soon, in little memory, and leaves nothing behind."""

import json
import mmap
import os
import random
import time
from pathlib import Path

import parsers
import pytest
from parsers import PARSERS, Bad, Parser, one
from sizes import CHANGE, SHARE, at_each_size, number_of

from idiolect.errors import UserError

FILE = Path(parsers.__file__)


def share(name, size):
    """How many cases of all are this parser's."""
    weights = {other: 1 / parser.cost for other, parser in PARSERS.items()}
    return number_of("malformed inputs", size, sum(weights.values()) / weights[name])


@pytest.mark.slow
@at_each_size
@pytest.mark.parametrize("name", PARSERS)
def test_malformed_input_is_refused_and_nothing_else(server, tmp_path, record, name, size):
    seed = 1 if size == CHANGE else int.from_bytes(os.urandom(4))
    progress, wanted, done = tmp_path / "progress", share(name, size), 0
    progress.touch()
    problems = []
    while done < wanted:
        # a case that hangs for good, or crashes the process, is the one after the last that was told
        arguments = (name, seed, done, wanted - done, progress)
        cache = {"IDIOLECT_CACHE": str(tmp_path / "cache")}
        ended = server.run(FILE, "hammer", *arguments, kill_after=120 + wanted / 2, environment=cache)
        told = [json.loads(line) for line in progress.read_text().splitlines()]
        assert told, ended
        done = told[-1]["case"] + 1
        if done < wanted:
            problems.append(f"{done}: the process ended with {ended.code}: {ended.output[-300:]}")
            done += 1
    problems += [f"{case['case']}: {case['problem']}" for case in told if case["problem"]]
    refused, seconds = sum(case["refused"] for case in told), sum(case["seconds"] for case in told)
    record("malformed", name, cases=wanted, refused=refused, wrong=len(problems), seconds=round(seconds, 1))
    assert not problems, f"python {FILE} {name} {seed} NUMBER: {problems[:5]}"
    if wanted >= 100 or size == CHANGE and SHARE == 1:
        assert wanted / 20 < refused < wanted, "what is changed is too little or too much to tell anything"


class Broken(Parser):
    """Reads what the test says."""

    def make(self, root):
        (root / "file").write_bytes(b"whole")
        return {"file": lambda data, draw: b"changed"}


def no_output(root):
    (root / "half").write_text("x")
    raise UserError("it is wrong", "mend it")


def slow(root):
    began = time.process_time()
    while time.process_time() - began < 0.15:
        pass


def hungry(root):
    with mmap.mmap(-1, 50 << 20) as fresh:  # what malloc gives may be there already
        fresh[::4096] = bytes(50 << 8)


def wordless(root):
    raise UserError("it is wrong", "")


@pytest.mark.parametrize(
    ("read", "error", "said"),
    [
        (lambda root: {}["key"], KeyError, "key"),
        (no_output, Bad, "left or removed"),
        (slow, Bad, "took 0"),
        (hungry, Bad, "MB"),
        (wordless, Bad, "says"),
    ],
    ids=["traceback", "output", "slow", "memory", "no advice"],
)
def test_the_harness_sees_each_way_of_going_wrong(tmp_path, monkeypatch, read, error, said):
    monkeypatch.setattr(parsers, "SECONDS", 0.08)
    monkeypatch.setattr(parsers, "MEMORY", 20 << 20)
    monkeypatch.setattr(Broken, "read", lambda self, root, path: read(root))
    parser = Broken()
    mutators = parser.make(tmp_path)
    with pytest.raises(error, match=said):
        one(parser, tmp_path, mutators, 1, 1)
    assert (tmp_path / "file").read_bytes() == b"whole"


@pytest.mark.parametrize("name", ["Text", "Configs", "Recipes", "Checkpoints"])
def test_a_case_is_its_seed(tmp_path, name):
    parser = PARSERS[name]()
    mutators = parser.make(tmp_path)
    for path, change in mutators.items():
        data = (tmp_path / path).read_bytes()
        assert change(data, random.Random("1 2")) == change(data, random.Random("1 2"))
        assert len({change(data, random.Random(f"1 {number}")) for number in range(20)}) > 10
