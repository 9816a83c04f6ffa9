"""What is looked at before the first step of instruction tuning, and what the run refuses to begin with."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from idiolect.data.conversations import Conversations
from idiolect.data.rendered import Counts
from idiolect.errors import UserError
from idiolect.report import Report
from idiolect.tokens.tokenizer import Tokenizer

SAMPLES = 3
"""Conversations that are shown."""
SHOWN = 2000
"""Characters of one that are shown."""
TRAINED, PLAIN = "\033[32;1m", "\033[0m"
"""A terminal's bold green, in which trained tokens are shown, and the end of it."""


@dataclass(frozen=True)
class Preflight:
    """What was found."""

    samples: tuple[tuple[tuple[str, bool], ...], ...]
    """(text, whether it is trained) of the stretches of some conversations."""
    facts: dict[str, Any]
    violations: tuple[str, ...]

    def text(self, colours: bool = False) -> str:
        """The samples, trained tokens in colour or in brackets, and the facts."""
        lines = []
        for number, stretches in enumerate(self.samples):
            marks = (TRAINED, PLAIN) if colours else ("[", "]")
            shown = "".join(f"{marks[0]}{text}{marks[1]}" if trained else text for text, trained in stretches)
            lines.append(f"── conversation {number + 1}: what is {'green' if colours else 'in brackets'} is learnt ──")
            lines.append(shown)
        lines.append("──")
        return "\n".join([*lines, *(f"{name}: {value}" for name, value in self.facts.items())])

    def show(self) -> None:
        """Onto stderr. Raises UserError (exit 2) where something is not as it must be."""
        print(self.text(sys.stderr.isatty()), file=sys.stderr, flush=True)
        if self.violations:
            raise UserError("; ".join(self.violations), "mend the template or the data; nothing was trained")

    def report(self, report: Report) -> None:
        """As part of a page."""
        report.facts(self.facts, "Before the first step")
        for number, stretches in enumerate(self.samples):
            report.marked(f"Conversation {number + 1}, what is learnt of it marked", stretches)


def look(
    rows: Conversations, counts: Counts, tokenizer: Tokenizer, ends: Collection[int], template: tuple[str, str]
) -> Preflight:
    """Looks at what is to be trained on.

    rows: with what is learnt of each. ends: the ids that end an answer. template: its name and hash.
    """
    stops = {tokenizer.end_id, *ends}
    ended = sum(bool(stops & set(rows.row(i)[1].tolist())) for i in range(len(rows)))
    doubled = sum(_begins_twice(rows.ids[i].tolist(), tokenizer.begin_id) for i in range(len(rows)))
    trained, positions = len(rows.labels), int(rows.lengths.sum())
    share = counts.cut / counts.read if counts.read else 0.0
    violations = []
    if not trained:
        violations.append("no token of the conversations would be learnt")
    elif not ended:
        violations.append("the end of an answer would never be learnt, so the model would not stop")
    if doubled:
        violations.append(f"{doubled:,} conversations begin with two begin-of-text tokens")
    if counts.read and counts.cut == counts.read:
        violations.append("every conversation is longer than the model's context and would be cut")
    facts = {
        "template": f"{template[0]}, sha256 {template[1][:16]}",
        "conversations": f"{len(rows):,} of {counts.read:,}",
        "tokens learnt": f"{trained:,} of {positions:,}",
        "end of answers learnt": f"{'yes' if ended else 'no'}, in {ended:,} conversations",
        "begin-of-text twice": f"yes, in {doubled:,} conversations" if doubled else "no",
        "cut at the model's context": f"{counts.cut:,} ({share:.1%}), nothing left to learn in {counts.left_out:,}",
    }
    samples = tuple(_stretches(rows, i, tokenizer) for i in range(min(SAMPLES, len(rows))))
    return Preflight(samples, facts, tuple(violations))


def _begins_twice(ids: Sequence[int], begin: int) -> bool:
    return ids[:2] == [begin, begin]


def _stretches(rows: Conversations, i: int, tokenizer: Tokenizer) -> tuple[tuple[str, bool], ...]:
    """The text of one conversation, control tokens by their names, in stretches of what is and is not learnt."""
    ids, mask = rows.ids[i].tolist(), rows.mask[i].tolist()
    found, room = [], SHOWN
    for trained, some in groupby(zip(ids, [0, *mask[1:]], strict=True), key=lambda pair: bool(pair[1])):
        text = _printable(_named([id_ for id_, _ in some], tokenizer))
        found.append((text[:room] + ("…" if len(text) > room else ""), trained))
        room -= len(text)
        if room <= 0:
            break
    return tuple(found)


def _named(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    parts = []
    for content, some in groupby(ids, key=lambda id_: bool(tokenizer.content[id_])):
        part = list(some)
        parts.append(tokenizer.decode(part) if content else "".join(tokenizer.vocabulary[id_] for id_ in part))
    return "".join(parts)


def _printable(text: str) -> str:
    """What a terminal may be shown: a text can hold the sequences that steer one."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
