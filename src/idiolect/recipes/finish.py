"""What a run leaves behind: the final score, the model folder, the report, and the result that verbs print."""

from __future__ import annotations

from typing import Any

from idiolect import __version__, config, devices
from idiolect.interop import folder
from idiolect.models.ngram import NGram
from idiolect.recipes import passports, watch
from idiolect.recipes.ledger import Ledger
from idiolect.recipes.prepare import say
from idiolect.recipes.stage import MIXTURE, Stage
from idiolect.report import Report
from idiolect.runs import Run


def stopped(run: Run, reason: str, steps: int, totals: watch.Totals) -> dict[str, Any]:
    """The result of a run that a signal (or a caller) stopped: saved, to be resumed."""
    return {"run": str(run.folder), "stopped": reason, "steps": steps, **spent(totals)}


def spent(totals: watch.Totals, device: str = "cpu") -> dict[str, Any]:
    """Tokens, speed and memory of a run's steps."""
    out: dict[str, Any] = {"tokens": totals.tokens}
    if totals.seconds:
        out["tokens_per_second"] = totals.tokens / totals.seconds
    out["peak_memory_bytes"] = devices.peak_memory(device)
    return out


def finish(run: Run, stage: Stage, model: Any, steps: int, totals: watch.Totals, accepted: list[str]) -> dict[str, Any]:
    """Scores all of the held-out text, writes the model folder and the report, returns the result."""
    recipe = stage.recipe
    say("scoring all of the held-out text")
    validation = stage.score(model)
    about = {
        "family": recipe.model.kind,
        "parameters": parameters(model),
        **adaptation(model),
        "steps": steps,
        "validation": validation,
        "baselines": stage.baselines(),
        **spent(totals, recipe.resolved.device if recipe.resolved else "cpu"),
    }
    if run.ledger.exists() and (ledger := Ledger.of(run, stage)):
        about["forgetting"] = ledger.end(model)
    if mixture := stage.mixture(steps):
        about["mixture"] = mixture
    lineage = {
        "idiolect": __version__,
        "recipe": config.dump(recipe),
        "fingerprints": dict(stage.fingerprints),
        "accepted_changes": accepted,
        "documents": passports.counted(run),
        "parents": passports.ancestry(recipe),
        "results": about,
    }
    if hasattr(model, "to"):
        model.to("cpu")
    folder.save(run.model, model, stage.tokenizer, lineage, documents=passports.file_of(run))
    run.append_metrics({"step": steps, **{f"final.{key}": value for key, value in validation.items()}})
    write_report(run, stage, about)
    return {"run": str(run.folder), "model": str(run.model), "report": str(run.report), **about}


def adaptation(model: Any) -> dict[str, Any]:
    """What was adapted: "adapt" with its kind and figures; nothing of a model that was trained whole."""
    edit = getattr(model, "edit", None)
    return {} if edit is None else {"adapt": {"kind": edit.settings.kind, **edit.report.json()}}


def parameters(model: Any) -> int:
    """Parameters as counted: of an n-gram, the distinct sequences it knows."""
    if isinstance(model, NGram):
        return sum(t.numel() for name, t in model.tensors().items() if name.startswith(("counts.", "scores.")))
    return sum(parameter.numel() for parameter in model.parameters())


def write_report(run: Run, stage: Stage, about: dict[str, Any]) -> None:
    """report.html: the result beside the baselines, the curves, what the model wrote, and the recipe."""
    metrics = run.read_metrics()
    report = Report(f"{stage.recipe.model.kind}: {run.folder.resolve().name}")
    validation = about["validation"]
    report.facts(
        {
            **{f"held-out {title(key)}": validation.get(key) for key in stage.curves},
            "parameters": about["parameters"],
            **adapted(about),
            "steps": about["steps"],
            "tokens trained": about["tokens"],
            "tokens a second": about.get("tokens_per_second"),
            "peak memory (bytes)": about["peak_memory_bytes"],
        }
    )
    guesses = {"this model": validation, **about["baselines"]}
    rows = [[name, *(figures.get(key) for key in stage.curves)] for name, figures in guesses.items()]
    report.table(["", *map(title, stage.curves)], rows, "Beside the baselines")
    if mixture := about.get("mixture"):
        report.table(list(MIXTURE), [list(one.values()) for one in mixture], "Sources")
    curves = dict(CURVES)
    if forgetting := about.get("forgetting"):
        report.table(LEDGER, ledger_rows(forgetting), "What the model knew before, and knows after")
        names = {measure: [p["probe"] for p in forgetting["probes"] if p["measure"] == measure] for measure in MEASURES}
        curves |= {f"probes ({key})": {name: f"probe.{name}" for name in some} for key, some in names.items()}
    for heading, keys in curves.items():
        series = {name: points(metrics, key) for name, key in keys.items()}
        if any(len(curve) > 1 for curve in series.values()):
            report.chart(heading, {name: curve for name, curve in series.items() if curve}, "step", heading)
    stage.report(report)
    for line in metrics:
        if "sample" in line:
            report.text(f"Written at step {line['step']}", line["sample"])
    report.text("Recipe", config.dump(stage.recipe))
    report.write(run.report)


def adapted(about: dict[str, Any]) -> dict[str, Any]:
    """The facts of what was adapted."""
    if "adapt" not in about:
        return {}
    found = about["adapt"]
    return {
        "adapted by": found["kind"],
        "parameters trained": f"{found['trainable']} / {found['full']} / {found['fewer']:.1%} fewer",
        "bytes trained": found["bytes"],
    }


def title(figure: str) -> str:
    """A figure's key, for people."""
    return "loss (nats)" if figure == "loss" else figure.replace("_", " ")


LEDGER = ("probe", "measure", "before", "after", "worse by", "")
MEASURES = ("bits per byte", "nats a token", "accuracy")


def ledger_rows(forgetting: dict[str, Any]) -> list[list[Any]]:
    """The forgetting ledger as a table with the header LEDGER: the run's own text first, then the probes."""
    before, after = forgetting["domain"]["before"], forgetting["domain"]["after"]
    rows: list[list[Any]] = [["held out", title(key), before[key], after.get(key), None, ""] for key in before]
    for found in forgetting["probes"]:
        worse = found["worse"] if found["measure"] == "accuracy" else f"{found['worse']:+.1%}"
        said = "forgotten" if found["forgotten"] else ""
        rows.append([found["probe"], found["measure"], found["before"], found["after"], worse, said])
    return rows


CURVES = {
    "loss (nats)": {"training": "loss", "validation": "validation.loss"},
    "bits per byte": {"training": "bits_per_byte", "validation": "validation.bits_per_byte"},
    "accuracy": {"validation": "validation.accuracy"},
    "F1": {"macro": "validation.macro_f1", "entities": "validation.entity_f1"},
    "correlation": {"Pearson": "validation.pearson", "Spearman": "validation.spearman"},
    "gradient norm": {"gradient": "norm"},
    "learning rate": {"rate": "learning_rate"},
    "tokens a second": {"speed": "tokens_per_second"},
}
"""The charts of a report: title → curve → key of metrics.jsonl."""


def points(metrics: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of every line of metrics that has a number under the key."""
    return [(line["step"], line[key]) for line in metrics if "step" in line and isinstance(line.get(key), (int, float))]
