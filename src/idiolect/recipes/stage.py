"""What a way of training hands to the one loop, and to all that a run does around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from idiolect.data.batch import Batch
from idiolect.data.mixture import Mixture
from idiolect.models.build import build
from idiolect.models.settings import EncoderDecoderSettings
from idiolect.recipes import adapting, parent
from idiolect.recipes.prepare import names_of
from idiolect.recipes.settings import Recipe
from idiolect.report import Report
from idiolect.text.several import Several
from idiolect.tokens.tokenizer import Tokenizer
from idiolect.train.objectives import Objective

MIXTURE = ("source", "planned share", "actual share", "planned epochs", "actual epochs")
"""What a row of `Stage.mixture` holds."""


@dataclass(frozen=True)
class Stage:
    """One way of training, its data read and encoded; `tasks.TASKS` has one for each task of a recipe."""

    recipe: Recipe
    tokenizer: Tokenizer
    fingerprints: Mapping[str, str]
    """Of the text, the tokenizer and the recipe: what a resumed run must find again."""
    corpus: Several
    """What it is trained on, read again where it is asked for; nothing that is held out."""

    @property
    def settings(self) -> Any:
        """The settings of the model that is trained."""
        return self.recipe.model

    @property
    def curves(self) -> tuple[str, ...]:
        """The held-out figures that are worth a curve."""
        return ("loss", "perplexity", "bits_per_byte")

    def model(self) -> Any:
        """The model before its first step, adapted as the recipe says."""
        return adapting.adapted(self.whole(), self.recipe, self.fingerprints)

    def whole(self) -> Any:
        """The model that all of trains unless it is adapted; its weights are fresh, or those of model.from."""
        settings = self.recipe.model
        if settings.from_ is not None:
            found: Any = parent.weights(settings)
        else:
            found = build(
                settings,
                self.tokenizer.size,
                seed=self.recipe.train.seed,
                begin_id=self.tokenizer.begin_id,
                end_id=self.tokenizer.end_id,
                pad_id=self.tokenizer.pad_id,
            )
        if isinstance(settings, EncoderDecoderSettings):
            parent.put_encoder(found, settings)
        return found

    @property
    def grows(self) -> bool:
        """Whether the model gets rows for new tokens."""
        return False

    @property
    def tokens(self) -> int:
        """Tokens of training text."""
        raise NotImplementedError

    def batches(self) -> Callable[[int], Sequence[Batch]]:
        """batch_at(step) → the micro-batches of one optimiser step, a pure function of (data, seed, step)."""
        raise NotImplementedError

    def mixture(self, steps: int) -> list[dict[str, Any]]:
        """Of each source of a mixture "source", the share "planned", the share of rows that it had in so many steps
        ("actual"), the "planned_epochs" and its "epochs"; empty where all is one text. MIXTURE names them."""
        if not steps or (self.recipe.data.weights is None and not self.recipe.data.replay):
            return []
        batches: Any = self.batches()
        mixed: Mixture | None = getattr(getattr(batches, "rows", None), "mixture", getattr(batches, "mixture", None))
        if mixed is None:
            return []
        had = batches.taken(steps).tolist()
        columns = zip(names_of(self.recipe.data), mixed.wanted, had, mixed.sizes, strict=True)
        return [
            {
                "source": name,
                "planned": share,
                "actual": n / sum(had),
                "planned_epochs": share * sum(had) / size,
                "epochs": n / size,
            }
            for name, share, n, size in columns
        ]

    def objective(self) -> Objective:
        """What is minimised."""
        raise NotImplementedError

    def score(self, model: Any, tokens: int | None = None) -> dict[str, Any]:
        """The held-out figures, over the first `tokens` tokens or all, as JSON can hold them.

        "loss" (nats a label), "perplexity", "bits_per_byte" (of which those that do not exist are None, and "reason"
        says why), and what else the task knows.
        """
        raise NotImplementedError

    def baselines(self) -> dict[str, dict[str, Any]]:
        """Guesses that know less, by name, with figures of the same names."""
        return {}

    def report(self, report: Report) -> None:
        """Adds what the task has to say of itself to the page of the run."""

    def replay_offer(self) -> str:
        """What may keep a model that is tuned so from forgetting, in the recipe's own keys."""
        return "fewer train.steps, or a lower train.learning_rate"

    def sample(self, model: Any, seed: int) -> str:
        """Something the model writes, to look at; empty when it writes nothing."""
        return ""
