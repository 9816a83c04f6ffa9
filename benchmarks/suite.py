"""Every speed and memory figure that is promised, measured beside the peers: `python -m benchmarks.suite --data DIR`.

    [--peers DIR] [--peers-venv DIR] [--only CLAIM …] [--rounds N]

DIR of --data holds tinyshakespeare/input.txt, wikitext-2/valid.txt and gpt2-tokenizer/. DIR of --peers holds the peers
that are no packages, each a checkout: nanoGPT (github.com/karpathy/nanoGPT), examples (github.com/pytorch/examples) and
kenlm (github.com/kpu/kenlm, built in kenlm/build). The others lie in a virtual environment of their own, which
`make .venv-peers` fills from benchmarks/peers.txt. What is not there is not run, and said so.

A benchmark is a module here with CLAIMS = {name: function(suite) -> iterable of measure.Claim} and TRIED, Markdown on
what was tried and what each gave, or ""; one line in MODULES below. What a function yields goes to results/NAME.json,
and `python -m benchmarks.page` makes docs/performance.md of all of them.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import Absent, Claim, Failed, say
from idiolect.plan import limits

MODULES = {
    "batch_curve": "Training speed against the batch",
    "cache_curve": "A token against the text before it",
    "training": "Training",
    "finetuning": "Fine-tuning",
    "decoding": "Decoding",
    "memory": "Memory",
    "ngrams": "N-grams",
    "tokenising": "Tokenising",
    "curating": "Curation",
    "curating_filters": "Filters",
    "curating_near": "Near duplicates",
    "curating_pages": "Web pages",
    "personal_data": "Personal data",
}
"""Module → its heading on the page, in the page's order."""


@dataclass(frozen=True)
class Suite:
    """What a benchmark is handed."""

    data_folder: Path
    peers_folder: Path | None
    peers_venv: Path
    rounds: int
    scratch: Path
    """A folder for throw-away files; $IDIOLECT_CACHE lies in it."""

    def data(self, path: str) -> Path:
        """A file of the data folder. Raises Absent."""
        return _there(self.data_folder / path, f"{path} in the folder of --data")

    def peer(self, path: str) -> Path:
        """A file or folder of the peers' folder, such as "nanoGPT/model.py". Raises Absent."""
        name = path.split("/")[0]
        if self.peers_folder is None:
            raise Absent(f"a checkout of {name} in the folder of --peers")
        return _there(self.peers_folder / path, f"{path} in the folder of --peers")

    def peer_version(self, name: str) -> str:
        """The commit of a checkout in the peers' folder."""
        return measure.commit(self.peer(name))

    @property
    def peers_python(self) -> Path:
        """The interpreter of the environment with the peers that are packages. Raises Absent."""
        return _there(self.peers_venv / "bin/python", "the peers' environment: make .venv-peers, or --peers-venv")

    def package(self, name: str) -> str:
        """ "name version" of a package there. Raises Absent when it is missing."""
        code = f"import importlib.metadata as m; print(m.version({name!r}))"
        found = subprocess.run([self.peers_python, "-c", code], capture_output=True, text=True)
        if found.returncode != 0:
            raise Absent(f"the package {name} in the peers' environment ({self.peers_venv})")
        return f"{name} {found.stdout.strip()}"

    def idiolect(self, *arguments: str | Path) -> list[str]:
        """The command `idiolect …` of this installation."""
        return [sys.executable, "-m", "idiolect", *map(str, arguments)]

    def child(self, module: str, *arguments: str | Path) -> list[str]:
        """The command that runs a module of benchmarks with this installation: child("training", "--size", "S")."""
        return [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]

    def folder(self, name: str) -> Path:
        """A new empty folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.scratch))

    @functools.cached_property
    def limits(self) -> limits.Limits:
        """This machine's bounds, measured when first asked for."""
        say("measuring this machine's limits")
        return limits.measure()


def _there(path: Path, what: str) -> Path:
    if not path.exists():
        raise Absent(what)
    return path


def benchmarks() -> dict[str, dict[str, Callable[[Suite], Iterable[Claim]]]]:
    """Module → its claims by name."""
    return {module: importlib.import_module(f"benchmarks.{module}").CLAIMS for module in MODULES}


def run(suite: Suite, only: Iterable[str]) -> bool:
    """Runs the chosen claims and keeps what they found; says whether all were run and reached."""
    good = True
    for name, claims in {k: f for module in benchmarks().values() for k, f in module.items()}.items():
        if name not in only:
            continue
        say(f"{name} …")
        try:
            found = list(claims(suite))
        except (Absent, Failed) as why:
            print(f"not run  {name}: needs {why}" if isinstance(why, Absent) else f"FAILED   {name}: {why}", flush=True)
            good = False
            continue
        measure.save(name, found)
        for claim in found:
            word = "reached" if claim.reached else "MISSED "
            print(f"{word}  {claim.name}: asked {claim.asked}, measured {claim.measured}", flush=True)
            good &= claim.reached
    return good


def main() -> int:
    """The exit code is 1 when a claim was missed or not run."""
    names = [name for claims in benchmarks().values() for name in claims]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--peers-venv", type=Path, default=measure.ROOT / ".venv-peers")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CLAIM", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    peers = asked.peers.resolve() if asked.peers else None
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
        os.environ["IDIOLECT_CACHE"] = f"{scratch}/cache"
        suite = Suite(asked.data.resolve(), peers, asked.peers_venv.absolute(), asked.rounds, Path(scratch))
        return 0 if run(suite, asked.only) else 1


if __name__ == "__main__":
    sys.exit(main())
