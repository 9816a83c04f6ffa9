"""The verb `quickstart`: the whole life once, on text that every Python carries, in minutes on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from idiolect import files, seeds
from idiolect.decode.settings import DecodeSettings
from idiolect.decode.verbs import generate
from idiolect.errors import Exit, UserError
from idiolect.recipes import library
from idiolect.recipes.curate import curate
from idiolect.recipes.prepare import say
from idiolect.recipes.pretrain import resume, train
from idiolect.recipes.runs import compare_runs
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.verbs import train_tokenizer

FAMILIES: dict[str, tuple[str, ...]] = {
    "ngram": (),
    "lstm": ("model.layers=1", "train.steps=300", "train.learning_rate=6e-3"),
    "gpt": ("model.width=192", "train.steps=260", "train.learning_rate=3e-3", "train.optimizer=muon"),
}
"""The recipes trained, and what is made smaller so that all of it takes minutes on two cores."""
SMALL = (
    "train.batch_tokens=2048",
    "model.context=128",
    "train.compile=no",
    "validation.every=100",
    "sample.every=100",
    "sample.tokens=60",
)
VOCABULARY = 2048
PROMPT = "Return the"


def quickstart(out: Path | str = "quickstart", *, seed: int = 0) -> dict[str, Any]:
    """Text → a corpus → BPE → a 5-gram, an LSTM and a transformer → one table in bits per byte → what each writes.

    Everything goes into the folder `out`; run again it goes on where it stopped. Returns {"rows", "notes", "failed",
    "samples", "folder", "next"}. Raises UserError (exit 75) when a signal stopped it.
    """
    folder = Path(out)
    text, corpus, tokenizer = folder / "text", folder / "corpus", folder / "tokenizer"
    if folder.exists() and any(folder.iterdir()) and not text.exists():
        raise UserError(f"{folder} holds something else", "choose another folder with --out")
    if not text.exists():
        write_text(text)
    if not corpus.exists():
        say("curating what is trained on")
        curate([text / "train"], corpus)
    if not tokenizer.exists():
        say("learning a tokenizer")
        train_tokenizer([corpus], tokenizer, TokenizerSettings(kind="bpe", size=VOCABULARY))
    shared = [f"data.train={corpus}", f"data.validation={text / 'held-out'}", f"tokenizer.from={tokenizer}"]
    runs = []
    for name, overrides in FAMILIES.items():
        run = folder / name
        runs.append(run)
        say(f"\n{name}")
        if (run / "model").exists():
            continue
        if (run / "recipe.toml").exists():
            result = resume(run)
        else:
            small = () if name == "ngram" else SMALL
            result = train(name, [*shared, f"train.seed={seed}", *small, *overrides], run)
        if result.get("stopped"):
            raise UserError(f"stopped by {result['stopped']}", "run the same command again to go on", Exit.STOPPED)
    decode = DecodeSettings(max_tokens=60, temperature=0.8, top_p=0.95, seed=seed)
    samples = {run.name: PROMPT + _text(generate(run, PROMPT, decode)) for run in runs}
    return {**compare_runs(runs), "samples": samples, "folder": str(folder), "next": _next(folder, runs)}


def _text(completion: Any) -> str:
    return str(completion["text"])


def write_text(folder: Path) -> None:
    """The library's documents, a file each, a tenth of them held out, drawn once for all."""
    documents = list(library.documents())
    order = seeds.numpy_generator(0, "quickstart").permutation(len(documents)).tolist()
    held = set(order[: len(documents) // 10])
    say(f"writing {len(documents)} documents of the Python library, {len(held)} of them held out")
    with files.new_folder(folder) as aside:
        for part in ("train", "held-out"):
            (aside / part).mkdir()
        for number, document in enumerate(documents):
            part = "held-out" if number in held else "train"
            (aside / part / f"{number:04}.txt").write_text(document, encoding="utf-8")


def _next(folder: Path, runs: Sequence[Path]) -> list[str]:
    best = runs[-1]
    return [
        f"idiolect generate {best} 'Raise ValueError if' --temperature 0.7",
        f"idiolect explore {best} 'The default is'",
        f"idiolect score {best} 'Return True if the object is callable.'",
        f"idiolect runs plot {' '.join(map(str, runs))} --out {folder}/curves.html",
        f"idiolect train gpt data.train=YOUR.txt --out my-run   (a browser shows {best}/report.html)",
        f"idiolect curate YOUR-FILES --out my-corpus   (a browser shows {folder}/corpus/report.html)",
    ]
