"""Everything that reads what comes from outside, each with whole input to be made malformed.

`python tests/faults/parsers.py NAME SEED NUMBER` runs one case with its traceback.
"""

import contextlib
import gzip
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

import malformed
import raw_parsers
from malformed import mutated_arguments, mutated_bytes, mutated_json, mutated_lines, mutated_tensors
from parsing import TEXTS, Parser

from idiolect import api, cli, files
from idiolect.cli import show
from idiolect.data import shards
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import Exit, UserError
from idiolect.interop import arpa
from idiolect.interop import folder as model_folder
from idiolect.models.build import build
from idiolect.models.ngram import NGram
from idiolect.models.settings import DecoderSettings, NGramSettings, RecurrentSettings
from idiolect.recipes import load, tasks, watch
from idiolect.runs import Run
from idiolect.text.corpus import Corpus
from idiolect.text.examples import Examples
from idiolect.text.read import read
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer
from idiolect.train import optimisers
from idiolect.train.loop import Memory
from idiolect.train.settings import Resolved

SECONDS = 2.0
"""Processor time a case may take."""
MEMORY = 256 << 20
"""Bytes a case may hold besides what was held before."""
LONGEST = 1 << 17
"""Characters of a text that a model reads: a million tokens honestly take longer than SECONDS."""
SAMPLE = "The number 8 is even; Zähler 漢字 <|endoftext|>\n\tx = [1]"


class Text(Parser):
    """Plain text."""

    def make(self, root):
        (root / "a.txt").write_text("\n\n".join(TEXTS))
        (root / "b.md").write_text("# ü\n" + TEXTS[0])
        return {"a.txt": mutated_lines, "b.md": mutated_bytes}

    def read(self, root, path):
        for document in ("file", "paragraph", "line"):
            assert all(found.text.strip() for found in read([path], document=document))
        Corpus([path]).split(0.1)


def consume(path: Path, max_bad: float = 0.01) -> None:
    """Reads all and keeps nothing."""
    for found in read([path], max_bad=max_bad):
        assert found.text.strip()


class Rows(Text):
    """jsonl."""

    def make(self, root):
        rows = [{"text": text, "id": i, "more": [None, {"x": 1.5}]} for i, text in enumerate(TEXTS)]
        (root / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return {"a.jsonl": self.change}

    @staticmethod
    def change(data, draw):
        lines = data.split(b"\n")
        if draw.random() < 0.5:
            return mutated_lines(data, draw)
        i = draw.choice([i for i, line in enumerate(lines) if line])
        lines[i] = mutated_json(lines[i], draw)
        return b"\n".join(lines)

    def read(self, root, path):
        consume(path, max_bad=0.5)
        consume(path)


class Packed(Rows):
    """gz and zst."""

    def make(self, root):
        import zstandard

        text, rows = "\n".join(TEXTS).encode(), json.dumps({"text": TEXTS[0]}).encode()
        (root / "a.txt.gz").write_bytes(gzip.compress(text))
        (root / "b.jsonl.gz").write_bytes(gzip.compress(rows + b"\n") * 3)
        (root / "c.txt.zst").write_bytes(zstandard.compress(text))
        (root / "d.jsonl.zst").write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(rows + b"\n") * 2)
        return dict.fromkeys(["a.txt.gz", "b.jsonl.gz", "c.txt.zst", "d.jsonl.zst"], mutated_bytes)


class Parquet(Rows):
    """parquet."""

    cost = 8

    def make(self, root):
        import duckdb

        rows = root / "rows.jsonl"
        rows.write_text("\n".join(json.dumps({"text": text, "id": i}) for i, text in enumerate(TEXTS)))
        with duckdb.connect() as connection:
            connection.execute(f"COPY (SELECT * FROM '{rows}') TO '{root / 'a.parquet'}' (FORMAT parquet)")
        rows.unlink()
        return {"a.parquet": mutated_bytes}

    def read(self, root, path):
        consume(path)


class Fields(Rows):
    """Examples of several fields: csv, tsv, conll, jsonl with lists, plain files beside one another."""

    def make(self, root):
        words = [text.replace('"', "").split()[:9] for text in TEXTS]
        (root / "a.csv").write_text("one,two\n" + "".join(f'"{" ".join(w)}","say ""no""\n{w[0]}"\n' for w in words))
        (root / "b.tsv").write_text("one\ttwo\n" + "".join(f"{w[0]}\t{w[-1]}\n" for w in words))
        (root / "c.conll").write_text("\n\n".join("\n".join(f"{word}\tO" for word in w) for w in words))
        (root / "d.jsonl").write_text("\n".join(json.dumps({"one": w, "two": ["O"] * len(w)}) for w in words))
        for name in ("e.txt", "f.txt"):
            (root / name).write_text("\n".join(" ".join(w) for w in words))
        lines = dict.fromkeys(["a.csv", "b.tsv", "c.conll", "e.txt"], mutated_lines)
        return lines | {"d.jsonl": self.change}

    def read(self, root, path):
        listed = path.suffix in (".conll", ".jsonl")
        beside = (root / "f.txt",) if path.suffix == ".txt" else ()
        for example in Examples((path,), ("one[]", "two[]") if listed else ("one", "two"), beside):
            assert len(example) == 2
        if path.suffix == ".tsv":
            for example in Examples((path,), ("1", "2")):
                assert example["1"] is not None


def use(tokenizer: Tokenizer) -> None:
    """Everything one does with a tokenizer."""
    ids = tokenizer.encode(SAMPLE)
    tokenizer.decode(ids)
    tokenizer.pieces(ids)
    tokenizer.oov_rate(SAMPLE)
    tokenizer.token_bytes()
    stream = tokenizer.stream()
    for id_ in range(min(tokenizer.size, 40)):
        stream.push(id_)
    stream.flush()


class Vocabularies(Parser):
    """tokenizer.json, and what lies beside it."""

    def make(self, root):
        made = {}
        for kind in ("byte", "bpe", "word", "wordpiece", "unigram", "char"):
            (root / kind).mkdir()
            train(TEXTS, TokenizerSettings(kind=kind, size=300)).save(root / kind)
            made[f"{kind}/tokenizer.json"] = mutated_json
            made[f"{kind}/tokenizer_config.json"] = mutated_json
        (root / "bpe" / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|endoftext|>"}}')
        return made | {"bpe/special_tokens_map.json": mutated_json}

    def read(self, root, path):
        use(Tokenizer.load(path.parent))


class Merges(Parser):
    """GPT-2's pair of files."""

    def make(self, root):
        train(TEXTS, TokenizerSettings(kind="bpe", size=300)).save(root)
        model = json.loads((root / "tokenizer.json").read_text())["model"]
        (root / "tokenizer.json").unlink(), (root / "tokenizer_config.json").unlink()
        (root / "encoder.json").write_text(json.dumps(model["vocab"]))
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (root / "vocab.bpe").write_text("\n".join(["#version: 0.2", *pairs]))
        return {"encoder.json": mutated_json, "vocab.bpe": mutated_lines}

    def read(self, root, path):
        use(Tokenizer.load(root))


DECODERS = {
    "gemma3": {
        "norm": "rms-offset",
        "norm_place": "both",
        "mlp": "geglu",
        "scaled_embedding": True,
        "qk_norm": True,
        "window": 3,
        "global_layers": [1],
        "rope_local_theta": 50.0,
        "logit_softcap": 9.0,
    },
    "phi3": {
        "rope_share": 0.5,
        "rope_scaling": {"kind": "longrope", "short": [1.0], "long": [2.0], "original_context": 5},
    },
    "mixture": {"attention_bias": "qkv", "experts": {"count": 3, "shared_width": 5, "dense_layers": [0]}},
    "smollm3": {"unrotated_layers": [1], "rope_scaling": {"kind": "yarn", "factor": 2.0, "original_context": 5}},
}
"""Further shapes of a decoder."""


def save_models(root: Path) -> list[str]:
    """A folder of each kind of model, with nothing in it that vouches for it."""
    tokenizer = train(TEXTS, TokenizerSettings(kind="bpe", size=300))
    size, small = tokenizer.size, {"width": 8, "context": 16}
    gpt2 = {"norm": "layer", "position": "learned", "attention_bias": "all", "mlp_bias": True, "mlp": "gelu"}
    settings = {
        "gpt2": DecoderSettings(layers=1, heads=2, **small, **gpt2),
        "llama": DecoderSettings(layers=1, heads=2, kv_heads=1, **small),
        "own": DecoderSettings(layers=1, heads=2, window=5, qk_norm=True, **(small | {"mlp": "relu"})),
        "lstm": RecurrentSettings(kind="lstm", **small),
        **{name: DecoderSettings(layers=2, heads=2, **small, **style) for name, style in DECODERS.items()},
    }
    models: dict[str, Any] = {name: build(s, size, seed=1) for name, s in settings.items()}
    for name in ("kneser-ney", "infinite", "stupid-backoff"):
        models[name] = counted(tokenizer, name, root / "cache")
    for name, model in models.items():
        model_folder.save(root / name, model, tokenizer, {"results": {}})
        for seal in (files.MANIFEST, model_folder.LINEAGE):
            (root / name / seal).unlink()
    return [*models]


def counted(tokenizer: Tokenizer, smoothing: Any, cache: Path) -> NGram:
    """Trigrams of TEXTS."""
    ids = {"begin_id": tokenizer.begin_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
    model = NGram(NGramSettings(order=3, smoothing=smoothing), tokenizer.size, **ids)
    model.fit(shards.encode(Texts(), tokenizer, cache=cache))
    shutil.rmtree(cache)
    return model


class Texts:
    """The corpus of TEXTS."""

    fingerprint = "texts"

    def __iter__(self):
        return (type("Document", (), {"text": text, "last": True})() for text in TEXTS)


class Configs(Parser):
    """config.json of model folders of every family."""

    changed, change = model_folder.CONFIG, staticmethod(mutated_json)

    def make(self, root):
        return {f"{name}/{self.changed}": self.change for name in save_models(root)}

    def read(self, root, path):
        loaded = model_folder.load(path.parent)
        if loaded.tokenizer is not None:
            complete(loaded.model, loaded.tokenizer, ["The "], DecodeSettings(max_tokens=2))


class Weights(Configs):
    """safetensors of every family."""

    changed, change = model_folder.WEIGHTS, staticmethod(mutated_tensors)


class Index(Configs):
    """Weights in several files."""

    def make(self, root):
        names = save_models(root)[:3]
        for name in names:
            weights = root / name / model_folder.WEIGHTS
            tensors = [*model_folder._header(root / name)]
            weights.rename(weights.with_name("part-1.safetensors"))
            index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "part-1.safetensors")}
            (root / name / model_folder.INDEX).write_text(json.dumps(index))
        return {f"{name}/{model_folder.INDEX}": mutated_json for name in names}


class Arpa(Parser):
    """ARPA files, imported."""

    def make(self, root):
        tokenizer = train(TEXTS, TokenizerSettings(kind="word", size=60))
        arpa.write_arpa(counted(tokenizer, "kneser-ney", root / "cache"), tokenizer, root / "x.arpa")
        return {"x.arpa": mutated_lines}

    def read(self, root, path):
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, root / "out", ignore_errors=True)
            try:
                api.import_model(path, root / "out")
            except UserError:
                assert not (root / "out").exists(), "a part of the output is left"
                raise
            files.verify(root / "out")


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
            "run/model/lineage.json": mutated_json,
            "run/model/documents.jsonl.gz": mutated_bytes,
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


class Words(Parser):
    """Text and numbers from a command line or a caller: prompts, ids, stop strings."""

    def make(self, root):
        save_models(root)
        self.loaded = [model_folder.load(root / name) for name in ("llama", "lstm", "kneser-ney", "infinite")]
        return {}

    @contextlib.contextmanager
    def case(self, root, mutators, draw):
        loaded = draw.choice(self.loaded)
        text = mutated_lines(draw.choice(TEXTS)[: draw.choice([5, 40, 900])].encode(), draw).decode(
            "utf-8", "surrogateescape"
        )[:LONGEST]
        number = draw.choice(malformed.NUMBERS)
        asked = {draw.choice([*DecodeSettings.model_fields]): malformed.nasty(draw), "max_tokens": 2}
        yield draw.choice(
            [
                lambda: complete(loaded.model, loaded.tokenizer, [text], settings(asked)),
                lambda: complete(
                    loaded.model, loaded.tokenizer, [text[:9]], settings({"stop": (text,), "max_tokens": 2})
                ),
                lambda: api.score(root / "llama", text),
                lambda: loaded.tokenizer.decode([0, number]),
                lambda: loaded.tokenizer.decode(loaded.tokenizer.encode(text)),
                lambda: api.explore(root / "lstm", "a", DecodeSettings(max_tokens=2), candidates=[text]),
            ]
        )


def settings(asked: dict[str, Any]) -> DecodeSettings:
    """As the command line makes them."""
    from pydantic import ValidationError

    try:
        return DecodeSettings(**asked)
    except ValidationError as error:
        raise UserError(str(error), "as cyclopts says") from None


class CommandLine(Parser):
    """Arguments of every verb that returns soon."""

    cost = 4

    def make(self, root):
        save_models(root)
        train(TEXTS, TokenizerSettings(kind="bpe", size=300)).save(files.make_folder(root / "tok") or root / "tok")
        (root / "text.txt").write_text(TEXTS[0])
        commands = [
            "tokenizer encode {root}/tok Hello",
            "tokenizer decode {root}/tok 5 6 7 --json",
            "generate {root}/gpt2 Hello --max-tokens 2 --top-k 3 --seed 1 --json",
            "generate {root}/llama Hi --max-tokens 2 --stop x --temperature 0.5",
            "score {root}/kneser-ney Hello --stride 3",
            "score {root}/gpt2 {root}/text.txt --file --json",
            "explore {root}/own Hi --max-tokens 2 --candidates a --html {root}/outs/out.html",
            "plan gpt model.layers=2 train.steps=5 tokenizer.size=300 --json",
            "recipes show gpt",
            "runs show {root}/none",
            "runs compare {root}/none {root}/none",
            "export {root}/kneser-ney {root}/outs/out --to arpa",
            "export {root}/lstm {root}/outs/out",
            "import {root}/llama {root}/outs/out",
            "evaluate {root}/lstm --on {root}/text.txt --json",
            "resume {root}/none train.steps=3 --accept-change --step 4",
            "tokenizer train {root}/text.txt --out {root}/outs/out --size 280 --kind bpe",
        ]
        (root / "outs").mkdir()
        self.commands = [[word.format(root=root) for word in command.split()] for command in commands]
        return {}

    @contextlib.contextmanager
    def case(self, root, mutators, draw):
        command = draw.choice(self.commands)
        verb = 2 if command[0] in cli.GROUPS and draw.random() < 0.9 else 1
        arguments = command[:verb] + mutated_arguments(command[verb:], draw)

        def run():
            out, err = (
                io.TextIOWrapper(io.BytesIO(), "utf-8"),
                io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace"),
            )
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                sys.argv, code = ["idiolect"], cli.run(arguments)
            err.flush()
            said = err.buffer.getvalue().decode()
            assert code != Exit.BUG, f"{arguments}: {said}"
            if code:
                assert not any((root / "outs").iterdir()), f"{arguments}: a part of the output is left"
                raise UserError(*told(said, arguments), code)

        here = Path.cwd()
        (root / "here").mkdir(exist_ok=True)
        try:
            os.chdir(root / "here")
            yield run
        finally:
            os.chdir(here)
            shutil.rmtree(root / "here")
            shutil.rmtree(root / "outs")
            (root / "outs").mkdir()


def told(said: str, arguments: list[str]) -> tuple[str, str]:
    """What and how to mend, of the last lines on stderr."""
    assert "Traceback" not in said, said
    *_, last = said.rpartition("error: ")
    what, found, mend = last.strip("\n").rpartition("\n  mend: ")
    assert found, (arguments, said)
    return what, mend


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


PARSERS = {
    parser.__name__: parser
    for parser in (
        *(Text, Rows, Fields, Packed, Parquet, Vocabularies, Merges, Configs, Weights, Index, Arpa, Recipes, Overrides),
        *(Runs, Plans, Checkpoints, Shards, Words, CommandLine),
        *raw_parsers.PARSERS,
    )
}


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
