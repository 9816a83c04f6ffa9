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
    rows = []
    for recipe in sorted(folder.rglob("recipe.toml")):
        run = Run(recipe.parent)
        status = run.status()
        rows.append(
            {
                "run": str(run.folder),
                "family": config.read_toml(recipe).get("model", {}).get("kind"),
                "state": status.state,
                "step": status.step,
                "bits_per_byte": results(run)["validation"]["bits_per_byte"] if status.state == "finished" else None,
            }
        )
    return {"rows": rows, "notes": [] if rows else [f"no runs in {folder}"]}


def results(run: Run) -> dict[str, Any]:
    """What the finished run found. Raises UserError when it has no model yet or the model's folder is damaged."""
    model = find(run.folder)
    files.verify(model)
    return dict(files.read_json(model / LINEAGE)["results"])


def show_run(run: Path | str) -> dict[str, Any]:
    """One run: how it stands, its recipe's main settings and, once finished, its results."""
    opened = Run.open(Path(run))
    status = opened.status()
    recipe = config.read_toml(opened.recipe)
    out: dict[str, Any] = {"run": str(opened.folder), "state": status.state}
    if status.owner:
        out["owner"] = status.owner
    out |= {"step": status.step, "checkpoints": status.checkpoints, "model": recipe["model"]}
    if recipe["model"]["kind"] != "ngram":
        out |= {"train": recipe["train"], "resolved": recipe.get("resolved")}
    if status.state == "finished":
        found = results(opened)
        out |= {key: found[key] for key in ("parameters", "tokens", "validation") if key in found}
        out["baselines"] = {name: figures["bits_per_byte"] for name, figures in found["baselines"].items()}
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
        prints = files.read_json(find(run.folder) / LINEAGE)["fingerprints"]
        name = run.folder.resolve().name
        name = name if name not in named else str(run.folder)
        named.add(name)
        rows.append(_row(name, found["family"], prints, found["validation"], parameters=found["parameters"]))
        for baseline, figures in found["baselines"].items():
            if baseline not in named:
                named.add(baseline)
                rows.append(_row(baseline, baseline, prints, figures, baseline=True))
    return {**compare(rows), "failed": shortfalls(rows)}


def _row(name: str, family: str, prints: dict[str, str], figures: dict[str, Any], **more: Any) -> Row:
    known: dict[str, Any] = {key: figures.get(key) for key in ("tokens", "reason", "bits_per_byte", "perplexity")}
    for key in ("bits_per_byte", "perplexity"):
        known[key] = None if known[key] is None else float(known[key])  # also of the text "Infinity"
    tokenizer = prints["tokenizer"] if known["perplexity"] is not None else None
    return Row(name, family, prints["data.validation"], tokenizer, **known, **more)


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
