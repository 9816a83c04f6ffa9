"""The one way from a conversation to tokens: `render(messages) -> ids, mask`; training, chatting and scoring share it.

A chat template (Jinja, see `sandbox`) spells a conversation out. It is run twice, once on the messages and once on
marks that nobody can guess in the place of their contents, which tells what of the text is the template's and what is
a message's. Only the template's text can hold control tokens: what a message says of them stays text.

The ids are those of `transformers`' apply_chat_template, with two exceptions: control tokens in contents, and where an
answer begins and ends a token always begins and ends. So what a model learns to write an answer after is, id for id,
what it will be asked with.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from idiolect.errors import UserError, nearest
from idiolect.tokens import describe, templates
from idiolect.tokens.sandbox import CLOSE, OPEN, Message, Program
from idiolect.tokens.tokenizer import Tokenizer

SYSTEM, USER, ASSISTANT, TOOL = ROLES = ("system", "user", "assistant", "tool")

_INSTRUCTION = """{{ bos_token }}
{%- for message in messages %}
    {%- set gap = '' if loop.first else '\\n\\n' %}
    {%- if message.role == 'system' %}
        {{- gap + message.content }}
    {%- elif message.role == 'assistant' %}
        {{- gap + '### Response:\\n' + message.content + eos_token }}
    {%- else %}
        {{- gap + '### Instruction:\\n' + message.content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '\\n\\n### Response:\\n' }}
{%- endif %}"""
_TURNS = """{{ bos_token }}
{%- for message in messages %}
    {{- ('' if loop.first else '\\n') + message.role|capitalize + ':' }}
    {{- ('\\n' if message.role == 'assistant' else ' ') + message.content }}
    {{- eos_token if message.role == 'assistant' else '' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '\\nAssistant:\\n' }}
{%- endif %}"""
_CHATML = """{% for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
BUILT_IN = {"instruction": _INSTRUCTION, "turns": _TURNS, "chatml": _CHATML}
"""Templates by name. `instruction` and `turns` need no tokens but the end of text; chatml has two of its own."""

_MARK = f"\ue000{secrets.token_hex(16)}."
_CONTENT = re.compile(re.escape(_MARK) + "([0-9]+)\ue001")
_CHANGES: tuple[Callable[[str], str], ...] = (
    *(str, str.strip, str.lstrip, str.rstrip),
    lambda content: json.dumps(content, ensure_ascii=False)[1:-1],
)
"""What templates do to a content: nothing, or they trim it, or write it as JSON (see also `_part`)."""
_LIKE_CONTROL = re.compile(r"<\|[^<>|\s]{1,40}\|>")


@functools.lru_cache(maxsize=16)
def _program(source: str, name: str) -> Program:
    """Compiled, and tried, once."""
    return Program(source, name, trusted=source in BUILT_IN.values())


class Rendered(NamedTuple):
    """A conversation as tokens."""

    ids: np.ndarray
    """int64 [T]."""
    mask: np.ndarray
    """Whether each id is one that the model is to write itself: of an answer, or what ends one, bool [T]."""


class Piece(NamedTuple):
    """A part of a conversation: a text, or one control token."""

    text: str
    id: int | None
    trained: bool
    after: str
    """What it stands after: "nothing", "control" (a control token) or "text"."""


class Chat:
    """A tokenizer and the template that its conversations are spelled by."""

    def __init__(self, tokenizer: Tokenizer, source: str, name: str) -> None:
        """name: what the template is called in errors. Raises UserError for a template that cannot be used."""
        self.tokenizer, self.name = tokenizer, name
        self.program = _program(source, name)
        added = [token for token in tokenizer.spec["added_tokens"] if token["special"]]
        self._special = {token["content"]: token for token in added}
        ordered = sorted(self._special, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, ordered)) or "(?!)")
        self._added = {token["content"] for token in tokenizer.spec["added_tokens"]}
        self._variables = {**tokenizer.names, "tools": None, "documents": None}
        self._bare, self._always = _unprefixed(tokenizer)

    def render(self, messages: Sequence[Message], *, reply: bool = False) -> Rendered:
        """A conversation as ids; with `reply`, up to where the model is to answer.

        Raises UserError for a conversation that the template does not take, or changes beyond what can be followed.
        """
        return self.render_batch([messages], reply=reply)[0]

    def render_batch(self, conversations: Iterable[Sequence[Message]], *, reply: bool = False) -> list[Rendered]:
        """Each conversation as `render` gives it; their texts are encoded together."""
        return self.encoded([self.pieces(messages, reply) for messages in conversations])

    def encoded(self, conversations: Sequence[Sequence[Piece]]) -> list[Rendered]:
        """Conversations from their `pieces`."""
        texts: dict[tuple[str, bool], int] = {}
        for piece in itertools.chain.from_iterable(conversations):
            if piece.id is None:
                texts.setdefault((piece.text, self._is_bare(piece)), len(texts))
        encoded: dict[tuple[str, bool], np.ndarray] = {}
        for bare in (False, True):
            some = [key for key in texts if key[1] == bare]
            tokenizer = self._bare if bare else self.tokenizer
            encoded |= zip(some, tokenizer.encode_batch([text for text, _ in some]), strict=True)
        return [self._joined(row, encoded) for row in conversations]

    def pieces(self, messages: Sequence[Message], reply: bool = False) -> list[Piece]:
        """The texts and control tokens of a conversation, not encoded yet. Raises UserError as `render`."""
        return list(self._pieces(messages, reply))

    def _is_bare(self, piece: Piece) -> bool:
        """Whether the tokenizer's habit of beginning a text by a space is not for this piece."""
        return piece.after == "text" or piece.after == "control" and not self._always

    def _joined(self, pieces: Sequence[Piece], encoded: Mapping[tuple[str, bool], np.ndarray]) -> Rendered:
        rows = [
            encoded[piece.text, self._is_bare(piece)] if piece.id is None else np.array([piece.id]) for piece in pieces
        ]
        mask = np.repeat([piece.trained for piece in pieces], [len(row) for row in rows])
        return Rendered(np.concatenate([np.empty(0, np.int64), *rows]).astype(np.int64), mask.astype(bool))

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """The control tokens that the template puts after an answer."""
        last = [{"role": USER, "content": "a"}, {"role": ASSISTANT, "content": "b"}]
        pieces = self.pieces(last)
        answered = next((i for i, piece in enumerate(pieces) if piece.trained), len(pieces))
        return tuple(dict.fromkeys(piece.id for piece in pieces[answered:] if piece.trained and piece.id is not None))

    @property
    def stops(self) -> tuple[int, ...]:
        """The tokens at which an answer ends, by the template or by what the model itself says."""
        return tuple(dict.fromkeys((*self.ends, *self.tokenizer.answer_ends)))

    def closed(self, rendered: Rendered) -> Rendered:
        """A conversation with the end of its last answer: that of the text, where the template has none of its own."""
        if self.ends or self.program.marked:
            return rendered
        return Rendered(np.append(rendered.ids, self.tokenizer.end_id), np.append(rendered.mask, True))

    def _pieces(self, messages: Sequence[Message], reply: bool) -> Iterator[Piece]:
        """The pieces of a conversation: texts whole between control tokens, cut where answers begin and end."""
        held, trained, after = "", False, "nothing"
        for text, is_trained, is_control in self._parts(messages, reply):
            if not text:
                continue
            if held and (is_control or is_trained != trained):
                if is_control and self._special[text]["lstrip"]:
                    held = held.rstrip()
                if held:
                    yield Piece(held, None, trained, after)
                    held, after = "", "text"
            if is_control:
                yield Piece(text, self._special[text]["id"], is_trained, after)
                after = "eager" if self._special[text]["rstrip"] else "control"
                continue
            if after == "eager" and not held:
                text = text.lstrip()
                after = "control" if text else after
            held, trained = held + text, is_trained
        if held:
            yield Piece(held, None, trained, after)

    def _parts(self, messages: Sequence[Message], reply: bool) -> Iterator[tuple[str, bool, bool]]:
        """(text, whether the model is to write it, whether it is a control token) from the first to the last."""
        inside, answer = False, False
        for text, number in self._spelled(messages, reply):
            if number is not None:
                answer = messages[number]["role"] == ASSISTANT
                yield text, inside if self.program.marked else answer, False
                continue
            for part in re.split(f"({re.escape(OPEN)}|{re.escape(CLOSE)})", text):
                if part in (OPEN, CLOSE):
                    inside = part == OPEN
                    continue
                end = self._control.search(part)
                ending = answer and end is not None and not part[: end.start()].strip()  # the token that ends an answer
                for piece, is_control in self._cut(part):
                    yield piece, inside if self.program.marked else ending, is_control
                    ending = ending and not is_control
            answer = False

    def _cut(self, text: str) -> Iterator[tuple[str, bool]]:
        """The template's own text, its control tokens apart. Raises UserError for one that the tokenizer lacks."""
        place = 0
        for found in self._control.finditer(text):
            yield self._known(text[place : found.start()]), False
            yield found[0], True
            place = found.end()
        yield self._known(text[place:]), False

    def _known(self, text: str) -> str:
        for name in _LIKE_CONTROL.findall(text):
            if name not in self._added:
                raise UserError(
                    f"the chat template {self.name} uses the token {name}, which the tokenizer lacks",
                    "use a template without it, such as task.template=instruction, or a model that has it",
                )
        return text

    def _spelled(self, messages: Sequence[Message], reply: bool) -> Iterator[tuple[str, int | None]]:
        """(text, the number of the message whose content it is, or None for the template's own)."""
        _check(messages)
        variables = {**self._variables, "add_generation_prompt": reply}
        text = self.program.render(messages, variables)
        hidden = [{**message, "content": f"{_MARK}{i}\ue001"} for i, message in enumerate(messages)]
        parts = _CONTENT.split(self.program.render(hidden, variables))
        place = len(parts[0])
        if not text.startswith(parts[0]):
            raise self._lost()
        yield parts[0], None
        for number, after in zip(map(int, parts[1::2]), parts[2::2], strict=True):
            content = messages[number]["content"]
            found = next((c for change in _CHANGES if text.startswith((c := change(content)) + after, place)), None)
            if found is None and (found := _part(content, after, text, place)) is None:
                raise self._lost()
            yield found, number
            yield after, None
            place += len(found) + len(after)
        if place != len(text):
            raise self._lost()

    def _lost(self) -> UserError:
        return UserError(
            f"the chat template {self.name} changes what messages say, so that answers cannot be told from the rest",
            "use a template that spells contents as they are, or trims them",
        )


def _part(content: str, after: str, text: str, place: int) -> str | None:
    """The part of a content that stands in the text from `place` to `after`, or None when that cannot be told.

    Templates leave out what a model thought before it answered. A content that has `after` in it is not followed: its
    author could say where it ends.
    """
    if (content + after).find(after) < len(content):
        return None
    end = text.find(after, place) if after else len(text)
    return text[place:end] if end >= 0 and text[place:end] in content else None


def _check(messages: Sequence[Message]) -> None:
    """Raises UserError unless these are messages."""
    if not messages:
        raise UserError("a conversation has no messages", "give at least one")
    for message in messages:
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            what = f"a message has the role {str(message.get('role'))[:40]!r}, or no text as its content"
            raise UserError(what, f"give role ({', '.join(ROLES)}) and content")


def _unprefixed(tokenizer: Tokenizer) -> tuple[Tokenizer, bool]:
    """(the tokenizer without its habit of beginning a text by a space, whether it has that after control tokens too).

    The tokenizer itself when it has no such habit.
    """
    spec, always = describe.unprefixed(tokenizer.spec)
    return tokenizer if spec is None else tokenizer.respecified(spec), always


def render(
    messages: Sequence[Message], tokenizer: Tokenizer, template: str | None = None, *, reply: bool = False
) -> Rendered:
    """One conversation as (ids [T], mask [T]); see `of` for the template, and `Chat.render`."""
    return of(tokenizer, template).render(messages, reply=reply)


def of(tokenizer: Tokenizer, template: str | None = None) -> Chat:
    """The tokenizer with a template, as `find` finds it."""
    return Chat(tokenizer, *find(tokenizer, template))


def own(tokenizer: Tokenizer) -> Chat | None:
    """The tokenizer with the template that came with it; None when none did."""
    return of(tokenizer) if templates.DEFAULT in tokenizer.templates else None


def find(tokenizer: Tokenizer, template: str | None = None) -> tuple[str, str]:
    """(source, name) of a template: a built-in one, a file of one's own (.jinja), or (None) what the tokenizer has.

    Raises UserError when there is none of that name, or none came with the tokenizer.
    """
    if template is None:
        if templates.DEFAULT not in tokenizer.templates:
            raise UserError(
                "the model has no chat template: it has not learnt to answer",
                "train it by the recipe sft, or name a template, such as instruction",
            )
        return tokenizer.templates[templates.DEFAULT], "of the model"
    if template in BUILT_IN:
        return BUILT_IN[template], template
    path = Path(template)
    if path.suffix == templates.ENDING or path.is_file():
        return templates.read_file(path), str(path)
    if template in tokenizer.templates:
        return tokenizer.templates[template], template
    known = {*BUILT_IN, *tokenizer.templates}
    raise UserError(
        f"there is no chat template {template}{nearest(template, known)}",
        f"name one of {', '.join(sorted(known))}, or a {templates.ENDING} file",
    )


def lacking(source: str, tokenizer: Tokenizer) -> list[str]:
    """What looks like a control token in a template and is none of the tokenizer's, each once, in order."""
    known = {token["content"] for token in tokenizer.spec["added_tokens"]}
    return [name for name in dict.fromkeys(_LIKE_CONTROL.findall(source)) if name not in known]
