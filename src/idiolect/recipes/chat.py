"""The stage of instruction tuning: what the assistant says in conversations, and where it stops."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from idiolect import files
from idiolect.adapt.vocabulary import grow
from idiolect.data.conversations import Conversations, Packed, packed
from idiolect.data.mixture import MixedRows
from idiolect.data.rendered import encode, everything, joined
from idiolect.data.settings import ChatTask, DataSettings
from idiolect.data.shards import Shards
from idiolect.data.shards import encode as encode_text
from idiolect.errors import UserError
from idiolect.evaluate.answers import HeldOut
from idiolect.evaluate.overlap import METRICS
from idiolect.recipes import preflight
from idiolect.recipes.parent import replay_of
from idiolect.recipes.preflight import Preflight
from idiolect.recipes.prepare import fingerprints, mixed_rows, say, sources_of, tokenizer_of
from idiolect.recipes.settings import Recipe
from idiolect.recipes.stage import Stage
from idiolect.report import Report
from idiolect.text import conversations as read
from idiolect.text import template as templates
from idiolect.text.corpus import Corpus
from idiolect.text.several import Several
from idiolect.text.template import Pair, Template
from idiolect.tokens import chat
from idiolect.train import objectives

RECORD = "templates.json"
"""The file of a run that says which template of a set each example got."""


@dataclass(frozen=True)
class Conversing(Stage):
    """Conversations packed into rows; held-out answers in bits per byte."""

    added: int
    """Control tokens, the last of the tokenizer, that a model it starts from does not know."""
    train: Conversations
    """Their masks: what is learnt."""
    held: HeldOut
    found: Preflight
    sources: tuple[Conversations, ...] = ()
    """The parts of `train` that are weighed against one another; none: it is one."""
    replayed: Shards | None = None
    """General text of which every batch has a part."""

    def __post_init__(self) -> None:
        """Raises UserError when the library of a metric is missing: now, not after the training."""
        _ = self.curves

    @property
    def curves(self) -> tuple[str, ...]:
        """As every stage's, and the figures of the answers."""
        measured = (key for metric in self.held.metrics for key in METRICS[metric](["a"], [["a"]]))
        return *super().curves, "loss_other_prompt", "stops", *measured

    @property
    def grows(self) -> bool:
        """Whether the model gets rows for new tokens, which train whatever is frozen."""
        return self.recipe.model.from_ is not None and bool(self.added)

    def whole(self) -> Any:
        """The model with rows for every token that it is to write."""
        found, size = super().whole(), self.tokenizer.size
        fresh = range(size - self.added, size)
        needed = max(self.tokenizer.end_id, *fresh, 0)
        if self.recipe.model.from_ is not None and (self.added or needed >= found.vocabulary):
            if self.recipe.adapt is not None and not self.added:
                what = f"the model lacks the token that ends a text, and adapt.kind={self.recipe.adapt.kind} adds none"
                raise UserError(what, "train all of the model first")
            vocabulary = size if needed >= found.vocabulary else found.vocabulary
            found, _ = grow(found, vocabulary, [id_ for id_ in fresh if id_ < found.vocabulary])
        return found

    @property
    def tokens(self) -> int:
        """Positions of all conversations to train on."""
        return int(self.train.lengths.sum())

    def batches(self) -> Packed | MixedRows:
        """Several conversations in a row; rows of several sources, and of text that is replayed, in a batch."""
        train = self.recipe.train
        parts = [
            packed(
                some,
                context=self.recipe.reads.context,
                batch_tokens=train.batch_tokens,
                micro_batches=train.micro_batches,
                seed=train.seed,
                pad_id=self.tokenizer.end_id,  # never learnt nor read; a foreign model may have no padding of its own
            )
            for some in self.sources or (self.train,)
        ]
        return mixed_rows(self.recipe, self.tokenizer, parts, self.replayed)

    def replay_offer(self) -> str:
        """As of next tokens."""
        return f"{replay_of(self.recipe)}; {super().replay_offer()}"

    def objective(self) -> objectives.Objective:
        """The next token's cross-entropy, of the tokens that are learnt."""
        widths = self.tokenizer.token_bytes()
        return partial(objectives.next_token, token_bytes=None if widths is None else torch.as_tensor(widths))

    def score(self, model: Any, tokens: int | None = None) -> dict[str, Any]:
        """The figures of held-out answers, whatever is learnt."""
        found = self.held.figures(model, tokens)
        own, other = found["loss"], found.get("loss_other_prompt")
        if other is not None and own is not None and other <= own:
            say(f"note: answers are no likelier after their own prompt ({own:.3f}) than after another's ({other:.3f})")
        return found

    def baselines(self) -> dict[str, dict[str, Any]]:
        """Tokens as often as in what is learnt."""
        return {"unigram": self.held.unigram(self.train.labels)}

    def sample(self, model: Any, seed: int) -> str:
        """What the model answers one of the held-out prompts, which the seed chooses."""
        i, asked = seed % len(self.held.said), self.recipe.sample
        prompt = self.held.prompt(i)
        if prompt is None:
            return ""
        (answer,) = self.held.written(model, [i], asked.tokens, asked.temperature, seed)
        return f"{self.tokenizer.decode(prompt)}\n→ {answer.text}\n  (held out: {self.held.reference(i)})"

    def report(self, report: Report) -> None:
        """What was looked at before the first step."""
        self.found.report(report)


def prepare(recipe: Recipe, folder: Path) -> Conversing:
    """Splits the conversations, renders and encodes them, and looks at what came of it before anything is trained.

    Raises UserError for what is wrong with any of them, a template or a mask among it.
    """
    task, context = recipe.doing, recipe.reads.context
    assert isinstance(task, ChatTask)
    halves = split(recipe.data, task, recipe.train.seed)
    if recipe.model.from_ is None:
        say("note: no model.from is given, so a fresh model learns to answer from these conversations alone")
    for part in halves[0].parts:
        for layout, paths in part.layouts().items():
            some = ", ".join(path.name for path in paths[:3])
            say(f"conversations: {layout}, from {some}{' …' * (len(paths) > 3)}")
    tokenizer = tokenizer_of(folder / "tokenizer", recipe.tokenizer, _contents(halves[0]))
    source, name = chat.find(tokenizer, task.template or (None if tokenizer.templates else "instruction"))
    added = chat.lacking(source, tokenizer) if task.template else []
    tokenizer = tokenizer.with_controls(added)
    talk = chat.Chat(tokenizer, source, name)
    tokenizer.templates = {**tokenizer.templates, chat.templates.DEFAULT: talk.program.source}
    tokenizer.answer_ends = tuple(id_ for id_ in talk.ends if id_ != tokenizer.end_id)
    parts = [encode(part, talk, context, task.system) for part in halves[0].parts]
    held = joined([encode(part, talk, context, task.system) for part in halves[1].parts])
    counts = joined(parts).counts
    for found in (counts, held.counts):
        if found.refused:
            say(f"left out {found.refused:,} of {found.read:,} conversations ({found.why})")
    if task.templates:
        _record(folder, halves)
    learnt = tuple(everything(part.said) if task.train_on == "all" else part.said for part in parts)
    train = Conversations.joined(learnt)
    looked = preflight.look(train, counts, tokenizer, talk.ends, (talk.name, talk.program.hash))
    looked.show()
    if not len(held.said):
        raise UserError("no conversation is held out", "give more, or another share")
    prints = fingerprints(recipe, halves[0].fingerprint, halves[1].fingerprint, tokenizer)
    prints["task.template"] = talk.program.hash
    asked = HeldOut(talk, held.said, held.messages, context, task.metrics, task.answers, task.answer_tokens)
    learnt_from, replayed = halves[0], None
    if recipe.data.replay:
        general = Corpus(recipe.data.replay, recipe.data.document, recipe.data.field)
        prints["data.replay"] = general.fingerprint
        learnt_from, replayed = Several((*halves[0].parts, general)), encode_text(general, tokenizer)
    weighed = () if recipe.data.weights is None else learnt
    return Conversing(recipe, tokenizer, prints, learnt_from, len(added), train, asked, looked, weighed, replayed)


def split(data: DataSettings, task: ChatTask, seed: int) -> tuple[Several, Several]:
    """The conversations to train on, and those held out, a part for each source of a mixture or set of templates.

    Raises UserError when either is empty.
    """
    if data.packing == "stream":
        what = "data.packing=stream cuts a text anywhere, and conversations are whole"
        raise UserError(what, "leave it out: several share a row without seeing one another")
    pair = Pair(Template(task.prompt), Template(task.response)) if task.prompt and task.response else None
    sets: list[templates.TemplateSet | None] = [templates.find(name) for name in task.templates]
    sets = sets or [None]
    sources = sources_of(data) if len(sets) == 1 else [(path,) for path in data.train]
    train = [
        read.Conversations(paths, (), pair=pair, templates=chosen, seed=seed)
        for paths, chosen in zip(sources, itertools.cycle(sets))  # one for all, or as many as there are sources
    ]
    if not isinstance(data.validation, float):
        return Several(tuple(train)), Several((replace(train[0], paths=(data.validation,)),))
    both = [part.split(data.validation) for part in train]
    return Several(tuple(own for own, _ in both)), Several(tuple(held for _, held in both))


def _contents(half: Several) -> Iterator[str]:
    return (message["content"] for row in half for message in row["messages"])


def _record(folder: Path, halves: tuple[Several, Several]) -> None:
    """Writes which template each example got, a list for each source of either half."""
    found: dict[str, list[Any]] = {
        name: [
            {
                "paths": [str(path) for path in part.paths],
                "task": part.templates.name,
                "category": part.templates.category,
                "templates": [[pair.prompt.text, pair.response.text] for pair in part.templates.pairs],
                "chosen": [row["template"] for row in part],
            }
            for part in half.parts
        ]
        for name, half in zip(("train", "validation"), halves, strict=True)
    }
    files.write_json(folder / RECORD, found)
