"""The forgetting ledger: what the model that a run starts from knew before its first step, and what it knows after."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from idiolect import files
from idiolect.adapt.heads import Labelled
from idiolect.errors import UserError
from idiolect.evaluate import forgetting
from idiolect.interop import folder
from idiolect.recipes.prepare import say
from idiolect.recipes.stage import Stage
from idiolect.runs import Run


class Ledger:
    """The probes of one run."""

    def __init__(self, run: Run, stage: Stage) -> None:
        self.run, self.stage, self.recipe = run, stage, stage.recipe
        asked = self.recipe.forgetting
        self.probes = (forgetting.own() if asked.own else {}) | {
            name: forgetting.given(path) for name, path in self.recipe.probes.items()
        }

    @classmethod
    def of(cls, run: Run, stage: Stage) -> Ledger | None:
        """The ledger of a run that starts from a model; None for one that starts from nothing, or has no probes."""
        recipe = stage.recipe
        if recipe.model.from_ is None or not (recipe.forgetting.own or recipe.probes):
            return None
        return cls(run, stage)

    def begin(self, model: Any) -> None:
        """Measures before the first step, once: a run that goes on has it in its folder. What has no figure is said."""
        if self.run.ledger.exists():
            return
        say("measuring what the model knows before the first step")
        figures: dict[str, Any] = {}
        for name in self.probes:
            try:
                figures[name] = asdict(self._figure(model, name))
            except UserError as error:
                if name in self.recipe.probes:
                    raise UserError(f"the probe {name} cannot be measured: {error.what}", error.mend) from None
                say(f"no probe {name}: {error.what}")
        domain = self._domain(model)
        self.run.truncate_metrics(-1)  # of a beginning that was killed
        self.run.append_metrics(
            {"step": 0, **{f"validation.{key}": value for key, value in domain.items()}}
            | {f"probe.{name}": figure["value"] for name, figure in figures.items()}
        )
        files.write_json(self.run.ledger, {"probes": figures, "domain": domain})

    def now(self, model: Any) -> dict[str, float]:
        """The figures of all probes that have one, as metrics."""
        return {f"probe.{name}": figure.value for name, figure in self._all(model).items()}

    def end(self, model: Any) -> dict[str, Any]:
        """The ledger: "tolerance", "probes" (the worst first), "domain" before and after, "forgotten", and "offer"."""
        entries = forgetting.ledger(self._before, self._all(model), self.recipe.forgetting.tolerance)
        lost = [entry.probe for entry in entries if entry.forgotten]
        domain = files.read_json(self.run.ledger)["domain"]
        return {
            "tolerance": self.recipe.forgetting.tolerance,
            "probes": [asdict(entry) for entry in entries],
            "domain": {"before": domain, "after": self._domain(model)},
            "forgotten": lost,
            "offer": self.stage.replay_offer() if lost else "",
        }

    def _domain(self, model: Any) -> dict[str, Any]:
        """The held-out figures of the run's own text, as validations on the way have them."""
        held = self.stage.score(model, self.recipe.validation.tokens)
        return {key: held[key] for key in self.stage.curves if held.get(key) is not None}

    @functools.cached_property
    def _before(self) -> dict[str, forgetting.Figure]:
        with files.understood(self.run.ledger):
            found = files.read_json(self.run.ledger)["probes"]
            return {name: forgetting.Figure(str(one["measure"]), float(one["value"])) for name, one in found.items()}

    def _all(self, model: Any) -> dict[str, forgetting.Figure]:
        return {name: self._figure(model, name) for name in self._before if name in self.probes}

    def _figure(self, model: Any, name: str) -> forgetting.Figure:
        with self._speaking(model) as whole:
            tokens = self.recipe.forgetting.tokens
            return forgetting.measure(whole, self.stage.tokenizer, self.probes[name], tokens)

    @contextlib.contextmanager
    def _speaking(self, model: Any) -> Iterator[Any]:
        """The model; of one with a head for labels, its body under the head for tokens that the parent had."""
        if not isinstance(model, Labelled):
            yield model
            return
        base = model.base
        for name, part in self._parts.items():
            setattr(base, name, part)
        try:
            base.to(next(model.parameters()).device)
            base.tie()
            yield base
        finally:
            for name in self._parts:
                delattr(base, name)

    @functools.cached_property
    def _parts(self) -> dict[str, Any]:
        """What the parent reads tokens with."""
        assert self.recipe.model.from_ is not None
        parent: Any = folder.load(folder.find(self.recipe.model.from_)).model
        parts = {name: getattr(parent, name) for name in parent.token_parts}
        return {name: part.float() for name, part in parts.items() if part is not None}
