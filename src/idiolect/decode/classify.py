"""Labels of texts and of words from a model that has a head for them.

B texts, T positions, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idiolect.adapt.heads import Labelled, frame
from idiolect.data.labels import encode_words, joined
from idiolect.data.padding import pad
from idiolect.decode.read import device_of
from idiolect.errors import UserError
from idiolect.tokens.tokenizer import Tokenizer


def label(model: Labelled, tokenizer: Tokenizer, text: str, other: str | None = None) -> dict[str, Any]:
    """A text's "label" and the "probabilities" of all; of a model that tags words, "tags": a word and its tag each;
    of one that gives a number, to a text or to two, the "value".

    Words are what white space sets apart. Raises UserError for a text that is longer than its context.
    """
    if model.settings.each == "number":
        return {"value": number(model, tokenizer, text, other)}
    if other is not None:
        raise UserError("this model labels one text", "leave the other out")
    if model.settings.each == "word":
        return {"tags": tag_words(model, tokenizer, [text.split()])[0]}
    return label_texts(model, tokenizer, [text])[0]


def number(model: Labelled, tokenizer: Tokenizer, text: str, other: str | None) -> float:
    """The number of a text, or of two. Raises UserError for texts that are longer than the context."""
    around = frame(model.settings.base, tokenizer, model.before)
    ids = tokenizer.encode_batch([text])[0]
    if other is not None:
        ids = joined(ids, tokenizer.encode_batch([other])[0], tokenizer.end_id, None)
    if around.room is not None and len(ids) > around.room:
        raise _too_long(len(ids), around.room)
    rows, lengths = (part.to(device_of(model)) for part in pad([around.of(ids)], 0))
    with torch.no_grad():
        output = float(model.logits(model.body(rows, lengths), lengths)[0, 0])
    return model.settings.mean + model.settings.deviation * output


def label_texts(model: Labelled, tokenizer: Tokenizer, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Each text's "label" and the "probabilities" by name, the likeliest first."""
    around = frame(model.settings.base, tokenizer, model.before)
    encoded = tokenizer.encode_batch(texts)
    for ids in encoded:
        if around.room is not None and len(ids) > around.room:
            raise _too_long(len(ids), around.room)
    probabilities = _probabilities(model, [around.of(ids) for ids in encoded])  # [B, C]
    found = []
    for row in probabilities:
        order = row.argsort(descending=True, stable=True).tolist()
        shares = {model.settings.labels[label]: float(row[label]) for label in order}
        found.append({"label": next(iter(shares)), "probabilities": shares})
    return found


def tag_words(model: Labelled, tokenizer: Tokenizer, sentences: Sequence[Sequence[str]]) -> list[list[dict[str, Any]]]:
    """Each sentence's words with the likeliest "tag" of each and its "probability"."""
    around, last = frame(model.settings.base, tokenizer, model.before), model.settings.pool == "last"
    rows = []
    for words, pieces in zip(sentences, encode_words(sentences, tokenizer), strict=True):
        rows.append(around.of_words(pieces, last=last))
        if len(rows[-1].places) < len(words):
            raise _too_long(sum(map(len, pieces)), around.room)
    probabilities = _probabilities(model, [row.ids for row in rows])  # [B, T, C]
    found = []
    for words, row, shares in zip(sentences, rows, probabilities, strict=True):
        best = shares[row.places].max(-1)
        tags = [model.settings.labels[label] for label in best.indices.tolist()]
        named = zip(words, tags, best.values.tolist(), strict=True)
        found.append([{"word": word, "tag": tag, "probability": share} for word, tag, share in named])
    return found


@torch.no_grad()
def _probabilities(model: Labelled, rows: Sequence[np.ndarray]) -> Tensor:
    """Rows of ids → probabilities in float32, [B, C] of texts or [B, T, C] of tokens."""
    ids, lengths = (part.to(device_of(model)) for part in pad(rows, 0))
    return model.logits(model.body(ids, lengths), lengths).float().softmax(-1).cpu()


def _too_long(tokens: int, room: int | None) -> UserError:
    return UserError(f"the text has {tokens} tokens, the model reads at most {room}", "shorten the text")
