"""Programs measured in turn, each run in a process of its own: speed, spread, peak memory, and who disturbed them.

A child prints one JSON object as its last line on stdout; `run` returns it with what the system saw. `in_turn` runs
sides A B A B …, leaves out rounds in which other programs kept the cores busy, and `compare` makes a `Claim` of it.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
BUSY = 0.1
"""Cores that other programs may keep busy while a round counts."""
PATIENCE = 2
"""Spoilt rounds are repeated until this many times the asked rounds have run; then the least disturbed count."""
HERTZ = os.sysconf("SC_CLK_TCK")
LAUNCHER = """
import json, os, subprocess, sys, threading
child = subprocess.Popen(sys.argv[3:], close_fds=True)
timer = threading.Timer(float(sys.argv[2]), child.kill)
timer.daemon = True
timer.start()
_, status, used = os.wait4(child.pid, 0)
with os.fdopen(int(sys.argv[1]), "w") as out:
    json.dump([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss], out)
"""
"""Starts a child from a process of 10 MB: on Linux the peak memory of a child begins with what its parent held."""


class Absent(Exception):
    """A peer, or data, that a claim needs is not here; says what to install or where to put it."""


class Failed(Exception):
    """A child that ended badly; holds the end of what it wrote."""


@dataclass(frozen=True)
class Sample:
    """One run of one side."""

    result: dict[str, Any]
    """The JSON object it printed."""
    seconds: float
    """Wall clock of the whole process."""
    peak_bytes: int
    """Most resident memory of the process or of the largest of those it started."""
    load: float
    """Cores that other programs kept busy meanwhile."""


Side = Callable[[], Sample]


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout: float = 3600,
    last_line: bool = True,
) -> Sample:
    """Runs a program to its end. `env` is added to this process's own; without `last_line` stdout may be anything.

    It is killed after `timeout` seconds. Raises Failed with the end of its output when it fails or prints no JSON.
    """
    receiver, sender = os.pipe()
    launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(sender), str(timeout), *map(str, command)]
    began, busy = time.perf_counter(), _busy_seconds()
    try:
        done = subprocess.run(
            launch,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
            cwd=cwd,
            pass_fds=[sender],
        )
    finally:
        os.close(sender)
    seconds, busy = time.perf_counter() - began, _busy_seconds() - busy
    with os.fdopen(receiver) as pipe:
        code, own, peak = json.load(pipe) if done.returncode == 0 else (done.returncode, 0.0, 0)
    line = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        result = json.loads(line) if last_line and code == 0 else {}
    except json.JSONDecodeError:
        code = "no JSON"
    if code != 0:
        raise Failed(f"{' '.join(map(str, command))}\n{code}: {(done.stderr or done.stdout)[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Sample(result, seconds, peak * unit, max(0.0, busy - own) / seconds)


def _busy_seconds() -> float:
    """CPU seconds that all programs here, and other guests of the same host, have taken; 0 where Linux is not."""
    try:
        fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq + steal) / HERTZ


@dataclass(frozen=True)
class Turns:
    """The rounds that count: side → its samples, the i-th of each taken one after the other."""

    samples: Mapping[str, Sequence[Sample]]
    dropped: int
    """Rounds that other programs spoilt."""

    def values(self, side: str, key: str = "seconds") -> list[float]:
        """A figure of every round: a key of what the child printed, or "seconds" or "peak_bytes" of the process."""
        return [float(s.result[key] if key in s.result else getattr(s, key)) for s in self.samples[side]]

    def peak(self, side: str) -> int:
        """The median peak memory."""
        return int(statistics.median(sample.peak_bytes for sample in self.samples[side]))

    @property
    def load(self) -> float:
        """The highest foreign load of a sample that counts."""
        return max(sample.load for samples in self.samples.values() for sample in samples)


def in_turn(sides: Mapping[str, Side], rounds: int, *, warm_up: bool = False) -> Turns:
    """Runs every side once a round, in order, until `rounds` of them were undisturbed (see PATIENCE).

    `warm_up` runs each side once beforehand and forgets it: caches of compiled code and of files are then full.
    """
    if warm_up:
        for side in sides.values():
            side()
    done: list[dict[str, Sample]] = []
    clean = 0
    while clean < rounds and len(done) < PATIENCE * rounds:
        done.append({name: side() for name, side in sides.items()})
        clean += _load(done[-1]) <= BUSY
        took = ", ".join(f"{name} {sample.seconds:.1f} s" for name, sample in done[-1].items())
        say(f"  round {len(done)}: {took}; load {_load(done[-1]):.2f}")
    kept = set(sorted(range(len(done)), key=lambda i: _load(done[i]))[:rounds])
    chosen = [done[i] for i in sorted(kept)]
    return Turns({name: [one[name] for one in chosen] for name in sides}, len(done) - len(chosen))


def _load(one: Mapping[str, Sample]) -> float:
    return max(sample.load for sample in one.values())


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    """10th percentile."""
    high: float
    """90th percentile."""
    rounds: int


def spread(values: Sequence[float]) -> Spread:
    """Median and the 10th and 90th percentile, of few values the lowest and highest."""
    ordered = sorted(values)
    n = len(ordered)
    return Spread(statistics.median(ordered), ordered[n // 10], ordered[n - 1 - n // 10], n)


@dataclass(frozen=True)
class Claim:
    """One figure that was asked for, as it was measured. Fields that do not apply stay None or empty."""

    name: str
    """What was measured, for a reader who knows nothing of it."""
    asked: str
    """What it has to be, with the peer: "≥ 1.5 × nanoGPT"."""
    measured: str
    """What it is, in the same words: "1.62 ×"."""
    reached: bool
    unit: str = ""
    """Of `ours` and `peer`: "tokens/s"."""
    ours: Spread | None = None
    peer: Spread | None = None
    peer_name: str = ""
    """Who the peer is, with version and setting."""
    ratio: float | None = None
    """Ours over the peer's medians; above 1 is better."""
    paired: float | None = None
    """The median over the rounds of the same ratio within a round."""
    limit: str = ""
    """The bound of this machine that `share` is of: "bf16 products, 640 GFLOP/s"."""
    share: float | None = None
    peak_bytes: int | None = None
    peer_peak_bytes: int | None = None
    load: float | None = None
    """The most cores that other programs kept busy during a sample that counts."""
    dropped: int = 0
    """Rounds that they spoilt."""
    note: str = ""
    """What a reader has to know: setting, quality of the result, conditions."""
    table: Sequence[Sequence[str]] = ()
    """A table for the page, its header first: the points of a curve, the items of a sum."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further figures, for the JSON only."""


def compare(
    turns: Turns,
    ours: str,
    peer: str,
    *,
    name: str,
    at_least: float,
    peer_name: str,
    key: str = "seconds",
    unit: str = "s",
    lower_is_better: bool = False,
    asked: str = "",
    holds: bool = True,
    **more: Any,
) -> Claim:
    """The claim that side `ours` is `at_least` times as good as side `peer` in the figure `key`.

    Both the ratio of medians and the median of paired ratios have to reach it, and `holds` whatever else was asked.
    """
    a, b = turns.values(ours, key), turns.values(peer, key)
    power = -1 if lower_is_better else 1
    ratio = (statistics.median(a) / statistics.median(b)) ** power
    paired = statistics.median((x / y) ** power for x, y in zip(a, b, strict=True))
    return Claim(
        name,
        asked or f"≥ {at_least:g} × {peer_name.split(',')[0]}",
        f"{min(ratio, paired):.2f} ×",
        min(ratio, paired) >= at_least and holds,
        unit,
        spread(a),
        spread(b),
        peer_name,
        ratio,
        paired,
        peak_bytes=turns.peak(ours),
        peer_peak_bytes=turns.peak(peer),
        load=turns.load,
        dropped=turns.dropped,
        **more,
    )


def machine() -> dict[str, str]:
    """Where and with what this was measured."""
    import torch

    from idiolect import __version__, devices

    device = devices.choose("auto")
    return {
        "machine": f"{devices.hardware(device)}, {devices.cores()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "idiolect": f"{__version__} ({commit(ROOT)})",
        "date": time.strftime("%Y-%m-%d"),
    }


def commit(checkout: Path) -> str:
    """The commit of a checkout, with a plus when it was changed since; "unknown" outside of git."""
    git = ["git", "-C", str(checkout)]
    found = subprocess.run([*git, "rev-parse", "--short=8", "HEAD"], capture_output=True, text=True)
    if found.returncode != 0:
        return "unknown"
    ignored = ["--", ".", ":!benchmarks/results", ":!docs"]
    changed = subprocess.run([*git, "status", "--porcelain", *ignored], capture_output=True, text=True).stdout.strip()
    return found.stdout.strip() + ("+" if changed else "")


def save(name: str, claims: Sequence[Claim]) -> Path:
    """Keeps what a benchmark found, with the machine, in benchmarks/results."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps({"machine": machine(), "claims": [asdict(c) for c in claims]}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def load(name: str) -> tuple[dict[str, str], list[Claim]] | None:
    """What `save` kept: the machine and the claims; None when there is nothing."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    return kept["machine"], [_claim(fields) for fields in kept["claims"]]


def _claim(fields: dict[str, Any]) -> Claim:
    for key in ("ours", "peer"):
        fields[key] = Spread(**fields[key]) if fields[key] else None
    return Claim(**fields)


def say(line: str) -> None:
    """A line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)
