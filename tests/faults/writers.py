"""Everything that writes something a user relies on, each in versions that can be told apart when they are read."""

import os
import re
import signal
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from idiolect import files, native
from idiolect.data import packing, shards
from idiolect.errors import UserError
from idiolect.interop import arpa
from idiolect.interop import folder as model_folder
from idiolect.models.build import build
from idiolect.models.ngram import NGram
from idiolect.models.settings import NGramSettings, RecurrentSettings
from idiolect.report import Report
from idiolect.runs import Run
from idiolect.testing import ByteTokenizer
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer
from idiolect.train import checkpoint


class Wrong(Exception):
    """A reader took for whole what nobody wrote."""


def must(fact: bool) -> None:
    if not fact:
        raise Wrong


class Writer:
    """Writes versions 1, 2, … below a folder, one after the other."""

    versions: Sequence[int] = (1, 2, 3)
    artefact = ""
    """The folder or file that the last version ends in, to be damaged."""
    hashed = True
    """Whether a manifest vouches for it, so that any change of it is noticed."""

    def write(self, root: Path, version: int) -> None:
        raise NotImplementedError

    def read(self, root: Path) -> int:
        """The version that is there, 0 when there is none. Raises UserError when it is damaged, Wrong never."""
        raise NotImplementedError


class Json(Writer):
    """One file in a folder that has to be made."""

    versions = range(1, 61)
    artefact = "deep/deeper/x.json"
    hashed = False

    def write(self, root, version):
        files.write_json(root / self.artefact, {"version": version, "more": "x" * 37})

    def read(self, root):
        if not (root / self.artefact).exists():
            return 0
        value = files.read_json(root / self.artefact)
        must(value["more"] == "x" * 37)
        return value["version"]


class Folder(Writer):
    """A folder that is replaced."""

    versions = range(1, 9)
    artefact = "runs/model"

    def write(self, root, version):
        with files.new_folder(root / self.artefact, version=version) as folder:
            (folder / "a").write_text(f"{version} " * 13)
            (folder / "b").mkdir()
            (folder / "b" / "c").write_text(f"{version}")

    def read(self, root):
        if (root / "runs").exists():
            files.sweep(root / "runs")
        if not (root / self.artefact).exists():
            return 0
        version = files.verify(root / self.artefact)["version"]
        must((root / self.artefact / "a").read_text() == f"{version} " * 13)
        return version


class Checkpoints(Writer):
    """A run that saves, with its lock and its metrics; older checkpoints go."""

    versions = (1, 2, 3, 4)
    artefact = "run/checkpoints/step-4"

    def write(self, root, version):
        run = Run.create(root / "run") if version == 1 else Run(root / "run")
        with run.lock():
            run.truncate_metrics(version - 1)
            run.append_metrics({"step": version})
            tensors = {"w": torch.full((7,), float(version))}
            snapshot = checkpoint.Snapshot(version, tensors, tensors, {"version": version}, {})
            checkpoint.save(run, snapshot, reason="interval", keep=2)

    def read(self, root):
        run = Run(root / "run")
        if not run.folder.exists():
            return 0
        with run.lock(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = checkpoint.newest(run)
        if found is None:
            return 0
        must(found.memory == {"version": found.step})
        must(found.model["w"].tolist() == found.optimizer["w"].tolist() == [found.step] * 7)
        with run.lock():
            run.truncate_metrics(found.step)  # as `resume` does
        steps = [values["step"] for values in run.read_metrics()]
        must(steps == list(range(1, found.step + 1)))  # a checkpoint knows no more than the metrics
        return found.step


class Model(Writer):
    """A model folder, as a run ends with and as `export` writes."""

    artefact = "model"

    @staticmethod
    @cache
    def network(version):
        return build(RecurrentSettings(kind="rnn", width=3, context=4), 5, seed=version)

    def write(self, root, version):
        model_folder.save(root / "model", self.network(version), None, {"version": version})

    def read(self, root):
        try:
            loaded = model_folder.load(root / "model")
        except UserError as error:
            if isinstance(error, files.Damaged) or (root / "model").exists():
                raise
            return 0
        version, weights = loaded.lineage["version"], self.network(loaded.lineage["version"]).state_dict()
        must(all(torch.equal(value, weights[name]) for name, value in loaded.model.state_dict().items()))
        return version


class Vocabulary(Writer):
    """A tokenizer folder."""

    artefact = "tokenizer"

    @staticmethod
    @cache
    def tokenizer(version):
        return train([f"word{version}"], TokenizerSettings(kind="word", size=9))

    def write(self, root, version):
        with files.new_folder(root / "tokenizer") as folder:
            self.tokenizer(version).save(folder)

    def read(self, root):
        if not (root / "tokenizer").exists():
            return 0
        fingerprint = Tokenizer.load(root / "tokenizer").fingerprint
        found = [version for version in self.versions if self.tokenizer(version).fingerprint == fingerprint]
        must(len(found) == 1)
        return found[0]


@dataclass
class Document:
    text: str
    last: bool = True


@dataclass
class Corpus:
    """Two documents that tell the version."""

    version: int

    @property
    def fingerprint(self):
        return f"corpus {self.version}"

    def __iter__(self):
        return iter([Document(f"{self.version} " * 7), Document("ü" * self.version)])

    def ids(self):
        return [i for document in self for i in ByteTokenizer().encode(document.text)]


class Encoded(Writer):
    """Token shards in the cache; every version has a folder of its own."""

    versions = (1, 2)

    def write(self, root, version):
        shards.encode(Corpus(version), ByteTokenizer(), cache=root, workers=1)

    def read(self, root):
        standing = 0
        for version in self.versions:
            folder = root / "shards" / shards._key(Corpus(version), ByteTokenizer())[:32]
            if (folder / "documents").exists():
                must(np.array_equal(shards.Shards(folder).ids[:], Corpus(version).ids()))
                standing = version
            again = shards.encode(Corpus(version), ByteTokenizer(), cache=root, workers=1)
            must(np.array_equal(again.ids[:], Corpus(version).ids()))
        return standing


class Packed(Encoded):
    """Where documents lie in rows without being cut, kept beside the shards; each version for another context."""

    versions = (1, 2, 3)

    @staticmethod
    @cache
    def rows(version):
        """What an undisturbed writer makes."""
        with tempfile.TemporaryDirectory() as folder:
            made = packing.packing(
                shards.encode(Corpus(1), ByteTokenizer(), cache=Path(folder), workers=1), version + 3
            )
            return [np.array(part) for part in (made.rows, made.starts, made.lengths)]

    def encoded(self, root):
        return shards.encode(Corpus(1), ByteTokenizer(), cache=root, workers=1)

    def write(self, root, version):
        packing.packing(self.encoded(root), version + 3)

    def read(self, root):
        encoded, standing = self.encoded(root), 0
        for version in self.versions:
            standing = version if (encoded.folder / f"packing-{version + 3}").exists() else standing
            made = packing.packing(encoded, version + 3)
            must(all(map(np.array_equal, (made.rows, made.starts, made.lengths), self.rows(version))))
        return standing


class Kernel(Writer):
    """Compiled kernels in the cache."""

    versions = range(1, 9)
    artefact = "native/kernel-8"

    def write(self, root, version):
        native.kept(root / f"native/kernel-{version}", lambda made: made.write_bytes(b"%d" % version * 37))

    def read(self, root):
        standing = 0
        for version in self.versions:
            folder = root / f"native/kernel-{version}"
            standing = version if folder.exists() else standing
            made = native.kept(folder, lambda made, version=version: made.write_bytes(b"%d" % version * 37))
            must(made.read_bytes() == b"%d" % version * 37)
        return standing


class Arpa(Writer):
    """An n-gram, exported for KenLM."""

    artefact = "x.arpa"
    hashed = False

    @staticmethod
    @cache
    def counted(version):
        tokenizer = train([f"a b c d e v{version}"], TokenizerSettings(kind="word", size=20))
        ids = {"begin_id": tokenizer.begin_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
        model = NGram(NGramSettings(order=2), tokenizer.size, **ids)
        text = np.array(tokenizer.encode(f"a b a c v{version} d"))
        model.fit(type("Documents", (), {"ids": text, "offsets": np.array([0, len(text)])}))
        return model, tokenizer

    def write(self, root, version):
        arpa.write_arpa(*self.counted(version), root / "x.arpa")

    def read(self, root):
        if not (root / "x.arpa").exists():
            return 0
        _, words = arpa.read_arpa(root / "x.arpa")
        (version,) = [int(word[1:]) for word in words if word[:1] == "v" and word[1:].isdigit()]
        return version


class Ends(Writer):
    """What a run begins and ends with: recipe, plan, model, final figures, report."""

    artefact = "run/model"

    def write(self, root, version):
        run = Run.create(root / "run") if version == 1 else Run(root / "run")
        with run.lock():
            files.write_text(run.recipe, f"version = {version}\n")
            files.write_json(run.plan, {"version": version})
            run.append_metrics({"step": version})
            model_folder.save(run.model, Model.network(version), None, {"version": version})
            run.append_metrics({"step": version, "final.loss": 0.5})
            Report(f"run {version}").write(run.report)

    def read(self, root):
        run = Run(root / "run")
        if not run.recipe.exists():
            must(not (run.plan.exists() or run.model.exists() or run.report.exists()))
            return 0
        parts = {"recipe": int(run.recipe.read_text().removeprefix("version = "))}
        parts["plan"] = files.read_json(run.plan)["version"] if run.plan.exists() else 0
        with run.lock():
            files.sweep(run.folder)  # as `resume` does
        parts["model"] = model_folder.load(run.model).lineage["version"] if run.model.exists() else 0
        page = run.report.read_text() if run.report.exists() else "<h1>run 0</h1></html>"
        must(page.strip().endswith("</html>"))
        parts["report"] = int(re.search(r"<h1>run (\d)</h1>", page)[1])
        must(sorted(parts.values(), reverse=True) == [*parts.values()] and parts["recipe"] - parts["report"] <= 1)
        with run.lock():
            run.truncate_metrics(-1)
        return parts["report"]


WRITERS = {
    writer.__name__: writer()
    for writer in (Json, Folder, Checkpoints, Model, Vocabulary, Encoded, Packed, Kernel, Arpa, Ends)
}


def write_two(name, root):
    """Version 1, then (stopped before it, so that a tracer can be attached) version 2."""
    Path(root).mkdir()
    WRITERS[name].write(Path(root), 1)
    os.kill(os.getpid(), signal.SIGSTOP)
    WRITERS[name].write(Path(root), 2)
