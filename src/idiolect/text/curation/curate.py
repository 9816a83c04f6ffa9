"""From a heap of files to a corpus: clean, without duplicates and personal data, and with a report of what was dropped.

Three phases. In the first, processes sift parts of the heap side by side. In the second, one process decides which of
the documents left are duplicates. In the third, processes write what is left. All unfinished work lies beside the
corpus in a folder of its own; each piece in it is whole or absent, so a curation that was killed goes on with what is
missing when the same command is given again, and ends with the same bytes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import idiolect
from idiolect import config, files
from idiolect.errors import Exit, UserError, missing_extra, nearest
from idiolect.runs import Run
from idiolect.text.curation import findings
from idiolect.text.curation.engine import STOPPING, Engine, each
from idiolect.text.curation.sift import KEYS, LEARNT, OVERLAP, ROWS_READ, TALLY, Job, Part, sample, settle, sift
from idiolect.text.curation.tally import Tally
from idiolect.text.duplicates.deduplicate import decide
from idiolect.text.filtering.decontaminate import Overlap
from idiolect.text.filtering.filters import FILTERS, LEARN, NEED_SLICES, Resources
from idiolect.text.read import CORPUS, DROPPED, KEPT
from idiolect.text.reading.raw import judge, raw_files, stretches
from idiolect.text.settings import CurateSettings

PART_BYTES = 32 << 20
"""Bytes of input that are worked on together; a larger file that cannot be cut is a part of its own."""
PACKAGES = ("duckdb", "ftfy", "phonenumbers", "py3langid", "resiliparse")
"""Libraries whose version decides what comes out."""
REPORT, ABOUT = "report.json", "about.json"


def count_words(text: str) -> int:
    """The words of a text, as white space sets them apart: what is counted where no tokenizer is given."""
    return len(text.split())


def curate(
    inputs: Sequence[Path | str],
    out: Path,
    settings: CurateSettings,
    *,
    count_tokens: Callable[[str], int] = count_words,
    perplexity: Callable[[str], float] | None = None,
    tokens_are: str = "words",
    dry_run: bool = False,
    engine: Engine = "local",
    workers: int | None = None,
) -> dict[str, Any]:
    """Makes a corpus of the files and folders `inputs` in the folder `out`; see the module's own text.

    count_tokens and perplexity are called in other processes, so they can be pickled; tokens_are names what is counted.
    dry_run: no corpus, only the report, for which every filter is asked of every document.

    Returns {"documents_in", "documents_out", "bytes_in", "bytes_out", "dropped", "redacted", "seconds", "folder",
    "report"}. Raises UserError: for what cannot be read, when `out` holds something else, for a filter that must not
    drop before its flags were seen by slice; exit 3 when another process is at it; exit 75 when a signal stopped it.
    """
    began = time.monotonic()
    if workers is not None and workers < 1:
        raise UserError(f"{workers} processes do no work", "give --workers a number from 1 on, or leave it out")
    for name in settings.filters:
        if name not in FILTERS:
            raise UserError(f"there is no filter {name}{nearest(name, FILTERS)}", f"choose of: {', '.join(FILTERS)}")
    parts, others = _parts(inputs)
    if not parts:
        raise UserError("there is no text in the given files", "give files with text in them")
    key = _key(parts, settings, f"{_named(count_tokens)} {_named(perplexity)}")
    made = _made(out)
    if made and made["key"] == key and not made["dry_run"] and not dry_run:
        return _result(out, made, began)
    if made and not made["dry_run"]:
        raise UserError(f"{out} holds a corpus of other text or other settings", "choose another folder")
    if not dry_run:
        _refuse_unseen(settings, made if made and made["key"] == key else None)
    with files.writing(out):
        files.refuse_foreign(out)
    folder = out.with_name(f".curating-{out.name}")
    run = Run(folder)
    with files.writing(folder):
        files.make_folder(folder)
    with run.lock(), _stopped_by_signals():
        _begin(folder, f"{key} {'dry' if dry_run else ''}")
        job = Job(key, folder, settings, Resources(folder / LEARNT, perplexity), count_tokens, dry_run)
        work = functools.partial(_work, engine=engine, workers=workers)
        _learn(job, parts)
        work("sifting", sift, job, parts, job.sifted)
        _judge(job, parts)
        if not job.decided.exists():
            _say("looking for duplicates")
            with files.new_folder(job.decided) as decided:
                decide([job.sifted(part.number) / KEYS for part in parts], decided, settings)
        work("writing", settle, job, parts, job.settled)
        tally = _total(job, parts)
        report = findings.report(
            tally,
            settings,
            key=key,
            dry_run=dry_run,
            tokens_are=tokens_are,
            files_left_out=others,
            learnt=files.read_json(job.learnt / ABOUT) if job.learnt.exists() else {},
            overlap=_overlap(job, parts),
        )
        with files.new_folder(folder / CORPUS, kind="dry run" if dry_run else CORPUS) as new:
            files.write_json(new / REPORT, report)
            findings.page(report).write(new / "report.html")
            files.write_text(new / "recipe.toml", config.dump(settings))
            for part in parts if not dry_run else ():
                for name in (KEPT, DROPPED):
                    _place(job.settled(part.number) / f"{name}.parquet", new / name / f"{part.number:06}.parquet")
        with files.writing(out):
            files.make_folder(out.parent)
            files.put_in_place(folder / CORPUS, out)
    shutil.rmtree(folder, ignore_errors=True)
    return _result(out, report, began)


def _parts(inputs: Sequence[Path | str]) -> tuple[list[Part], int]:
    """The input cut into parts of about PART_BYTES, small files together; and how many files are no text."""
    found: list[Part] = []
    held: list[tuple[str, str, str, int, int | None]] = []
    size, others = 0, 0
    for given in map(Path, inputs):
        paths, left = raw_files([given])
        others += len(left)
        for path in paths:
            inside = path.relative_to(given).as_posix() if path != given else path.name
            for start, stop in stretches(path, PART_BYTES):
                length = (path.stat().st_size if stop is None else stop) - start
                if held and size + length > PART_BYTES:
                    found.append(Part(len(found), tuple(held)))
                    held, size = [], 0
                held.append((given.resolve().name, str(path), inside, start, stop))
                size += length
    return [*found, Part(len(found), tuple(held))] if held else found, others


def _key(parts: Sequence[Part], settings: CurateSettings, about: str) -> str:
    """Stands for the input (names, sizes and dates of its files), the settings, the code and what it calls."""
    digest = hashlib.sha256(json.dumps([about, idiolect.__version__, [*map(_version, PACKAGES)]]).encode())
    digest.update(settings.model_dump_json().encode())
    for named in sorted(_paths(settings.model_dump())):  # lists, models and text
        for inside in filter(os.path.exists, [named, *sorted(named.rglob("*"))]):
            file = os.stat(inside)
            digest.update(f"{inside} {file.st_size} {file.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    for module in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(module.read_bytes())
    for given in (path for part in parts for _, path, *_ in part.stretches):
        file = os.stat(given)
        digest.update(f"{given} {file.st_size} {file.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise missing_extra("data", package, "curating") from None


def _paths(value: Any) -> Iterator[Path]:
    """Every path in a value."""
    if isinstance(value, Path):
        yield value
    for inside in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
        yield from _paths(inside)


def _named(function: Any) -> str:
    """The name of a function; what is called like one describes itself."""
    return str(getattr(function, "__qualname__", repr(function)))


def _made(out: Path) -> dict[str, Any] | None:
    """The report of the corpus or dry run in a folder; None when there is neither."""
    if not (out / REPORT).is_file() or not (out / files.MANIFEST).is_file():
        return None
    files.verify(out)
    report: dict[str, Any] = files.read_json(out / REPORT)
    return report


def _refuse_unseen(settings: CurateSettings, seen: dict[str, Any] | None) -> None:
    """Raises UserError for filters that must not drop anything before their flags were seen by slice."""
    asked = [name for name in settings.filters if name in NEED_SLICES]
    if asked and not settings.slices:
        raise UserError(
            f"the filter {asked[0]} drops nothing before it is known whom it hits, and no slices are given",
            'name columns of the text to tell apart, such as curate.slices=["dialect"]',
        )
    if asked and seen is None:
        raise UserError(
            f"the filter {asked[0]} drops nothing before its flags were seen by slice",
            "run the same command with --dry-run first, and read its report.html",
        )


def _begin(folder: Path, key: str) -> None:
    """Clears what was left by a curation of something else, and what killed writers left."""
    mark = folder / "key"
    if mark.exists() and mark.read_text() != key:
        _say("what was begun before was of other text, settings or code: starting anew")
        for path in folder.iterdir():
            if path.is_dir():
                files.remove_folder(path)
    for inside in (folder, folder / "sifted", folder / "settled"):
        files.make_folder(inside)
        files.sweep(inside)
    files.write_text(mark, key)


def _learn(job: Job, parts: Sequence[Part]) -> None:
    """What some filters must know of the heap before they are asked."""
    asked = [name for name in job.settings.filters if name in LEARN]
    if job.learnt.exists() or not asked:
        return
    _say(f"learning: {', '.join(asked)}")
    with files.new_folder(job.learnt) as folder:
        given = job.resources._replace(folder=folder)
        about = {name: LEARN[name](job.settings, given, functools.partial(sample, job, parts)) for name in asked}
        files.write_json(folder / ABOUT, about)


def _work(
    name: str,
    work: Callable[[Job, Part], None],
    job: Job,
    parts: Sequence[Part],
    place: Callable[[int], Path],
    engine: Engine,
    workers: int | None,
) -> None:
    left = [part for part in parts if not place(part.number).exists()]
    done = len(parts) - len(left)
    for _ in each(functools.partial(work, job), left, workers, engine):
        done += 1
        _say(f"{name} {done}/{len(parts)}")


def _judge(job: Job, parts: Sequence[Part]) -> None:
    """Raises UserError for a file, read in stretches, of which too many rows are bad."""
    rows: dict[str, list[Any]] = {}
    for part in parts:
        for path, (bad, read, first) in files.read_json(job.sifted(part.number) / ROWS_READ).items():
            before = rows.setdefault(path, [0, 0, first])
            before[0] += bad
            before[1] += read
            before[2] = before[2] or first
    for path, (bad, read, first) in rows.items():
        judge(path, bad, read, first, job.settings.read)


def _total(job: Job, parts: Sequence[Part]) -> Tally:
    tally = Tally()
    for place in (job.sifted, job.settled):
        for part in parts:
            tally.add(files.read_json(place(part.number) / TALLY))
    return tally


def _overlap(job: Job, parts: Sequence[Part]) -> dict[str, Any]:
    """How much of each evaluation set the heap holds."""
    if not job.settings.decontaminate.against:
        return {}
    found = Overlap(job.settings.decontaminate)
    for part in parts:
        found.merge(files.read_json(job.sifted(part.number) / OVERLAP))
    return found.report()


def _place(shard: Path, target: Path) -> None:
    """Gives a finished shard its name in the corpus too; what was empty there has none."""
    if not shard.exists():
        return
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(shard, target)
    except OSError:  # a disk without links
        shutil.copyfile(shard, target)


def _result(out: Path, report: dict[str, Any], began: float) -> dict[str, Any]:
    figures = {name: report[name] for name in findings.FIGURES}
    return {**figures, "seconds": time.monotonic() - began, "folder": str(out), "report": str(out / "report.html")}


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Turns SIGTERM, SIGINT and SIGHUP into a UserError (exit 75): what is done stays, what was begun goes."""

    def handle(number: int, frame: object) -> None:
        name = signal.Signals(number).name
        raise UserError(f"stopped by {name}", "give the same command again to go on", Exit.STOPPED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [n for n in STOPPING if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
