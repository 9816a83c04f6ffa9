"""The verbs `train` and `resume`, and the two stages behind them: counting (n-gram) and the loop (all the others)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from idiolect import config, files
from idiolect.data.batches import NextToken, next_token
from idiolect.models.build import build
from idiolect.models.ngram import NGram
from idiolect.models.settings import NGramSettings
from idiolect.recipes import finish, load, planning, watch
from idiolect.recipes.prepare import Prepared, prepare, say
from idiolect.recipes.settings import Recipe
from idiolect.runs import Run
from idiolect.train import checkpoint, hooks, objectives, optimisers, resolve, schedules
from idiolect.train.loop import FINISHED, Diverged, Hook, Memory, fit
from idiolect.train.settings import Resolved

Ended = tuple[Any, str, int, watch.Totals]
"""The model, why the stage ended, the optimiser steps done, and what they took."""


def train(recipe: str | Recipe, overrides: Sequence[str] = (), out: Path | str = "run") -> dict[str, Any]:
    """Learns a model as the recipe says, in the new run folder `out`; returns the result (see `finish.result`).

    Raises UserError: exit 2 for a bad recipe, bad text or a folder that holds a run; 3 when another process writes
    there; 4 when the disk refuses; 5 when the loss diverges; 7 when memory will not do.
    """
    notes: list[str] = []
    if not isinstance(recipe, Recipe):
        recipe, notes = load.load(recipe, overrides)
    planning.check(recipe)
    run = Run.create(Path(out))
    with run.lock():
        files.write_text(run.recipe, config.dump(recipe))
        for note in notes:
            say(f"note: {note}")
        return _go(run, recipe)


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
    data = prepare(recipe, run.folder)
    plan = planning.of_run(recipe, data)
    if run.plan.exists():
        before = files.read_json(run.plan)
        with files.understood(run.plan):
            prints, accepted = dict(before["fingerprints"]), [str(line) for line in before.get("accepted_changes", ())]
        changes = checkpoint.check_unchanged(prints, data.fingerprints, accept)
        plan["accepted_changes"] = [*accepted, *changes]
    files.write_json(run.plan, plan)
    if isinstance(recipe.model, NGramSettings):
        model, reason, steps, totals = count(recipe, data)
        totals.tokens = data.train.labels
        run.truncate_metrics(-1)
    else:
        model, reason, steps, totals = neural(run, recipe, data, step, extra)
    if reason not in (FINISHED, hooks.EARLY_STOP):
        return finish.stopped(run, reason, steps, totals)
    return finish.finish(run, recipe, data, model, steps, totals, plan.get("accepted_changes", []))


def count(recipe: Recipe, data: Prepared) -> Ended:
    """Counting: one pass, no steps."""
    tokenizer = data.tokenizer
    assert isinstance(recipe.model, NGramSettings)
    ids = {"begin_id": tokenizer.begin_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
    model = NGram(recipe.model, tokenizer.size, **ids)
    return model.fit(data.train), FINISHED, 0, watch.Totals()


def neural(run: Run, recipe: Recipe, data: Prepared, step: int | None, extra: Sequence[Hook]) -> Ended:
    """The loop: next-token cross-entropy over batches computed from (data, seed, step)."""
    model, batch_at, objective = parts(recipe, data)
    resolved = resolve_once(run, recipe, model, batch_at, objective)
    optimizer, memory = optimisers.build(model, recipe.train, resolved.precision), Memory(resolved)
    with watch.watching(run, recipe, resolved, data, model, optimizer, memory, step) as watched:
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
        model.load_state_dict(checkpoint.peek(run, best).model)
    return model, reason, watched.step, watched.totals


def parts(recipe: Recipe, data: Prepared) -> tuple[Any, NextToken, objectives.Objective]:
    """The model with fresh weights, the batches and the objective."""
    tokenizer = data.tokenizer
    assert not isinstance(recipe.model, NGramSettings)
    batch_at = next_token(
        data.train,
        context=recipe.model.context,
        batch_tokens=recipe.train.batch_tokens,
        micro_batches=recipe.train.micro_batches,
        seed=recipe.train.seed,
        packing=recipe.data.packing,
        begin_id=tokenizer.begin_id,
        end_id=tokenizer.end_id,
        pad_id=tokenizer.pad_id,
    )
    widths = tokenizer.token_bytes()
    objective = partial(objectives.next_token, token_bytes=None if widths is None else torch.as_tensor(widths))
    return build(recipe.model, tokenizer.size, seed=recipe.train.seed), batch_at, objective


def resolve_once(
    run: Run, recipe: Recipe, model: Any, batch_at: NextToken, objective: objectives.Objective
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
