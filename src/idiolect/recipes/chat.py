"""The stage of instruction tuning: what the assistant says in conversations, and where it stops.

n conversations, T positions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from idiolect import files
from idiolect.adapt.vocabulary import grow
from idiolect.data.batch import bits_per_byte
from idiolect.data.conversations import Conversations, Packed, packed
from idiolect.data.examples import in_order
from idiolect.data.mixture import MixedRows
from idiolect.data.settings import ChatTask, DataSettings
from idiolect.data.shards import Shards
from idiolect.data.shards import encode as encode_text
from idiolect.decode.generate import Completion, complete
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import UserError
from idiolect.evaluate.overlap import METRICS
from idiolect.evaluate.score import finite, lossy, perplexity, summed
from idiolect.recipes import preflight
from idiolect.recipes.parent import replay_of
from idiolect.recipes.preflight import Counts, Preflight
from idiolect.recipes.prepare import fingerprints, replaying, say, tokenizer_of
from idiolect.recipes.settings import Recipe
from idiolect.recipes.stage import Stage
from idiolect.report import Report
from idiolect.text import conversations as read
from idiolect.text import template as templates
from idiolect.text.corpus import Corpus
from idiolect.text.read import MAX_BAD
from idiolect.text.several import Several
from idiolect.text.template import Pair, Template
from idiolect.tokens import chat
from idiolect.tokens.chat import Chat, Piece
from idiolect.train import objectives

AT_ONCE = 1 << 10
"""Conversations encoded at once."""
ROWS = 1 << 13
"""Positions of held-out conversations scored at once."""
ANSWERED = 32
"""Prompts answered at once."""
RECORD = "templates.json"
"""The file of a run that says which template of a set each example got."""


Messages = Sequence[Mapping[str, str]]
"""One conversation."""


class Encoded(NamedTuple):
    """Conversations as ids."""

    said: Conversations
    """Their masks: what the assistant says, and what ends it."""
    messages: list[Messages]
    counts: Counts


@dataclass(frozen=True)
class Conversing(Stage):
    """Conversations packed into rows; held-out answers in bits per byte."""

    chat: Chat
    added: int
    """Control tokens, the last of the tokenizer, that a model it starts from does not know."""
    train: Conversations
    """Their masks: what is learnt."""
    held: Encoded
    found: Preflight
    replayed: Shards | None = None
    """General text of which every batch has a part."""

    def __post_init__(self) -> None:
        """Raises UserError when the library of a metric is missing: now, not after the training."""
        _ = self.curves

    @property
    def task(self) -> ChatTask:
        """The recipe's."""
        assert isinstance(self.recipe.doing, ChatTask)
        return self.recipe.doing

    @property
    def curves(self) -> tuple[str, ...]:
        """As every stage's, and the figures of the answers."""
        measured = (key for metric in self.task.metrics for key in METRICS[metric](["a"], [["a"]]))
        return *super().curves, "loss_other_prompt", "stops", *measured

    @property
    def pad_id(self) -> int:
        """What fills rows. It is never learnt nor read, and a foreign model may have no padding of its own."""
        return self.tokenizer.end_id

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
        """Several conversations in a row; beside them rows of the text that is replayed."""
        train = self.recipe.train
        own = packed(
            self.train,
            context=self.recipe.reads.context,
            batch_tokens=train.batch_tokens,
            micro_batches=train.micro_batches,
            seed=train.seed,
            pad_id=self.pad_id,
        )
        return own if self.replayed is None else replaying(self.recipe, self.tokenizer, own, self.replayed)

    def replay_offer(self) -> str:
        """As of next tokens."""
        return f"{replay_of(self.recipe)}; {super().replay_offer()}"

    def objective(self) -> objectives.Objective:
        """The next token's cross-entropy, of the tokens that are learnt."""
        widths = self.tokenizer.token_bytes()
        return partial(objectives.next_token, token_bytes=None if widths is None else torch.as_tensor(widths))

    def score(self, model: Any, tokens: int | None = None) -> dict[str, Any]:
        """Loss, perplexity and bits per byte of what the assistant says in held-out conversations, whatever is learnt.

        Over all of them, too: the loss of the same answers after another conversation's prompt, the share of the
        model's own answers that stop by themselves, and the task's metrics of them.
        """
        rows = self.held.said
        n = len(rows)
        if tokens is not None:  # whole conversations, at least one
            n = max(1, int(np.searchsorted(rows.ids.ends, tokens, side="right")) - 1)
        labels = np.concatenate([self._labels(rows, i) for i in range(n)])
        figures = self._figures(self._nats(model, rows, n), labels)
        if tokens is not None:
            return figures
        return figures | self._after_other_prompts(model, float(figures["loss"])) | self._answered(model)

    def _labels(self, rows: Conversations, i: int) -> np.ndarray:
        said = rows.row(i)[1]
        return said[said >= 0]

    def _nats(self, model: Any, rows: Conversations, n: int) -> float:
        batches = (rows.batch(group, self.pad_id) for group in in_order(rows.lengths[:n], ROWS))
        return summed(model, batches, objectives.next_token)[0]

    def _figures(self, nats: float, labels: np.ndarray) -> dict[str, Any]:
        widths, reason = self.tokenizer.token_bytes(), lossy(self.tokenizer)
        bytes_ = None if widths is None else int(widths[labels].sum())
        found = {
            "loss": nats / len(labels),
            "perplexity": perplexity(nats, len(labels)),
            "bits_per_byte": bits_per_byte(nats, bytes_) if bytes_ else None,
            "tokens": len(labels),
            "bytes": bytes_,
            "reason": reason,
        }
        return {key: finite(value) for key, value in found.items()}

    def _after_other_prompts(self, model: Any, own: float) -> dict[str, Any]:
        """The loss of each held-out conversation from its first answer on, after the prompt of the next."""
        rows = other_prompts(self.held.said, self.recipe.reads.context)
        if rows is None:
            return {}
        loss = self._nats(model, rows, len(rows)) / len(rows.labels)
        if loss <= own:
            say(f"note: answers are no likelier after their own prompt ({own:.3f}) than after another's ({loss:.3f})")
        return {"loss_other_prompt": finite(loss)}

    def _answered(self, model: Any) -> dict[str, Any]:
        asked = [i for i in range(len(self.held.said)) if self._prompt(i) is not None][: self.task.answers]
        if not asked:
            return {}
        written: list[Completion] = []
        for first in range(0, len(asked), ANSWERED):
            written += self._answers(model, asked[first : first + ANSWERED], self.task.answer_tokens, 0.0, 0)
        found: dict[str, Any] = {"answers": len(asked)}
        found["stops"] = sum(answer.finish_reason == "stop" for answer in written) / len(asked)
        references = [[self._reference(i)] for i in asked]
        for metric in self.task.metrics:
            found |= METRICS[metric]([answer.text for answer in written], references)
        return found

    def _answers(self, model: Any, some: Sequence[int], most: int, temperature: float, seed: int) -> list[Completion]:
        settings = DecodeSettings(max_tokens=most, temperature=temperature, seed=seed, stop_tokens=self.chat.ends)
        return complete(model, self.tokenizer, [self._prompt(i) or [] for i in some], settings, requests=some)

    def _prompt(self, i: int) -> list[int] | None:
        """What stands before the first answer of a held-out conversation; None when it leaves no room for one."""
        ids, mask = self.held.said.ids[i], self.held.said.mask[i]
        first = int(np.flatnonzero(mask)[0])
        context = self.recipe.reads.context
        return ids[:first].tolist() if 0 < first <= context else None

    def _reference(self, i: int) -> str:
        return next(message["content"] for message in self.held.messages[i] if message["role"] == chat.ASSISTANT)

    def baselines(self) -> dict[str, dict[str, Any]]:
        """Tokens as often as in what is learnt (each count plus one), whatever was asked."""
        V, labels = self.tokenizer.size, self.held.said.labels
        seen = np.bincount(self.train.labels, minlength=V)
        nats = len(labels) * math.log(seen.sum() + V) - float(np.log(seen[labels] + 1).sum())
        return {"unigram": self._figures(nats, labels)}

    def sample(self, model: Any, seed: int) -> str:
        """What the model answers one of the held-out prompts, which the seed chooses."""
        i, asked = seed % len(self.held.said), self.recipe.sample
        prompt = self._prompt(i)
        if prompt is None:
            return ""
        (written,) = self._answers(model, [i], asked.tokens, asked.temperature, seed)
        return f"{self.tokenizer.decode(prompt)}\n→ {written.text}\n  (held out: {self._reference(i)})"

    def report(self, report: Report) -> None:
        """What was looked at before the first step."""
        self.found.report(report)


def other_prompts(rows: Conversations, context: int) -> Conversations | None:
    """Each row from its first answer on, after what stands before that of the next row whose prompt is another.

    None when all prompts are the same. What no longer fits into `context` is cut.
    """
    firsts = [int(np.flatnonzero(rows.mask[i])[0]) for i in range(len(rows))]
    prompts = [rows.ids[i][:first] for i, first in enumerate(firsts)]
    keys, made = [prompt.tobytes() for prompt in prompts], []
    for i, first in enumerate(firsts):
        other = next((j % len(rows) for j in range(i + 1, i + len(rows)) if keys[j % len(rows)] != keys[i]), None)
        if other is None:
            return None
        ids = np.concatenate([prompts[other], rows.ids[i][first:]])[: context + 1]
        mask = np.concatenate([np.zeros(len(prompts[other]), np.int32), rows.mask[i][first:]])[: context + 1]
        if mask[1:].any():
            made.append((ids, mask))
    return Conversations.of(made) if made else None


def prepare(recipe: Recipe, folder: Path) -> Conversing:
    """Splits the conversations, renders and encodes them, and looks at what came of it before anything is trained.

    Raises UserError for what is wrong with any of them, a template or a mask among it.
    """
    task = recipe.doing
    assert isinstance(task, ChatTask)
    halves = split(recipe.data, task, recipe.train.seed)
    if recipe.model.from_ is None:
        say("note: no model.from is given, so a fresh model learns to answer from these conversations alone")
    for layout, paths in halves[0].layouts().items():
        say(f"conversations: {layout}, from {', '.join(path.name for path in paths[:3])}{' …' * (len(paths) > 3)}")
    tokenizer = tokenizer_of(folder / "tokenizer", recipe.tokenizer, _contents(halves[0]))
    source, name = chat.find(tokenizer, task.template or (None if tokenizer.templates else "instruction"))
    added = chat.lacking(source, tokenizer) if task.template else []
    tokenizer = tokenizer.with_controls(added)
    if added:
        say(f"new tokens: {', '.join(added)}, as {name} uses them; they begin as the mean of all others")
    talk = Chat(tokenizer, source, name)
    tokenizer.templates = {**tokenizer.templates, chat.templates.DEFAULT: talk.program.source}
    tokenizer.answer_ends = tuple(id_ for id_ in talk.ends if id_ != tokenizer.end_id)
    context = recipe.reads.context
    train, held = (encode(half, talk, context, task.system) for half in halves)
    if task.templates:
        _record(folder, task, halves)
    learnt = everything(train.said) if task.train_on == "all" else train.said
    found = preflight.look(learnt, train.counts, tokenizer, talk.ends, (talk.name, talk.program.hash))
    found.show()
    if not len(held.said):
        raise UserError("no conversation is held out", "give more, or another share")
    prints = fingerprints(recipe, halves[0].fingerprint, halves[1].fingerprint, tokenizer)
    prints["task.template"] = talk.program.hash
    if not recipe.data.replay:
        return Conversing(recipe, tokenizer, prints, Several((halves[0],)), talk, len(added), learnt, held, found)
    general = Corpus(recipe.data.replay, recipe.data.document, recipe.data.field)
    prints["data.replay"] = general.fingerprint
    both, encoded = Several((halves[0], general)), encode_text(general, tokenizer)
    return Conversing(recipe, tokenizer, prints, both, talk, len(added), learnt, held, found, encoded)


def split(data: DataSettings, task: ChatTask, seed: int) -> tuple[read.Conversations, read.Conversations]:
    """The conversations to train on, and those held out. Raises UserError when either is empty."""
    if data.packing == "stream":
        what = "data.packing=stream cuts a text anywhere, and conversations are whole"
        raise UserError(what, "leave it out: several share a row without seeing one another")
    pair = Pair(Template(task.prompt), Template(task.response)) if task.prompt and task.response else None
    chosen = templates.find(task.templates) if task.templates else None
    train = read.Conversations(data.train, (), pair=pair, templates=chosen, seed=seed)
    if isinstance(data.validation, float):
        return train.split(data.validation)
    return train, replace(train, paths=(data.validation,))


def _contents(half: read.Conversations) -> Iterator[str]:
    return (message["content"] for row in half for message in row["messages"])


def _record(folder: Path, task: ChatTask, halves: Sequence[read.Conversations]) -> None:
    """Writes which template each example got."""
    found = halves[0].templates
    assert found is not None
    files.write_json(
        folder / RECORD,
        {
            "set": task.templates,
            "category": found.category,
            "templates": [[pair.prompt.text, pair.response.text] for pair in found.pairs],
            "train": [row["template"] for row in halves[0]],
            "validation": [row["template"] for row in halves[1]],
        },
    )


def everything(rows: Conversations) -> Conversations:
    """The same conversations, of which every token is learnt."""
    return replace(rows, mask=replace(rows.mask, ids=np.ones_like(rows.mask.ids)))


def encode(half: Iterable[Mapping[str, Any]], talk: Chat, context: int, system: str | None) -> Encoded:
    """Conversations as ids, each with the end of its last answer, cut at the model's context, and counted."""
    rows, kept = [], []
    n = cut = refused = 0
    first: UserError | None = None
    rest = (_led(row["messages"], system) for row in half)
    while some := list(itertools.islice(rest, AT_ONCE)):
        taken: list[tuple[Messages, list[Piece]]] = []
        for messages in some:
            try:
                taken.append((messages, talk.pieces(messages)))
            except UserError as error:
                refused, first = refused + 1, first or error
        n += len(some)
        if first is not None and refused > MAX_BAD * n:
            what = f"{refused:,} of {n:,} conversations cannot be spelled: {first.what}"
            raise UserError(what, first.mend)
        for (messages, _), said in zip(taken, talk.encoded([pieces for _, pieces in taken]), strict=True):
            ids, mask = talk.closed(said)
            cut += len(ids) > context + 1
            ids, mask = ids[: context + 1], mask[: context + 1]
            if mask[1:].any():
                rows.append((ids.astype(np.int32), mask.astype(np.int32)))
                kept.append(messages)
    if first is not None:
        say(f"left out {refused:,} of {n:,} conversations ({first.what})")
    return Encoded(Conversations.of(rows), kept, Counts(n, cut, n - len(rows)))


def _led(messages: Messages, system: str | None) -> Messages:
    """The messages, led by a system message where they are not."""
    led = not system or messages[0]["role"] == chat.SYSTEM
    return messages if led else [{"role": chat.SYSTEM, "content": str(system)}, *messages]
