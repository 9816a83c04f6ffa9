"""The run folder: its paths, its one writer at a time, its metrics; torch-free."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idiolect import files
from idiolect.errors import Exit, UserError

LEASE_SECONDS = 60.0
"""How long a writer on another machine is believed to be alive after its last sign of life (see `Run.lock`)."""
RENEW_SECONDS = 10.0
"""How often a writer gives that sign, at most."""
CLAIM_BYTES = 256
_open_locks: set[int] = set()


def _forget_locks() -> None:
    """In a forked child: its copies of lock handles would keep a run locked after the owner's death."""
    for handle in _open_locks:
        os.close(handle)
    _open_locks.clear()


os.register_at_fork(after_in_child=_forget_locks)


@dataclass(frozen=True)
class Status:
    """What a run folder tells about itself."""

    state: str
    """running, finished (there is a model) or stopped."""
    owner: str | None
    """Who is writing: "process 17 on host lamp since 2026-11-21 10:00:00"; None when nobody is."""
    step: int
    """The last step in the metrics, 0 when there is none."""
    checkpoints: list[int]
    """The steps that were saved, ascending."""


class Run:
    """One run's folder. Reading needs nothing; whoever writes holds `lock`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = folder / "recipe.toml"
        self.plan = folder / "plan.json"
        self.metrics = folder / "metrics.jsonl"
        self.ledger = folder / "ledger.json"
        """What a model that is tuned knew before."""
        self.checkpoints = folder / "checkpoints"
        self.model = folder / "model"
        self.report = folder / "report.html"
        self.lock_file = folder / "lock"
        self._handle: int | None = None
        self._renewed = 0.0
        self._fresh = False

    @classmethod
    def create(cls, folder: Path) -> Run:
        """A new run in a folder that is absent or empty.

        Raises UserError: exit 3 when another process is writing there, exit 2 when the folder holds a run already
        (naming `resume`) or anything else, exit 4 when it cannot be made.
        """
        run = cls(folder)
        with files.writing(folder):
            files.make_folder(folder)
            run._refuse_used()
        run._fresh = True
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run. Raises UserError when `folder` does not hold one."""
        run = cls(folder)
        if not run.recipe.is_file():
            what = "holds no run (it has no recipe.toml)" if folder.is_dir() else "does not exist"
            raise UserError(f"{folder} {what}", "check the path, or start a run with `idiolect train RECIPE -o RUN`")
        return run

    def _refuse_used(self) -> None:
        if not self.locked and (owner := self._owner()):
            raise self._in_use(owner)
        names = {path.name for path in self.folder.iterdir()} - {self.lock_file.name}
        present = {name for name in names if not name.startswith(files.TEMPORARY)}  # killed before there was a run
        if self.recipe.name in present:
            raise UserError(
                f"{self.folder} already holds a run",
                f"go on with it by `idiolect resume {self.folder}`, or choose another folder",
            )
        if present:
            raise UserError(f"{self.folder} is not empty: it holds {min(present)}", "choose another folder")

    def clear(self) -> None:
        """Removes what a run that could not begin has left, the recipe last; its folder can then be used again.

        Only for the run's writer. Raises UserError (exit 4).
        """
        for path in sorted(self.folder.iterdir(), key=lambda path: path == self.recipe):
            if path.is_dir() and not path.is_symlink():
                files.remove_folder(path)
            elif path != self.lock_file:
                with files.writing(path):
                    path.unlink()

    # One writer at a time

    @property
    def locked(self) -> bool:
        """Whether this object holds the run's lock."""
        return self._handle is not None

    @contextlib.contextmanager
    def lock(self) -> Iterator[Run]:
        """Makes this process the run's only writer until the block ends or the process dies.

        The lock is flock(2) on the file `lock`, which names its owner. A network disk may not pass flock on to other
        machines, so an owner on another machine is also believed for LEASE_SECONDS after it last renewed its claim.
        Raises UserError: exit 3 at once when another process holds it, naming process and host; exit 4 when the
        file cannot be written.
        """
        with files.writing(self.lock_file):
            handle = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        _open_locks.add(handle)
        try:
            with files.writing(self.lock_file):
                if not _flock(handle, fcntl.LOCK_EX, tries=4) or self._leased_elsewhere():
                    raise self._in_use(self._claim())
                self._handle = handle
                self._renew(force=True)
                if self._fresh:
                    self._refuse_used()  # another process may have come and gone since `create` looked
                self._fresh = False
            yield self
        finally:
            locked, self._handle = self.locked, None
            _open_locks.discard(handle)
            with contextlib.suppress(OSError):  # the claim is but a note, and a failing close closes all the same
                if locked:
                    os.ftruncate(handle, 0)
            with contextlib.suppress(OSError):
                os.close(handle)

    def _renew(self, force: bool = False) -> None:
        """Writes who owns the lock and that it is alive, in one piece of one length, so that readers see all of it."""
        if self._handle not in _open_locks or (not force and time.monotonic() - self._renewed < RENEW_SECONDS):
            return
        claim = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()})
        os.pwrite(self._handle, claim.ljust(CLAIM_BYTES).encode("ascii"), 0)
        self._renewed = time.monotonic()

    def _claim(self) -> dict[str, Any]:
        """What the lock file says; empty when it says nothing."""
        try:
            return _parse(self.lock_file.read_bytes()) or {}
        except OSError:
            return {}

    def _leased_elsewhere(self) -> bool:
        claim = self._claim()
        elsewhere = claim.get("host", socket.gethostname()) != socket.gethostname()
        return elsewhere and abs(time.time() - claim.get("time", 0)) < LEASE_SECONDS

    def _owner(self) -> dict[str, Any] | None:
        """The claim of the live writer, or None when there is none; takes nothing."""
        try:
            handle = os.open(self.lock_file, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            return None if _flock(handle, fcntl.LOCK_SH) and not self._leased_elsewhere() else self._claim()
        finally:
            os.close(handle)

    def _in_use(self, claim: Mapping[str, Any]) -> UserError:
        mend = "wait until it ends, or stop it"
        if self._leased_elsewhere():
            mend += f"; if it died, its claim ends {LEASE_SECONDS:.0f} seconds after its last sign of life"
        return UserError(f"{self.folder} is in use by {_describe(claim)}", mend, Exit.IN_USE)

    # Metrics

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Adds one line to metrics.jsonl; a number that is not finite becomes null. Raises UserError (exit 4)."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        line = json.dumps(plain, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
        with files.writing(self.metrics):
            handle = os.open(self.metrics, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                size = os.fstat(handle).st_size
                try:
                    files.write_all(handle, line)
                except OSError:
                    os.ftruncate(handle, size)  # no half line: the next one would be glued to it
                    raise
            finally:
                os.close(handle)
            self._renew()

    def read_metrics(self, until: int | None = None) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a torn end (the writer was killed) is left out.

        So is, when only the steps up to `until` are wanted, any bad line that none of those follows: lines after the
        last checkpoint were not flushed, and a power cut may leave zeros between them.
        Raises UserError naming the line when there is a bad one with a good one after it, or one whose step is none.
        """
        with files.reading(self.metrics):
            lines = self.metrics.read_bytes().split(b"\n") if self.metrics.exists() else []
        out: list[dict[str, Any]] = []
        bad = None
        for number, line in enumerate(lines, start=1):
            value = _parse(line)
            if value is not None and (type(value.get("step", 0)) is not int or value.get("step", 0) < 0):
                raise UserError(f"{self.metrics}:{number}: its step is no number", "mend or remove that line")
            if value is not None and bad is None:
                out.append(value)
            elif value is not None and (until is None or value.get("step", 0) <= until):
                raise UserError(f"{self.metrics}:{bad} is not a JSON object", "mend or remove that line")
            elif value is None and line:
                bad = bad or number
        return out

    def truncate_metrics(self, step: int) -> None:
        """Keeps the lines up to and including `step` (and those without one), as a resumed run writes the rest anew.

        Figures named `final.…` belong to a run's end, which a run that goes on has before it.
        """
        lines = self.read_metrics(until=step)
        kept = [v for v in lines if v.get("step", 0) <= step and not any(key.startswith("final.") for key in v)]
        text = "".join(json.dumps(values, ensure_ascii=False) + "\n" for values in kept)
        files.write_text(self.metrics, text)

    def sync_metrics(self) -> None:
        """Flushes metrics.jsonl to disk: a checkpoint never knows more steps than the metrics do."""
        if self.metrics.exists():
            with files.writing(self.metrics):
                files.sync_file(self.metrics)
                files.sync_folder(self.folder)

    # What is there

    def steps(self) -> list[int]:
        """The steps of the checkpoints, ascending: by their number, whatever the clock said."""
        with files.reading(self.checkpoints):
            names = [path.name.removeprefix("step-") for path in self.checkpoints.glob("step-*")]
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal())

    def checkpoint(self, step: int) -> Path:
        """The folder of one checkpoint."""
        return self.checkpoints / f"step-{step}"

    def status(self) -> Status:
        """What the folder tells without being locked."""
        owner = self._claim() if self.locked else self._owner()
        state = "running" if owner is not None else "finished" if self.model.is_dir() else "stopped"
        last = max((int(values.get("step", 0)) for values in self.read_metrics()), default=0)
        return Status(state, None if owner is None else _describe(owner), last, self.steps())


def _describe(claim: Mapping[str, Any]) -> str:
    if not claim:
        return "another process"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(claim.get("time", 0)))
    return f"process {claim.get('pid')} on host {claim.get('host')} (last sign of life {since})"


def _flock(handle: int, kind: int, tries: int = 1) -> bool:
    """Takes the lock; False when another process holds it, after a few tries as `_owner` holds it for an instant."""
    for left in reversed(range(tries)):
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.1 if left else 0)
    return False


def _parse(line: bytes) -> dict[str, Any] | None:
    """A line as a JSON object, or None."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
