"""The verbs that make models and look at runs: each parses its own options, calls one function of `api`, and prints."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

from idiolect import api
from idiolect.cli import show
from idiolect.cli.options import Flat, Json, Out
from idiolect.text.curation.engine import Engine
from idiolect.tokens.settings import TokenizerSettings


def quickstart(*, out: Out = Path("quickstart"), seed: int = 0, json: Json = False) -> int:
    """Learn from the text that every Python ships: BPE, a 5-gram, an LSTM and a transformer, compared in one table.

    Parameters
    ----------
    out
        The folder everything is written to.
    seed
        Seed of everything drawn.
    """
    return show.quickstart(api.quickstart(out, seed=seed), json)


def doctor(*, json: Json = False) -> None:
    """Say what this machine offers and what will be used."""
    show.facts(api.doctor(), json)


def bench(*, json: Json = False) -> None:
    """Measure this machine's limits, and how much of them training, decoding, tokenising and counting reach."""
    show.bench(api.bench(), json)


def recipes_list(*, json: Json = False) -> None:
    """List the recipes that ship."""
    show.facts(api.list_recipes(), json)


def recipes_show(name: str, /) -> None:
    """Print a recipe with every key and its meaning, as TOML.

    Parameters
    ----------
    name
        A recipe that ships, or a file of your own.
    """
    print(api.show_recipe(name), end="")


def recipes_templates(*files: Path, json: Json = False) -> None:
    """List sets of prompts by the category of their task, for task.templates of the recipe sft.

    Parameters
    ----------
    files
        Files of templates (.toml, .json, .py); without any, the sets that ship.
    """
    show.templates(api.list_templates(files), json)


def curate(
    *inputs: str,
    out: Out,
    recipe: str = "curate",
    dry_run: bool = False,
    require_licence: bool = False,
    engine: Engine = "local",
    workers: int | None = None,
    json: Json = False,
) -> None:
    """Make a clean corpus of a heap of files; given again after it was stopped, the same command goes on.

    Parameters
    ----------
    inputs
        Files and folders (txt, md, jsonl, csv, parquet, html, warc, wet, zip, tar; also .gz and .zst), and overrides
        like curate.near.threshold=0.7.
    out
        The folder to make.
    recipe
        A recipe that ships (curate, curate-web), or a file of your own.
    dry_run
        Write only the report: what each filter would drop, and whom it would hit.
    require_licence
        Leave out documents whose licence is not known.
    engine
        Where the work is done: processes of this machine, or a ray cluster.
    workers
        Processes; without it, one a core.
    """
    overrides = [text for text in inputs if text.startswith("curate.") and "=" in text]
    overrides += ["curate.consent.require_licence=true"] if require_licence else []
    paths = [Path(text) for text in inputs if text not in overrides]
    made = api.curate(paths, out, recipe, overrides, dry_run=dry_run, engine=engine, workers=workers)
    show.facts(made, json)


def tokenizer_train(
    *text: Path,
    out: Out,
    settings: Annotated[TokenizerSettings, Flat] = TokenizerSettings(),  # noqa: B008
    json: Json = False,
) -> None:
    """Learn a tokenizer from files of text and save it to a folder.

    Parameters
    ----------
    text
        Files or folders of text.
    out
        The folder to write.
    """
    show.facts(api.train_tokenizer(text, out, settings), json)


def tokenizer_encode(tokenizer: Path, text: str, /, *, json: Json = False) -> None:
    """Turn text into ids.

    Parameters
    ----------
    tokenizer
        A folder with a tokenizer, or a model or run folder.
    text
        The text; `-` reads it from standard input.
    """
    show.encoded(api.encode(tokenizer, show.text_or_stdin(text)), json)


def tokenizer_decode(tokenizer: Path, *ids: int, json: Json = False) -> None:
    """Turn ids into text.

    Parameters
    ----------
    tokenizer
        A folder with a tokenizer, or a model or run folder.
    ids
        Token ids.
    """
    text = api.decode(tokenizer, ids)
    print(json_module.dumps({"text": text}, ensure_ascii=False) if json else text)


def tokenizer_compare(
    *text: Path, size: int = 2048, test: Path | None = None, width: int = 256, json: Json = False
) -> None:
    """Compare all kinds of tokenizer, learnt from the same text, in one table.

    Parameters
    ----------
    text
        Files or folders of text to learn from.
    size
        Vocabulary of the learnt kinds.
    test
        Text to measure on; without it, the last tenth of the text.
    width
        Width of the model whose parameters are counted.
    """
    show.table(api.compare_tokenizers(text, size=size, test=test, width=width), json)


def plan(recipe: str, /, *overrides: str, json: Json = False) -> None:
    """Say what a recipe needs, before anything runs.

    Parameters
    ----------
    recipe
        A recipe that ships, or a file of your own.
    overrides
        key.path=value, as often as needed.
    """
    show.plan(api.plan(recipe, overrides), json)


def train(recipe: str, /, *overrides: str, out: Out, json: Json = False) -> int:
    """Learn a model from text; writes a run folder that can be resumed at any time.

    Parameters
    ----------
    recipe
        A recipe that ships, or a file of your own.
    overrides
        key.path=value, as often as needed, for example data.train=text.txt train.steps=500.
    out
        The run folder to make.
    """
    return show.trained(api.train(recipe, overrides, out), json)


def resume(
    run: Path, /, *overrides: str, accept_change: bool = False, step: int | None = None, json: Json = False
) -> int:
    """Go on with a run that stopped, from its newest whole checkpoint.

    Parameters
    ----------
    run
        The run folder.
    overrides
        key.path=value changes of its recipe; they need --accept-change.
    accept_change
        Go on although the text, the tokenizer or the recipe is not what the run began with; kept in the lineage.
    step
        The checkpoint to go on from, instead of the newest whole one.
    """
    return show.trained(api.resume(run, overrides, accept_change=accept_change, step=step), json)


def verify_resume(run: Path, /, *, steps: int = 12, json: Json = False) -> int:
    """Train a short piece of the run's recipe twice, once killed and resumed, and compare every bit.

    Parameters
    ----------
    run
        The run folder.
    steps
        Optimiser steps of the piece.
    """
    return show.verified(api.verify_resume(run, steps=steps), json)


def runs_list(folder: Path = Path("."), /, *, json: Json = False) -> None:
    """List the runs below a folder."""
    show.table(api.list_runs(folder), json)


def runs_show(run: Path, /, *, json: Json = False) -> None:
    """Show one run."""
    show.facts(api.show_run(run), json)


def runs_compare(*runs: Path, json: Json = False) -> int:
    """Compare runs of all families in one table, in bits per byte; exit code 8 when one does not beat its baselines.

    Parameters
    ----------
    runs
        Run folders.
    """
    return show.compared(api.compare_runs(runs), json)


def runs_plot(*runs: Path, out: Out) -> None:
    """Draw the curves of runs into one HTML page.

    Parameters
    ----------
    runs
        Run folders.
    out
        The HTML file to write.
    """
    print(api.plot_runs(runs, out))
