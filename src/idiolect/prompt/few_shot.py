"""In-context learning: examples, with the form of their answers, before what is asked (Brown et al. 2020, section 2).

k examples (shots); k = 0 is the question alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from idiolect import seeds
from idiolect.errors import UserError
from idiolect.tokens.chat import ASSISTANT, USER, Chat
from idiolect.tokens.sandbox import Message

Example = tuple[str, str]
"""What is given, and its answer."""
MANY = 6
"""Examples beyond which more of them are rarely the way: what does not work with five or six wants fine-tuning."""
BETWEEN = "\n\n"
"""What stands between two examples."""


@dataclass(frozen=True)
class Form:
    """How an example is written: `{text}` (or whatever field is given) somewhere before one `{label}`, or the like."""

    template: str
    given: str = "text"
    """The field that is asked about."""
    answer: str = "label"
    """The field that is answered."""

    def __post_init__(self) -> None:
        """Raises UserError unless both fields are there, and the answer's once."""
        gap, asked = f"{{{self.answer}}}", f"{{{self.given}}}"
        if self.template.count(gap) != 1 or asked not in self.template:
            what = f"the template {self.template!r} does not have {asked} and one {gap}"
            raise UserError(what, f'write it like "{asked} … {gap}"')

    def sides(self, text: str) -> tuple[str, str]:
        """What stands before and after the answer about a text."""
        before, after = self.template.split(f"{{{self.answer}}}")
        return before.replace(f"{{{self.given}}}", text), after.replace(f"{{{self.given}}}", text)

    def filled(self, text: str, answer: str) -> str:
        """A whole example."""
        before, after = self.sides(text)
        return before + answer + after


LABELS = Form("Text: {text}\nLabel: {label}")
PAIRS = Form("Input: {source}\nOutput: {target}", "source", "target")
REPLIES = Form("{source}\n{target}", "source", "target")
"""Of a chat: the source is all that is said."""


@dataclass(frozen=True)
class Prompt:
    """Examples and a question, written in one form."""

    before: str
    """All that comes before the answer."""
    after: str
    """What the form has after it."""
    shots: int
    """Examples in it."""
    tokens: int
    """Tokens of `before`."""
    left: int | None
    """Tokens that the context leaves for the answer, below 0 when it does not fit; None: there is no limit."""
    messages: tuple[Message, ...] = ()
    """Of a model that is asked by its chat template: the examples as earlier turns, and the question."""
    ids: tuple[int, ...] = ()
    """Those as they are read, up to where the model is to answer."""

    def fits(self, room: int) -> bool:
        """Whether the context leaves so many."""
        return self.left is None or self.left >= room


def prompt(
    form: Form,
    examples: Sequence[Example],
    text: str,
    tokenizer: Any,
    context: int | None,
    talk: Chat | None = None,
) -> Prompt:
    """Examples (what is given, its answer), then the question about a text; of a chat, as its turns.

    There a user says what the form has before the answer, and the assistant the answer and what the form has after it.
    """
    before, after = form.sides(text)
    if talk is None:
        before = BETWEEN.join([*(form.filled(*example) for example in examples), before])
        tokens = len(tokenizer.encode(before)) + (tokenizer.begin_id is not None)
        return Prompt(before, after, len(examples), tokens, None if context is None else context - tokens)
    messages: list[Message] = []
    for given, answer in examples:
        asked, ends = form.sides(given)
        messages.append({"role": USER, "content": asked.strip()})
        messages.append({"role": ASSISTANT, "content": (answer + ends).strip()})
    messages.append({"role": USER, "content": before.strip()})
    ids = talk.render(messages, reply=True).ids.tolist()
    left = None if context is None else context - len(ids)
    return Prompt(before, after, len(examples), len(ids), left, tuple(messages), tuple(ids))


def fitting(
    form: Form,
    examples: Sequence[Example],
    text: str,
    tokenizer: Any,
    context: int | None,
    room: int,
    talk: Chat | None = None,
) -> Prompt:
    """As `prompt`, with as many of the examples, the first ones, as leave `room` tokens for the answer.

    Where the question alone does not, that: `fits` tells.
    """
    shots = range(len(examples), -1, -1)
    tried = (prompt(form, examples[:some], text, tokenizer, context, talk) for some in shots)
    return next(found for found in tried if found.fits(room) or not found.shots)


def warnings(asked: int, prompts: Sequence[Prompt]) -> list[str]:
    """What is to be said of prompts for which so many examples were asked: too many, or more than fit."""
    tune = "fine-tune instead: idiolect train continue, classify or lora model.from=MODEL (docs/recipes.md)"
    said = []
    if asked > MANY:
        said.append(f"{asked} examples are more than {MANY}, and each takes its part of the context; {tune}")
    if short := sum(found.shots < asked for found in prompts):
        what = f"the context has no room for {asked} example{'s' * (asked > 1)}"
        said.append(f"in {short} of {len(prompts)} prompts {what}; {tune}")
    return said


def draw(examples: Sequence[tuple[str, str]], shots: int, seed: int) -> list[tuple[str, str]]:
    """`shots` examples without return; those of fewer shots are the first ones of more, with the same seed.

    Raises UserError when there are not so many.
    """
    if shots > len(examples):
        raise UserError(f"{shots} examples are asked for, and there are {len(examples)}", "give a file with more")
    order = seeds.numpy_generator(seed, "few-shot").permutation(len(examples))[:shots]
    return [examples[i] for i in order.tolist()]
