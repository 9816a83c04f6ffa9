"""The verbs `train` and `resume`: whatever the task, its stage goes through the one loop, or (an n-gram) is counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from idiolect import config, files
from idiolect.data.batch import Batch
from idiolect.data.mixture import factor
from idiolect.errors import Exit, UserError
from idiolect.recipes import adapting, finish, load, parent, passports, planning, tasks, watch
from idiolect.recipes.next_token import NextToken
from idiolect.recipes.prepare import say
from idiolect.recipes.settings import Recipe
from idiolect.recipes.stage import Stage
from idiolect.runs import Run
from idiolect.train import checkpoint, hooks, objectives, optimisers, resolve, schedules
from idiolect.train.loop import FINISHED, Diverged, Hook, Memory, fit
from idiolect.train.settings import Resolved

Ended = tuple[Any, str, int, watch.Totals]
"""The model, why the stage ended, the optimiser steps done, and what they took."""


def train(recipe: str | Recipe, overrides: Sequence[str] = (), out: Path | str = "run") -> dict[str, Any]:
    """Learns a model as the recipe says, in the new run folder `out`; returns the result (see `finish.result`).

    Raises UserError: exit 2 for a bad recipe or bad text (nothing is then left in `out` but its lock), or a folder that
    holds a run; 3 when another process writes there; 4 when the disk refuses; 5 when the loss diverges; 7 when memory
    will not do.
    """
    notes: list[str] = []
    if not isinstance(recipe, Recipe):
        name = recipe
        recipe, notes = load.load(name, overrides)
        load.check_parent(name, recipe)
    adapting.check(recipe)
    planning.check(recipe)
    run = Run.create(Path(out))
    with run.lock():
        files.write_text(run.recipe, config.dump(recipe))
        for note in notes:
            say(f"note: {note}")
        try:
            return _go(run, recipe)
        except UserError as error:
            if error.code == Exit.BAD_INPUT and not run.plan.exists():  # nothing was begun that could be gone on with
                run.clear()
            raise


def resume(
    run: Path | str, overrides: Sequence[str] = (), *, accept_change: bool = False, step: int | None = None
) -> dict[str, Any]:
    """Goes on with a run from its newest whole checkpoint (or from `step`), bit for bit; returns as `train`.

    Raises UserError (exit 2) when text, tokenizer or recipe are not what the run began with, unless `accept_change`.
    """
    opened = Run.open(Path(run))
    with opened.lock():
        tables = config.override(config.read_toml(opened.recipe), overrides, Recipe)
        return _go(opened, config.validate(Recipe, tables, str(opened.recipe)), accept=accept_change, step=step)


def resume_with(run: Run, extra: Sequence[Hook]) -> dict[str, Any]:
    """Goes on with a run as it stands, with further hooks; `verify_resume` stops and kills pieces of a run with it."""
    with run.lock():
        return _go(run, config.validate(Recipe, config.read_toml(run.recipe), str(run.recipe)), extra=extra)


def _go(
    run: Run, recipe: Recipe, *, accept: bool = False, step: int | None = None, extra: Sequence[Hook] = ()
) -> dict[str, Any]:
    """Prepares, runs the stage, and finishes; the caller holds the run's lock."""
    files.sweep(run.folder)
    stage = tasks.prepare(recipe, run.folder)
    plan = planning.of_run(stage)
    if run.plan.exists():
        before = files.read_json(run.plan)
        with files.understood(run.plan):
            prints, accepted = dict(before["fingerprints"]), [str(line) for line in before.get("accepted_changes", ())]
        changes = checkpoint.check_unchanged(prints, stage.fingerprints, accept)
        plan["accepted_changes"] = [*accepted, *changes]
        if prints.get("data.train") != stage.fingerprints["data.train"]:
            passports.keep(run, stage, more=True)
    files.write_json(run.plan, plan)
    if not passports.file_of(run).exists():
        passports.keep(run, stage)
    if recipe.model.kind == "ngram":
        model, reason, steps, totals = count(stage)
        run.truncate_metrics(-1)
    else:
        model, reason, steps, totals = neural(run, stage, step, extra)
    if reason not in (FINISHED, hooks.EARLY_STOP):
        return finish.stopped(run, reason, steps, totals)
    return finish.finish(run, stage, model, steps, totals, plan.get("accepted_changes", []))


def count(stage: Stage) -> Ended:
    """Counting: one pass, no steps."""
    assert isinstance(stage, NextToken)
    totals = watch.Totals()
    totals.tokens = stage.train.labels
    return stage.model().fit(stage.train), FINISHED, 0, totals


def neural(run: Run, stage: Stage, step: int | None, extra: Sequence[Hook]) -> Ended:
    """The loop: the stage's objective over batches computed from (data, seed, step)."""
    recipe, model, batch_at, objective = stage.recipe, stage.model(), stage.batches(), stage.objective()
    if (total := factor(recipe.data.weights)) is not None and not math.isclose(total, 1):
        say(f"data.weights sum to {total:.4g}, and are divided by it")
    for source in stage.mixture(recipe.train.steps):
        say(
            "source {source}: {planned:.1%} of the rows planned, {actual:.1%} given, {epochs:.2g} epochs".format(
                **source
            )
        )
    resolved = resolve_once(run, recipe, model, batch_at, objective)
    optimizer, memory = optimisers.build(model, recipe.train, resolved.precision), Memory(resolved)
    with watch.watching(run, stage, resolved, model, optimizer, memory, step) as watched:
        if watched.step == 0 and recipe.model.from_ is not None:
            say(parent.take_optimizer(recipe, model, optimizer))
        try:
            reason = fit(
                model,
                batch_at,
                objective,
                optimizer,
                schedules.build(recipe.train),
                settings=recipe.train,
                resolved=resolved,
                memory=memory,
                start=watched.step,
                hooks=[*watched.hooks, *extra],
            )
        except Diverged as error:
            watched.save_aside(error.what)
            raise
        watched.save(reason)
    if reason == hooks.EARLY_STOP:
        best = watched.validate.best_step
        say(f"stopped early: the weights of step {best}, the best, are kept")
        model.load_state_dict(checkpoint.peek(run, best).model, strict=False)  # of an adapted one, what trains
    return model, reason, watched.step, watched.totals


def resolve_once(
    run: Run,
    recipe: Recipe,
    model: Any,
    batch_at: Callable[[int], Sequence[Batch]],
    objective: objectives.Objective,
) -> Resolved:
    """The run's automatic choices: those it recorded, or made now and recorded in its recipe.toml."""
    if recipe.resolved is not None:
        resolved, changes = resolve.again(recipe.resolved)
        if changes:
            say(f"not bit-exact: {'; '.join(changes)}")
        resolve.prepare(model, recipe.train, resolved)
        return resolved
    resolved = resolve.resolve(recipe.train, model, batch_at(0)[0], objective)
    for reason in resolved.reasons:
        say(reason)
    files.write_text(run.recipe, config.dump(recipe.model_copy(update={"resolved": resolved})))
    return resolved
