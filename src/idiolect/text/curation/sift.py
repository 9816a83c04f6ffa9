"""What one process does with one part of a heap of text: reads it, drops what a filter drops, and, once duplicates
are known, writes what is left.

A part's folder holds `text.jsonl` and `dropped.jsonl` (a document a line), its tally, and the keys by which duplicates
are found; later its Parquet shard.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import itertools
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from idiolect import files
from idiolect.text.curation.identity import ID, identity
from idiolect.text.curation.normalise import normalise
from idiolect.text.curation.tally import Size, Tally
from idiolect.text.document import Document, Drop
from idiolect.text.duplicates.addresses import host
from idiolect.text.duplicates.deduplicate import REASONS, decisions, place, without_lines
from idiolect.text.duplicates.keys import KeyWriter
from idiolect.text.filtering.decontaminate import Overlap
from idiolect.text.filtering.filters import CLEANERS, FILTERS, Resources
from idiolect.text.filtering.licences import normal
from idiolect.text.filtering.page import Cleaner, Filter, Page
from idiolect.text.personal.privacy import Redactor
from idiolect.text.read import DROPPED, DUCKDB, KEPT
from idiolect.text.reading.raw import BLANK, Unread, raw_documents
from idiolect.text.settings import CurateSettings

READ, CLEAN, LINES = "reading", "empty", "lines"
"""Steps that drop documents besides the filters and the levels of duplicates."""
LEVELS = ("url", "exact", "near")
LEARNT = "learnt"
SAMPLED = 20_000
"""Documents that filters learn from, about: the first ones of each part."""
EXCERPT = 300
"""Characters of a dropped document that the report shows."""
COLUMNS = dict.fromkeys(("id", "text", "url", "source", "licence", "language"), "VARCHAR") | {"metadata": "JSON"}
"""Of the corpus; what else a document carries is in `metadata`."""
COLUMNS_DROPPED = COLUMNS | {"step": "VARCHAR", "reason": "VARCHAR", "value": "VARCHAR"}
MEMORY = "200MB"
"""What writing a shard may take."""
ROWS = 10_240
"""Documents in a group of rows of a shard."""
TALLY, IDS, KEYS, ROWS_READ, OVERLAP = "tally.json", "ids", "keys", "rows.json", "overlap.json"


class Part(NamedTuple):
    """Stretches of files that are worked on together."""

    number: int
    stretches: tuple[tuple[str, str, str, int, int | None], ...]
    """(name of the source, path, name in the source, first byte, byte after the last)."""

    def __str__(self) -> str:
        names = [path for _, path, *_ in self.stretches]
        return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


class Job(NamedTuple):
    """What all parts have in common; it is sent to every process."""

    key: str
    """Stands for everything that decides what comes out."""
    folder: Path
    """Where unfinished work lies."""
    settings: CurateSettings
    resources: Resources
    count_tokens: Callable[[str], int]
    dry_run: bool
    """Ask every filter of every document, and write no corpus."""

    def __hash__(self) -> int:
        return hash(self.key)

    def sifted(self, number: int) -> Path:
        """The folder of what the filters left of a part."""
        return self.folder / "sifted" / f"{number:06}"

    def settled(self, number: int) -> Path:
        """The folder of what is left of a part at the end."""
        return self.folder / "settled" / f"{number:06}"

    @property
    def learnt(self) -> Path:
        """The folder of what filters learnt before."""
        return self.folder / LEARNT

    @property
    def decided(self) -> Path:
        """The folder that says which documents are duplicates."""
        return self.folder / "decided"


def steps(settings: CurateSettings) -> list[str]:
    """The steps that drop documents, in their order."""
    return [READ, CLEAN, *settings.filters, *LEVELS, LINES]


@functools.lru_cache(maxsize=1)
def _filters(job: Job) -> list[tuple[str, Filter]]:
    return [(name, FILTERS[name](job.settings, job.resources)) for name in job.settings.filters]


@functools.lru_cache(maxsize=1)
def _cleaners(job: Job) -> list[Cleaner]:
    return [CLEANERS[name](job.settings) for name in job.settings.clean]


@functools.lru_cache(maxsize=1)
def _redactor(job: Job) -> Redactor:
    return Redactor(job.settings.privacy)


def sift(job: Job, part: Part) -> None:
    """Reads a part and writes what the filters leave of it."""
    sifter = _Sifter(job)
    with files.new_folder(job.sifted(part.number)) as folder:
        with (
            open(folder / f"{KEPT}.jsonl", "wb") as kept,
            open(folder / f"{DROPPED}.jsonl", "wb") as dropped,
            open(folder / IDS, "wb") as ids,
            contextlib.closing(KeyWriter(folder / KEYS, job.settings)) as keys,
        ):
            for source, found in sifter.found(part):
                record, drop = sifter.judge(source, found)
                if drop is None:
                    keys.add(record["text"], record["url"])
                    kept.write(_line(record))
                    ids.write(record["id"].encode("ascii"))
                elif record and job.settings.keep_dropped:
                    step, (reason, value) = drop
                    dropped.write(_line({**record, "step": step, "reason": reason, "value": value}))
        files.write_json(folder / TALLY, sifter.tally.to_json())
        files.write_json(folder / ROWS_READ, sifter.rows)
        if sifter.overlap:
            files.write_json(folder / OVERLAP, sifter.overlap.counted())


def sample(job: Job, parts: Sequence[Part]) -> Iterator[str]:
    """Texts from all over the heap, as they are judged."""
    each = -(-SAMPLED // len(parts))
    for part in parts:
        found = (one for _, one in _Sifter(job).found(part) if isinstance(one, Document))
        for document in itertools.islice(found, each):
            yield _written(document, job)


def _written(document: Document, job: Job) -> str:
    """The text as it is judged: written cleanly, without the lines that are taken out."""
    text = normalise(document.text, job.settings.normalise)
    for clean in _cleaners(job):
        text = clean(Page(document._replace(text=text)))
    return text


class _Sifter:
    """One document after another through the steps."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.tally = Tally()
        against = job.settings.decontaminate
        self.overlap = Overlap(against) if against.against else None
        self.rows: dict[str, list[Any]] = {}
        """Path of a file that was cut into stretches → [its bad rows, its rows, what was wrong with the first]."""

    def found(self, part: Part) -> Iterator[tuple[str, Document | Unread]]:
        """What a part holds, each with the name of its source."""
        for source, path, name, start, stop in part.stretches:
            cut = start or stop is not None
            rows: list[Any] = self.rows.setdefault(path, [0, 0, ""]) if cut else [0, 0, ""]
            for found in raw_documents(Path(path), self.job.settings.read, start, stop, name=name):
                rows[1] += 1
                if isinstance(found, Unread) and found.drop.reason != BLANK:
                    rows[0] += 1
                    rows[2] = rows[2] or f"{found.id}: {found.drop.reason}"
                yield source, found

    def judge(self, source: str, found: Document | Unread) -> tuple[dict[str, Any], tuple[str, Drop] | None]:
        """The document as it is written, and the step that drops it, with the reason."""
        tally = self.tally
        if isinstance(found, Unread):
            tally.read += (1, 0, 0)
            tally.normalised += (1, 0, 0)
            tally.drop(READ, found.drop.reason, Size(1))
            tally.show(found.drop.reason, found.id, found.drop.value, "")
            return {}, (READ, found.drop)
        tally.read += (1, _bytes(found.text), 0)
        text = _written(found, self.job)
        size = Size(1, _bytes(text), self.job.count_tokens(text))
        tally.normalised += size
        metadata = dict(found.metadata)
        record = {
            "id": identity(metadata.get("url"), found.text),
            "text": text,
            **{name: metadata.pop(name, None) for name in ("url", "source", "licence", "language")},
        }
        record["source"], record["licence"] = record["source"] or source, normal(record["licence"])
        if self.overlap:
            self.overlap.add(text)
        record["metadata"] = metadata
        drop = self._first_drop(found._replace(text=text, metadata={**metadata, **record}), record)
        record["text"], redacted = _redactor(self.job)(text)
        if drop is None:
            record["tokens"] = self.job.count_tokens(record["text"]) if redacted else size.tokens
            record["redacted"] = redacted
        else:
            step, (reason, value) = drop
            tally.drop(step, reason, size)
            tally.show(reason, record["id"], value, record["text"][:EXCERPT])
        return record, drop

    def _first_drop(self, document: Document, record: dict[str, Any]) -> tuple[str, Drop] | None:
        if not document.text.strip():
            return CLEAN, Drop("empty")
        page, first = Page(document), None
        about = {**document.metadata, "language": page.language[0]}
        slices = {name: str(about.get(name) or "unknown") for name in self.job.settings.slices}
        for name, keep in _filters(self.job):
            drop = keep(page)
            self.tally.flag(name, slices, drop is not None)
            if drop is not None:
                first = first or (name, drop)
                if not self.job.dry_run:
                    break
        record["language"] = page.language[0] if page.language[0] != "und" else record["language"]
        return first


def settle(job: Job, part: Part) -> None:
    """Leaves duplicates out of a part and writes the rest as a shard."""
    source, tally = job.sifted(part.number), Tally()
    with files.new_folder(job.settled(part.number)) as folder:
        with open(folder / f"{KEPT}.jsonl", "wb") as kept, open(folder / f"{DROPPED}.jsonl", "wb") as dropped:
            with open(source / f"{DROPPED}.jsonl", "rb") as before:
                shutil.copyfileobj(before, dropped)
            decided = decisions(job.decided, part.number)
            with open(source / f"{KEPT}.jsonl", "rb") as lines:
                for number, line in enumerate(lines):
                    record, reason = json.loads(line), int(decided.reasons[number])
                    original = _id(job, int(decided.originals[number])) if reason else None
                    drop = _settled(record, reason, original, decided.lines.get(number, ()), job, tally)
                    if drop is None:
                        kept.write(_line(record))
                    elif job.settings.keep_dropped:
                        dropped.write(_line(record | drop))
        for name, columns in ((KEPT, COLUMNS), (DROPPED, COLUMNS_DROPPED)):
            _to_parquet(folder / f"{name}.jsonl", columns, folder / f"{name}.parquet")
        files.write_json(folder / TALLY, tally.to_json())


def _id(job: Job, number: int) -> str:
    """The id of a document by its number over all parts."""
    part, inside = place(job.decided, number)
    with open(job.sifted(part) / IDS, "rb") as ids:
        ids.seek(inside * ID)
        return ids.read(ID).decode("ascii")


def _settled(
    record: dict[str, Any], level: int, original: str | None, lines: Collection[int], job: Job, tally: Tally
) -> dict[str, Any] | None:
    """Why a document is left out at last; or nothing, and lines that come again are taken out of it."""
    size, redacted = Size(1, _bytes(record["text"]), record.pop("tokens")), record.pop("redacted")
    text = without_lines(record["text"], lines) if lines else record["text"]
    step, reason, value = LEVELS[level - 1] if level else LINES, REASONS[level], original
    if not level and not text.strip():
        reason = "only lines that come again"
    if reason:
        tally.drop(step, reason, size)
        tally.show(reason, record["id"], value, record["text"][:EXCERPT])
        return {"step": step, "reason": reason, "value": value}
    tally.redacted.update(redacted)
    if lines:
        tally.lines += len(lines)
        size = Size(1, _bytes(text), job.count_tokens(text))
        record["text"] = text
    columns = {name: record[name] or "unknown" for name in ("source", "language", "licence")}
    tally.keep({**columns, "site": host(record["url"]) or "none"}, size)
    return None


def _to_parquet(rows: Path, columns: Mapping[str, str], target: Path) -> None:
    """Writes rows of JSON as Parquet, in their order; none are no file. The rows go."""
    import duckdb

    if rows.stat().st_size:
        with open(rows, "rb") as lines:
            longest = max(map(len, lines))
        place = str(target).replace("'", "''")
        types = ", ".join(f"{name}: '{kind}'" for name, kind in columns.items())
        largest = max(16 << 20, longest + 1)  # the first is duckdb's own
        source = f"read_json($rows, format='newline_delimited', columns={{{types}}}, maximum_object_size={largest})"
        how = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROWS}"
        with duckdb.connect(config={**DUCKDB, "memory_limit": MEMORY}) as connection:
            copy = f"COPY (SELECT {', '.join(columns)} FROM {source}) TO '{place}' ({how})"  # noqa: S608 - ours
            connection.execute(copy, {"rows": glob.escape(str(rows))})
    rows.unlink()


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, sort_keys=True, default=str).encode("utf-8") + b"\n"
