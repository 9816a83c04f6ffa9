"""Recipes, runs, checkpoints and shards, each malformed."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import malformed
from malformed import mutated_arguments, mutated_bytes, mutated_json, mutated_tensors
from parsers_models import Texts
from parsers_text import Rows
from parsing import TEXTS, Parser

from idiolect import api, files
from idiolect.cli import show
from idiolect.data import shards
from idiolect.errors import UserError
from idiolect.recipes import load, tasks, watch
from idiolect.runs import Run
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings
from idiolect.train import optimisers
from idiolect.train.loop import Memory
from idiolect.train.settings import Resolved


class Recipes(Parser):
    """Recipes of every family."""

    def make(self, root):
        for name in ("gpt", "lstm", "ngram"):
            (root / f"{name}.toml").write_text(api.show_recipe(name))
        return {f"{name}.toml": self.change for name in ("gpt", "lstm", "ngram")}

    @staticmethod
    def change(data, draw):
        lines = data.decode().split("\n")
        if draw.random() < 0.3:
            return mutated_bytes(data, draw)
        for _ in range(draw.choice([1, 1, 3])):
            i = draw.choice([i for i, line in enumerate(lines) if "=" in line])
            key, _, value = lines[i].partition("=")
            other = draw.choice([malformed.nasty(draw), draw.choice(lines).partition("=")[2].strip()])
            text = other if isinstance(other, str) and draw.random() < 0.5 else toml(other)
            lines[i] = draw.choice([f"{key.lstrip('# ')}= {text}", f"{key}x ={value}", f"{key}.y ={value}", f"[{key}]"])
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    def read(self, root, path):
        api.plan(str(path))
        api.show_recipe(str(path))


def toml(value: Any) -> str:
    """A JSON value as TOML would write it, or nearly."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value) if not isinstance(value, int) or isinstance(value, bool) else str(value)


def small_run(root: Path, kind: str) -> Path:
    """A run of a family, finished."""
    (root / "text.txt").write_text("\n\n".join(TEXTS))
    overrides = [
        f"data.train={root / 'text.txt'}",
        "data.document=paragraph",
        "tokenizer.kind=byte",
        f"model.kind={kind}",
    ]
    if kind != "ngram":
        overrides += ["model.width=8", "model.context=16", "train.steps=3", "train.batch_tokens=64", "sample.every=0"]
        overrides += ["train.precision=fp32", "train.compile=no", "track.log_every=1", "checkpoint.every=1"]
    with contextlib.redirect_stderr(io.StringIO()):
        api.train("gpt", overrides, root / "run")
    return root / "run"


class Runs(Parser):
    """What `runs` shows: recipe, plan, metrics, lock; and the lineage of the model."""

    sealed = ("run/model",)

    def make(self, root):
        small_run(root, "lstm")
        return {
            "run/metrics.jsonl": Rows.change,
            "run/recipe.toml": Recipes.change,
            "run/plan.json": mutated_json,
            "run/lock": mutated_bytes,
            "run/model/documents.jsonl.gz": mutated_bytes,
            "run/model/lineage.json": mutated_json,
            "run/model/manifest.json": mutated_json,
        }

    def case(self, root, mutators, draw):
        name = draw.choice([*mutators])
        self.sealed = () if name.endswith(files.MANIFEST) else Runs.sealed
        return super().case(root, {name: mutators[name]}, draw)

    def read(self, root, path):
        run, problems = root / "run", []
        verbs = (
            api.list_runs,
            api.show_run,
            lambda run: api.compare_runs([run]),
            lambda run: plotted(root, run),
            lambda run: api.lineage([run], ["a.txt:0"]),
        )
        for verb in verbs:
            try:
                show.plain(verb(run))
            except UserError as error:
                problems.append(error)
        if problems:
            raise problems[0]


def plotted(root: Path, run: Path) -> None:
    with contextlib.ExitStack() as stack:
        stack.callback((root / "page.html").unlink, missing_ok=True)
        try:
            api.plot_runs([run], root / "page.html")
        except UserError:
            assert not (root / "page.html").exists(), "a part of the output is left"
            raise


class Plans(Parser):
    """plan.json of a run that goes on."""

    cost = 20

    def make(self, root):
        small_run(root, "ngram")
        return {"run/plan.json": mutated_json}

    def read(self, root, path):
        with contextlib.redirect_stderr(io.StringIO()):
            api.resume(root / "run")


class Checkpoints(Parser):
    """What a run goes on from, as another tool might have written it."""

    sealed = ("run/checkpoints/step-3",)

    def make(self, root):
        run = self.run = Run.open(small_run(root, "lstm"))
        recipe, _ = load.load(str(run.recipe))
        with contextlib.redirect_stderr(io.StringIO()):
            stage = tasks.prepare(recipe, run.folder)
        model = stage.model()
        self.parts = (run, stage, model, optimisers.build(model, recipe.train))
        return {
            f"{self.sealed[0]}/state.json": mutated_json,
            f"{self.sealed[0]}/model.safetensors": mutated_tensors,
            f"{self.sealed[0]}/optimizer.safetensors": mutated_tensors,
        }

    def read(self, root, path):
        shown = {other.name for other in self.run.checkpoints.iterdir()}
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                watch.Watched(*self.parts, Memory(Resolved())).restore(3)
        finally:
            assert {other.name for other in self.run.checkpoints.iterdir()} == shown


class Shards(Parser):
    """Encoded text in the cache."""

    def make(self, root):
        self.folder = shards.encode(Texts(), train(TEXTS, TokenizerSettings(kind="byte")), cache=root).folder
        kinds = {"*.bin": mutated_bytes, files.MANIFEST: mutated_json}
        return {str(p.relative_to(root)): change for kind, change in kinds.items() for p in self.folder.rglob(kind)}

    def read(self, root, path):
        shards.Shards(self.folder).counts()


class Overrides(Parser):
    """key.path=value of recipes."""

    def make(self, root):
        recipe, _ = load.load("gpt", ["data.train=x.txt"])
        tables = recipe.model_dump(by_alias=True, exclude_none=True, mode="json")
        self.whole = [f"{t}.{k}={toml(v)}" for t, keys in tables.items() for k, v in keys.items()]
        return {}

    @contextlib.contextmanager
    def case(self, root, mutators, draw):
        overrides = mutated_arguments(["data.train=x.txt", *draw.sample(self.whole, 2)], draw)
        yield lambda: api.plan(draw.choice(["gpt", "lstm", "ngram"]), overrides)


PARSERS = (Recipes, Overrides, Runs, Plans, Checkpoints, Shards)
