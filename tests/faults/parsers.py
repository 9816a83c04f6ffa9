"""Everything that reads what comes from outside, each with whole input to be made malformed.

`python tests/faults/parsers.py NAME SEED NUMBER` runs one case with its traceback.
"""

import json
import random
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import malformed
import parsers_cli
import parsers_models
import parsers_runs
import parsers_text
import parsers_tokens
import raw_parsers
from parsing import Parser

from idiolect.errors import UserError

SECONDS = 2.0
"""Processor time a case may take."""
MEMORY = 256 << 20
"""Bytes a case may hold besides what was held before."""

ROOMS = (parsers_text, raw_parsers, parsers_tokens, parsers_models, parsers_runs, parsers_cli)
PARSERS = {parser.__name__: parser for room in ROOMS for parser in room.PARSERS}
"""The parsers by name."""


class Bad(Exception):
    """A case that did not end as it must."""


def one(parser: Parser, root: Path, mutators: dict[str, malformed.Mutator], seed: int, number: int) -> bool:
    """Runs a case; whether it was refused. Raises Bad."""
    shown = set(root.rglob("*"))
    refused = False
    with parser.case(root, mutators, random.Random(f"{seed} {number}")) as act:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        held, began = memory("VmRSS"), time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                act()
        except UserError as error:
            refused = True
            if not error.what.strip() or not error.mend.strip() or "\n" in error.mend or "Traceback" in error.what:
                raise Bad(f"says {error.what!r}, {error.mend!r}") from error
        took, more = time.process_time() - began, memory("VmHWM") - held
    if took > SECONDS:
        raise Bad(f"took {took:.1f} s")
    if more > MEMORY:
        raise Bad(f"took {more >> 20} MB")
    if left := set(root.rglob("*")) ^ shown:
        raise Bad(f"left or removed {min(left)}")
    return refused


def memory(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().split("\n") if line.startswith(key))
    return int(line.split()[1]) * 1024


def hammer(name: str, seed: str, start: str, count: str, progress: str) -> None:
    """Tries `count` cases of a parser; writes after each what came of it, one line of JSON."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        parser, root = PARSERS[name](), Path(folder)
        mutators = parser.make(root)
        for path in mutators:
            parser.read(root, root / path)  # what is whole is taken
        with open(progress, "a") as file:
            for number in range(int(start), int(start) + int(count)):
                began, problem, refused = time.perf_counter(), "", False
                try:
                    refused = one(parser, root, mutators, int(seed), number)
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    problem = f"{type(error).__name__}: {error}"[:600]
                took = time.perf_counter() - began
                file.write(json.dumps({"case": number, "refused": refused, "problem": problem, "seconds": took}) + "\n")
                file.flush()


if __name__ == "__main__":
    name, seed, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        parser = PARSERS[name]()
        made = parser.make(Path(folder))
        try:
            print("refused" if one(parser, Path(folder), made, seed, number) else "accepted")
        except BaseException:
            traceback.print_exc()
            sys.exit(1)
