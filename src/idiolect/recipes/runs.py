"""The verbs `runs list`, `runs show`, `runs compare` and `runs plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from idiolect import config, files
from idiolect.errors import UserError
from idiolect.evaluate.table import Row, compare, shortfalls
from idiolect.interop.folder import LINEAGE, find
from idiolect.recipes.finish import CURVES, points
from idiolect.report import Report
from idiolect.runs import Run


def list_runs(folder: Path | str = ".") -> dict[str, Any]:
    """Every run at or below a folder: {"rows"}, each with its family, state, steps and bits per byte."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", "check the path")
    rows, notes = [], []
    for recipe in sorted(folder.rglob("recipe.toml")):
        row: dict[str, Any] = {"run": str(recipe.parent), "family": None, "state": "damaged", "step": None}
        row["bits_per_byte"] = None
        try:
            row |= _listed(Run(recipe.parent))
        except UserError as error:  # the others are listed all the same
            notes.append(error.what)
        rows.append(row)
    return {"rows": rows, "notes": notes if rows else [f"no runs in {folder}"]}


def _listed(run: Run) -> dict[str, Any]:
    status = run.status()
    with files.understood(run.recipe):
        out = {"family": config.read_toml(run.recipe)["model"]["kind"], "state": status.state, "step": status.step}
    if status.state == "finished":
        with files.understood(run.model / LINEAGE):
            out["bits_per_byte"] = results(run)["validation"]["bits_per_byte"]
    return out


def results(run: Run) -> dict[str, Any]:
    """What the finished run found. Raises UserError when it has no model yet or the model's folder is damaged."""
    model = find(run.folder)
    files.verify(model)
    with files.understood(model / LINEAGE):
        return dict(files.read_json(model / LINEAGE)["results"])


def show_run(run: Path | str) -> dict[str, Any]:
    """One run: how it stands, its recipe's main settings and, once finished, its results."""
    opened = Run.open(Path(run))
    status = opened.status()
    recipe = config.read_toml(opened.recipe)
    out: dict[str, Any] = {"run": str(opened.folder), "state": status.state}
    if status.owner:
        out["owner"] = status.owner
    with files.understood(opened.recipe):
        out |= {"step": status.step, "checkpoints": status.checkpoints, "model": recipe["model"]}
        if recipe["model"]["kind"] != "ngram":
            out |= {"train": recipe["train"], "resolved": recipe.get("resolved")}
    if status.state == "finished":
        found = results(opened)
        with files.understood(opened.model / LINEAGE):
            out |= {key: found[key] for key in ("parameters", "tokens", "validation") if key in found}
            measured = found["validation"].get("bits_per_byte") is not None
            key = "bits_per_byte" if measured else "accuracy"
            out["baselines"] = {name: figures.get(key) for name, figures in found["baselines"].items()}
    return out


def compare_runs(runs: Sequence[Path | str]) -> dict[str, Any]:
    """Finished runs of any family, beside the baselines, in one table by bits per byte: {"rows", "notes", "failed"}.

    "failed" names every model that does not beat the baselines its family has to beat. Raises UserError when the
    runs were not scored on the same text.
    """
    rows: list[Row] = []
    named: set[str] = set()
    for folder in runs:
        run = Run.open(Path(folder))
        found = results(run)
        name = run.folder.resolve().name
        name = name if name not in named else str(run.folder)
        named.add(name)
        with files.understood(run.model / LINEAGE):
            prints = {key: str(value) for key, value in files.read_json(run.model / LINEAGE)["fingerprints"].items()}
            of_model = found["validation"] | {"parameters": found["parameters"]}
            rows.append(_row(name, str(found["family"]), prints, of_model))
            for baseline, figures in found["baselines"].items():
                if baseline not in named and figures.get("bits_per_byte") is not None:
                    named.add(baseline)
                    rows.append(_row(baseline, baseline, prints, figures, baseline=True))
    return {**compare(rows), "failed": shortfalls(rows)}


def _row(name: str, family: str, prints: dict[str, str], figures: dict[str, Any], baseline: bool = False) -> Row:
    kinds = {"bits_per_byte": float, "perplexity": float, "tokens": int, "parameters": int, "reason": str}
    known: dict[str, Any] = {key: figures.get(key) for key in kinds}  # a number may be the text "Infinity"
    known = {key: None if value is None else kinds[key](value) for key, value in known.items()}
    tokenizer = prints["tokenizer"] if known["perplexity"] is not None else None
    return Row(name, family, prints["data.validation"], tokenizer, **known, baseline=baseline)


def plot_runs(runs: Sequence[Path | str], out: Path | str) -> str:
    """The curves of runs side by side, as one HTML page; returns its path. Raises UserError when there are none."""
    opened = [Run.open(Path(run)) for run in runs]
    if not opened:
        raise UserError("no runs are named", "give one or more run folders")
    report = Report("Runs")
    metrics = {str(run.folder): run.read_metrics() for run in opened}
    drawn = 0
    for title, keys in CURVES.items():
        series = {}
        for name, lines in metrics.items():
            for curve, key in keys.items():
                if found := points(lines, key):
                    series[f"{name} {curve}"] = found
        if series:
            report.chart(title, series, "step", title)
            drawn += 1
    if not drawn:
        raise UserError("these runs have no curves yet", "an n-gram has no steps; `runs compare` has its figures")
    report.write(Path(out))
    return str(out)
