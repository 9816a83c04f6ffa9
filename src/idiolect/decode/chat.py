"""The verb `chat`: a conversation with a model that has learnt to answer, turn after turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from idiolect.decode.generate import Completion, Piece, going_on, joined, stream
from idiolect.decode.read import prompt_ids, read, read_prompts, room
from idiolect.decode.settings import ChatSettings, Precision
from idiolect.decode.verbs import language_model, load_with_tokenizer
from idiolect.errors import UserError
from idiolect.models.contract import LanguageModel
from idiolect.tokens.chat import ASSISTANT, SYSTEM, USER, Chat, of

PLAIN = ChatSettings()
ROOM = 4
"""An answer has a quarter of the context, or what it asks for if that is less; older turns are forgotten for it."""

SPARE = 4
"""Answers of the largest length that a state is given room for before the conversation is read anew."""


@dataclass(frozen=True)
class Known:
    """What a state has read."""

    state: Any
    ids: list[int]
    length: int
    """Tokens that it has room for."""

    def goes_on(self, ids: list[int], more: int) -> bool:
        """Whether it has read the beginning of these ids, not all of them, and has room for them and `more`."""
        read_ = len(self.ids)
        return read_ < len(ids) and ids[:read_] == self.ids and len(ids) + more - 1 <= self.length


class Conversation:
    """What was said so far, and who answers."""

    def __init__(self, model: LanguageModel, chat: Chat, settings: ChatSettings, system: str | None = None) -> None:
        self.model, self.chat = model, chat
        ends = tuple(dict.fromkeys((*settings.stop_tokens, *chat.stops)))
        self.settings = settings.model_copy(update={"stop_tokens": ends})
        self._system = [{"role": SYSTEM, "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        """Forgets all that was said."""
        self.messages: list[dict[str, str]] = [*self._system]
        """What was said, the system message included."""
        self._known: Known | None = None
        self.forgotten = 0
        """Messages at the beginning that no longer fit and are not read."""

    def answer(self, message: str) -> Iterator[Piece]:
        """What the model answers, piece by piece; both are then part of the conversation.

        An answer that is not heard to its end is remembered as far as it was. Raises UserError for a message that is
        too long for the model, which is then not part of it.
        """
        turn = sum(said["role"] == USER for said in self.messages)
        ids = self._read([*self.messages, {"role": USER, "content": message}])
        self.messages.append({"role": USER, "content": message})
        parts: list[str] = []
        try:
            for piece in self._written(ids, turn):
                parts.append(piece.text)
                yield piece
        finally:
            self.messages.append({"role": ASSISTANT, "content": "".join(parts)})

    def _written(self, ids: list[int], turn: int) -> Iterator[Piece]:
        """The answer to a prompt of ids; what of it the state has read already, is not read again."""
        model, settings, tokenizer = self.model, self.settings, self.chat.tokenizer
        if settings.beams > 1:
            yield from stream(model, tokenizer, ids, settings, turn)
            return
        ids, known, self._known = prompt_ids(model, tokenizer, ids, settings), self._known, None
        if known is not None and known.goes_on(ids, room(model, ids, settings)):
            state, length = known.state, known.length
            logits, state = read(model, torch.tensor([ids[len(known.ids) :]]), state)
        else:
            spare = SPARE * settings.max_tokens
            logits, state = read_prompts(model, [ids], spare)
            length = len(ids) + spare
        written: list[int] = []
        going = going_on(model, tokenizer, [ids], settings, [turn], logits, state)
        while True:
            try:
                _, piece = next(going)
            except StopIteration as ended:
                if written:
                    self._known = Known(ended.value, [*ids, *written[:-1]], length)
                return
            written += piece.ids
            yield piece

    def _read(self, messages: list[dict[str, str]]) -> list[int]:
        """The ids up to the answer, without the oldest turns where they leave it no room."""
        context, first = self.model.context, len(self._system)
        starts = [i for i in range(first, len(messages)) if messages[i]["role"] == USER]
        for start in starts:
            ids = self.chat.render([*messages[:first], *messages[start:]], reply=True).ids.tolist()
            least = 1 if start == starts[-1] else min(self.settings.max_tokens, (context or 0) // ROOM)
            if context is None or len(ids) + least - 1 <= context:
                self.forgotten = start - first
                return ids
        raise UserError(
            f"the message has {len(ids)} tokens with what stands around it, the model reads at most {context}",
            "shorten it",
        )


def chat(
    model: Path | str,
    message: str | None = None,
    settings: ChatSettings = PLAIN,
    *,
    system: str | None = None,
    template: str | None = None,
    precision: Precision = "stored",
) -> dict[str, Any] | Conversation:
    """What a model answers a message: "text", "ids", "logprobs", "finish_reason" and the "messages" so far.

    Without a message, the `Conversation`, to be gone on with. `template` names the chat template (see `tokens.chat.of`)
    where it is not to be the model's own. Raises UserError for a model that has none.
    """
    loaded = load_with_tokenizer(model, precision)
    writing = language_model(loaded, model)
    assert loaded.tokenizer is not None
    conversation = Conversation(writing, of(loaded.tokenizer, template), settings, system)
    if message is None:
        return conversation
    found: Completion = joined(list(conversation.answer(message)))
    return {**vars(found), "messages": conversation.messages}
