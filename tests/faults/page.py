"""docs/reliability.md from what the fault tests counted.

IDIOLECT_FAULT_COUNTS=counts make test
python tests/faults/page.py counts            # prints what was counted
python tests/faults/page.py counts --write    # and keeps it: tests/faults/counts.json, docs/reliability.md
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE, COUNTS = ROOT / "docs" / "reliability.md", Path(__file__).with_name("counts.json")
Counts = dict[str, dict[str, dict[str, Any]]]
"""Row → name of the test's case → what it counted."""


def gathered(folder: Path) -> Counts:
    """What the tests left in the folder $IDIOLECT_FAULT_COUNTS."""
    out: Counts = {}
    for path in sorted(folder.glob("*.json")):
        told = json.loads(path.read_text())
        out.setdefault(told.pop("row"), {})[told.pop("name")] = told
    return out


def total(counts: Counts, row: str, key: str) -> int:
    """The sum over a row's cases."""
    return sum(case[key] for case in counts.get(row, {}).values())


def histogram(counts: Counts) -> Counter[str]:
    """Where all kills of runs fell."""
    out: Counter[str] = Counter()
    for case in counts.get("kills", {}).values():
        out.update(case["histogram"])
    return out


def figures(counts: Counts) -> Iterator[tuple[str, str, int, int, str]]:
    """What was asked; how it is counted; how many there were, how many had to be at least; the test."""
    kills, inside = total(counts, "kills", "kills"), total(counts, "kills", "inside")
    yield "random kills, ends bit-identical", "kills of runs", kills, 60, "test_kill.py"
    yield "of these inside a save", "kills", inside, -(-kills // 3), "test_kill.py"
    cells = sum("dropout" in name for name in counts.get("kills", {}))
    yield "exact resume: trainers x dropout x accumulation", "combinations", cells, 16, "test_kill.py"
    states = counts.get("crash states", {})
    fewest = min((case["states"] for case in states.values()), default=0)
    yield "states of a disk after a power cut", "of each writer", fewest, 3000, "test_crashstates.py"
    yield "injected I/O faults", "failing operations", total(counts, "I/O faults", "injected"), 500, "test_io.py"
    yield "corruptions, all found", "changed files", total(counts, "corruptions", "changes"), 3000, "test_corruption.py"
    cases = total(counts, "malformed", "cases")
    yield "malformed inputs, all refused or harmless", "inputs", cases, 20_000, "test_malformed.py"
    yield "parsers these were given to", "parsers", len(counts.get("malformed", {})), 14, "test_malformed.py"
    yield "mutants caught", "promises taken away", len(counts.get("mutants", {})), 0, "test_*.py"


def printed(counts: Counts) -> Iterator[str]:
    """The figures as lines of text."""
    for what, kind, number, least, _ in figures(counts):
        short = "" if number >= least else f"  FEWER THAN {least:,}"
        yield f"{number:>8,}  {what} ({kind}){short}"
    yield from (f"{number:>8,}    {place}" for place, number in histogram(counts).most_common())


def page(counts: Counts) -> str:
    """All of docs/reliability.md."""
    parts = [INTRODUCTION, "## What happens", table(["fault", "what happens", "test", "tried"], _faults(counts))]
    parts += ["## What was tried", TRIED, table(["", "asked", "counted", "test"], map(_figure, figures(counts)))]
    parts += [
        "### Where the kills fell",
        table(["", "kills"], [[p, f"{n}"] for p, n in histogram(counts).most_common()]),
    ]
    parts += ["Commands that make one thing: " + "; ".join(_commands(counts)) + ". None left half of it."]
    parts += ["### Power cuts", POWER, table(["writer", "operations", "states", "wrong"], _states(counts))]
    parts += ["### Operations that fail", OPERATIONS, table(["writer", "failures", "wrong"], _failures(counts))]
    parts += ["### Damage", DAMAGE, table(["what was damaged", "files", "changes", "unnoticed"], _damage(counts))]
    parts += ["### Malformed input", MALFORMED, table(["parser", "inputs", "refused", "wrong"], _malformed(counts))]
    parts += ["### Mutants", MUTANTS, table(["what is taken away", "what is seen then"], _mutants(counts))]
    return "\n\n".join([*parts, NOT_PROMISED, NIGHTLY]) + "\n"


def _faults(counts: Counts) -> Iterator[list[str]]:
    """FAULTS with the number of times each was tried."""
    for fault, happens, tests, tried in FAULTS:
        sums = (f"{total(counts, row, key):,} {what}" for row, (key, what) in TRIES.items() if row in tried)
        runs = [name for name in tried if name in counts.get("long runs", {})]
        yield [
            fault,
            happens,
            tests,
            ", ".join([*sums, *([f"{len(runs)} run{'s' * (len(runs) > 1)}"] if runs else [])]),
        ]


TRIES = {
    "kills": ("kills", "kills"),
    "kills of commands": ("kills", "kills"),
    "crash states": ("states", "states of disks"),
    "I/O faults": ("injected", "failing operations"),
    "corruptions": ("changes", "changed files"),
    "malformed": ("cases", "inputs"),
}
"""Row of the counts → its number, and what that counts."""


def _figure(row: tuple[str, str, int, int, str]) -> list[str]:
    what, kind, number, least, test = row
    return [what, f"≥ {least:,}" if least else "all", f"{number:,} {kind}", f"`{test}`"]


def _commands(counts: Counts) -> Iterator[str]:
    for name, case in counts.get("kills of commands", {}).items():
        yield f"{name}: {case['kills']} kills ({case['inside']} inside a save)"


def _states(counts: Counts) -> Iterator[list[str]]:
    for name, case in counts.get("crash states", {}).items():
        yield [WRITERS.get(name, name), f"{case['operations']}", f"{case['states']:,}", f"{case['wrong']}"]


def _failures(counts: Counts) -> Iterator[list[str]]:
    for name, case in counts.get("I/O faults", {}).items():
        yield [WRITERS.get(name, name), f"{case['injected']}", f"{case['wrong']}"]


def _damage(counts: Counts) -> Iterator[list[str]]:
    for name, case in counts.get("corruptions", {}).items():
        yield [WRITERS.get(name, name), f"{case['files']}", f"{case['changes']}", f"{case['unnoticed']}"]


def _malformed(counts: Counts) -> Iterator[list[str]]:
    for name, case in counts.get("malformed", {}).items():
        yield [PARSERS[name], f"{case['cases']:,}", f"{case['refused']:,}", f"{case['wrong']}"]


def _mutants(counts: Counts) -> Iterator[list[str]]:
    for name, case in counts.get("mutants", {}).items():
        yield [name, case["caught_by"]]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


INTRODUCTION = """\
# Reliability

What can happen to a run, what Idiolect does about it, and how often that was tried. The counts are the test
suite's own, written by `tests/faults/page.py`; every change of Idiolect is tested so again.

Three rules carry all of it. Nothing is visible before it is whole: files are written aside, flushed to the disk, named
in a manifest with their SHA-256, and renamed into place. What a run needs to go on is saved or can be computed: a run
that was interrupted and resumed ends with the same bits as one that was not. And whatever goes wrong is said in two
lines, what it is and what helps, with an exit code that a script can tell apart."""

FAULTS = [
    (
        "killed at any moment (`kill -9`, or by the system when memory runs out)",
        "`idiolect resume RUN` goes on from the last whole checkpoint and ends with the same bits; at most "
        "one interval of work is done again",
        "test_kill.py",
        ["kills"],
    ),
    (
        "killed while it curates, learns a tokenizer, encodes text or exports",
        "nothing or all of it is there; run again, it makes the same bytes",
        "test_kill.py, test_curation.py",
        ["kills of commands"],
    ),
    (
        "a power cut",
        "a checkpoint that was told of is there, and what is there is whole",
        "test_crashstates.py",
        ["crash states"],
    ),
    (
        "the disk is full, a quota or a limit is reached, the disk fails",
        "a save is tried again, on a full disk after the checkpoints that would go next have gone; then exit "
        "4, naming the file; older checkpoints are whole, and with room the run can be resumed",
        "test_io.py, test_longruns.py",
        ["I/O faults", "a full disk", "a limit on file sizes"],
    ),
    (
        "a checkpoint, model, tokenizer or shard was damaged",
        "it is noticed before it is used, and named; `resume` says so, keeps the damaged checkpoint aside and"
        " takes the one before; `resume --step N` refuses (exit 2); shards and kernels are made again",
        "test_corruption.py, test_longruns.py",
        ["corruptions", "a damaged checkpoint"],
    ),
    (
        "SIGTERM, SIGINT (Ctrl-C) or SIGHUP",
        "the step is finished and saved, exit 75 within 10 seconds; a second signal leaves at once",
        "test_longruns.py",
        ["signals", "two signals"],
    ),
    (
        "memory runs out",
        "said before the run begins where it can be computed, else at the step, with what was tried and what "
        "helps; exit 7, the last checkpoint is whole",
        "test_longruns.py",
        ["no memory at a step", "no memory by a limit"],
    ),
    (
        "a loss or gradient is not finite",
        "the run stops before the weights move, exit 5; the weights of the step before are kept aside; no "
        "checkpoint ever holds a number that is not finite",
        "test_longruns.py",
        ["no number"],
    ),
    (
        "the loss diverges (three times its running median for 20 steps)",
        "exit 5; the best checkpoint stays, the last state is kept aside",
        "test_longruns.py",
        ["a diverging loss"],
    ),
    (
        "text, tokenizer or recipe changed since the run began",
        "`resume` refuses (exit 2) with both fingerprints; `--accept-change` goes on and the model's lineage says so",
        "test_longruns.py",
        ["changed text", "a changed recipe"],
    ),
    (
        "another version of torch, another processor",
        '`resume` goes on and says "not bit-exact" and why',
        "test_longruns.py",
        ["another version"],
    ),
    (
        "the clock jumps, files bear wrong dates",
        "checkpoints are ordered by their step, durations taken from a clock that does not jump",
        "test_longruns.py",
        ["a clock that jumps", "dates that lie"],
    ),
    (
        "two runs in one folder",
        "the second ends with exit 3 within a second and names the first's process and host; the lock ends "
        "with its owner, also when that was killed",
        "test_io.py",
        ["two runs in one folder"],
    ),
    (
        "malformed input of any kind",
        "refused in one line with what helps (exit 2); no traceback, nothing written, no code run, bounded "
        "time and memory",
        "test_malformed.py",
        ["malformed"],
    ),
]
"""The fault; what happens; the test; under which rows and names it was counted."""

TRIED = """\
Each kind of test runs for every change with the least size asked below, and longer by night. All tests lie in
`tests/faults/`."""

POWER = """\
The operations of each writer are recorded (files and folders made, written, flushed, renamed, removed), and disks are
made as a power cut may leave them: whatever was not flushed may be there or not, in any order, whole, cut short or full
of zeros. Of each such disk the reader must find the last version that was told of, or a newer one, and nothing else."""

OPERATIONS = """\
Each operation of each writer is made to fail once, with "no space left" and with "input/output error". The writer must
say so with exit 4 (or manage), leave nothing half-written, and the reader must find the old or the new. "By the system"
means that the kernel itself refused the call, also those that libraries make."""

DAMAGE = """\
One bit flipped, one block zeroed, or the end cut off, in any file. It must be noticed before anything of it is used."""

MALFORMED = """\
Whole files with random and malicious changes: bytes, lines, values of JSON and TOML, headers and shapes of tensors,
arguments of the command line. None may give a traceback, take more than 2 seconds of processor time or 256 MB, or leave
a part of an output; the others are refused, or change nothing that matters."""

MUTANTS = """\
A test that cannot fail proves nothing. So what keeps each promise is taken away in turn, and the test of that promise
must fail. It does, for all of these."""

NOT_PROMISED = """\
## What is not promised

- A disk that says "flushed" and has not (some cheap drives, some virtual disks, network disks in asynchronous mode) can
  lose what was told of. What it then holds is still checked, and the checkpoint before is taken.
- Damage to both the data and the manifest that agree with each other is not damage that a hash can see: manifests guard
  against accidents, not against somebody who may write the folder.
- `recipe.toml`, `plan.json`, `metrics.jsonl`, `report.html` and exported ARPA files are whole or absent, but bear no
  hash: one may edit them. A changed recipe is noticed by its fingerprint; what the run resolved itself (its threads,
  its precision) is not part of that. Metrics since the last checkpoint can be lost in a power cut; they are written
  again.
- Bits are the same on the same processor type, version of torch and number of threads. Elsewhere the run goes on, and
  says that they may differ.
- Memory that the system promises and then does not have ends a process by `kill -9`, without a word.
- On a network disk that does not pass locks on, a second run on another machine is kept out by a note that is renewed
  every ten seconds and believed for a minute: a writer that was suspended for longer may meet another when it wakes.
- The tests emulate disks; no machine was unplugged."""

NIGHTLY = """\
## By night

`make nightly` does the same with other random numbers and more of it: 1,000 kills, 100,000 states of each writer (or
all that it has), 100,000 corruptions, every two operations failing, 2,000,000 malformed inputs. Then the suite is
repeated 20 times, each time with a twentieth of a change's cases, and must pass each time (`REPEATS=` names another
number). All of it takes some three hours on two cores; with `make nightly SHARE=0.05`, a twentieth of the long part, it
is about 40 minutes, most of them the repeats.

By hand on 2026-11-28 (SHARE=0.05, two cores, other programs beside it): 100,002 malformed inputs, 64,262 states of
disks, 5,005 changed files and 3,347 failing operations. It found what the smaller size had not: a vocabulary size of
`true`, and a path longer than a name may be, each of which ended in a traceback; both are mended, and a second run with
other random numbers found nothing. The suite was then repeated 8 times, 135 tests each, and passed each time; 12 of the
20 repeats were not made."""

WRITERS = {
    "Json": "one file (recipe, plan, settings, report)",
    "Folder": "a folder that is replaced",
    "Folder, renamed twice": "a folder, where names cannot be swapped",
    "Checkpoints": "checkpoints and metrics of a run",
    "Checkpoints, renamed twice": "checkpoints, where names cannot be swapped",
    "Checkpoints, by the system": "checkpoints, by the system",
    "Model": "model folder",
    "Model, renamed twice": "model folder, where names cannot be swapped",
    "Model, by the system": "model folder, by the system",
    "Vocabulary": "tokenizer",
    "Encoded": "shards",
    "Encoded, by the system": "shards, by the system",
    "Packed": "index of packed documents",
    "Kernel": "compiled kernels",
    "Arpa": "export to ARPA",
    "Ends": "what a run begins and ends with",
}

PARSERS = {
    "Text": "text files",
    "Rows": "JSON lines",
    "Fields": "csv, tsv, conll, lists in jsonl, plain files beside one another",
    "Packed": "gzip and Zstandard",
    "Conversations": "conversations in every layout, and sets of templates",
    "Parquet": "Parquet",
    "Vocabularies": "tokenizer.json and what lies beside it",
    "Merges": "GPT-2's pair of vocabulary files",
    "ChatTemplates": "chat templates",
    "Configs": "config.json of models",
    "Weights": "safetensors",
    "Index": "index of weights in several files",
    "Adapters": "adapter folders, of peft and our own",
    "Arpa": "ARPA files",
    "Recipes": "recipes",
    "Overrides": "key=value on the command line",
    "Runs": "a run's metrics, plan, lock, lineage",
    "Plans": "the plan of a run that goes on",
    "Checkpoints": "checkpoints",
    "Shards": "shards",
    "Words": "prompts, ids, stop strings, decoding settings",
    "CommandLine": "arguments of the command line",
    "RawRows": "curation: csv, tsv and JSON lines",
    "RawPlain": "curation: plain text of any encoding, web pages",
    "WebArchives": "curation: WARC and WET, also packed",
    "Archives": "curation: zip and tar",
    "RawParquet": "curation: Parquet",
}


if __name__ == "__main__":
    counts = gathered(Path(sys.argv[1]))
    print("\n".join(printed(counts)))
    if "--write" in sys.argv:
        COUNTS.write_text(json.dumps(counts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        PAGE.write_text(page(counts), encoding="utf-8")
        print(f"wrote {PAGE}")
    if any(number < least for _, _, number, least, _ in figures(counts)):
        sys.exit("fewer cases than asked")
