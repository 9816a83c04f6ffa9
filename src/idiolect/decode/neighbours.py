"""The verb `neighbours`: which words have vectors like those of given words, and analogies between words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idiolect.adapt import lora
from idiolect.decode.verbs import load_with_tokenizer
from idiolect.errors import UserError, nearest
from idiolect.tokens.tokenizer import Tokenizer


def neighbours(
    model: Path | str,
    words: Sequence[str],
    *,
    plus: Sequence[str] = (),
    minus: Sequence[str] = (),
    top: int = 10,
) -> dict[str, Any]:
    """The `top` words nearest to each word, or to their sum with `plus` and without `minus`: {"rows", "notes"}.

    king - man + woman: the words w with the greatest cos(w, king - man + woman), the given ones left out, every vector
    of length 1 (3CosAdd: Levy and Goldberg 2014, "Linguistic Regularities in Sparse and Explicit Word
    Representations"). The vectors are those that the model reads words with, so a word has one, whatever it means.
    Raises UserError for a model without them, and for a word that is not one token.
    """
    if not words:
        raise UserError("there is no word to look for", "name one or more words")
    if top < 1:
        raise UserError(f"cannot show {top} words", "ask for at least 1")
    loaded = load_with_tokenizer(model)
    tokenizer = loaded.tokenizer
    assert tokenizer is not None
    if isinstance(loaded.model, nn.Module):
        lora.fold(loaded.model)
    embedding = getattr(loaded.model, "embedding", None)
    if not isinstance(embedding, nn.Embedding):
        what = f"{model} is a {loaded.settings.kind} model, which has no vectors of words"
        raise UserError(what, "use one with an embedding, such as those of the recipes cbow, lstm or gpt")
    vectors = unit(embedding.weight)
    if plus or minus:
        given = [(1, word) for word in (*words, *plus)] + [(-1, word) for word in minus]
        name = " ".join(f"{'+' if sign > 0 else '-'} {word}" for sign, word in given).removeprefix("+ ")
        queries = {name: {id_of(tokenizer, word): float(sign) for sign, word in given}}
    else:
        queries = {word: {id_of(tokenizer, word): 1.0} for word in words}
    rows = [
        {"query": name, "word": piece.strip(), "similarity": similarity}
        for name, query in queries.items()
        for piece, similarity in most_similar(vectors, tokenizer, query, top)
    ]
    return {"rows": rows, "notes": []}


def unit(vectors: Tensor) -> Tensor:
    """Vectors [V, D] brought to length 1 in float32; one of length 0 stays."""
    return F.normalize(vectors.detach().float(), dim=1)


def most_similar(
    vectors: Tensor, tokenizer: Tokenizer, query: Mapping[int, float], top: int
) -> list[tuple[str, float]]:
    """The pieces nearest to a weighted sum of pieces (id → weight), by cosine, those themselves left out.

    vectors [V, D] of length 1. Ties go to the lower id.
    """
    V = min(len(vectors), tokenizer.size)
    ids = list(query)
    weights = torch.tensor(list(query.values()))
    similarity = vectors[:V] @ F.normalize(weights @ vectors[ids], dim=0)
    similarity[~torch.from_numpy(np.array(tokenizer.content[:V]))] = -torch.inf
    similarity[ids] = -torch.inf
    order = similarity.argsort(descending=True, stable=True)[:top].tolist()
    order = [id_ for id_ in order if similarity[id_] > -torch.inf]
    return list(zip(tokenizer.pieces(order), similarity[order].tolist()))


def id_of(tokenizer: Tokenizer, word: str) -> int:
    """The token of a word, as it stands after a space where the tokenizer makes a difference.

    Raises UserError, with the nearest spelling, for a word that is no token or several.
    """
    found = [tokenizer.encode(form) for form in (f" {word}", word)]
    for ids in found:
        if len(ids) == 1 and tokenizer.content[ids[0]]:
            return ids[0]
    known = [piece.strip() for piece in tokenizer.pieces(np.flatnonzero(tokenizer.content))]
    near = nearest(word, known)
    if len(found[0]) > 1:
        pieces = " ".join(tokenizer.pieces(found[0]))
        raise UserError(f"{word!r} is several tokens to this model: {pieces}{near}", "choose a word that is one token")
    raise UserError(f"{word!r} is not in the vocabulary{near}", "choose a word of the text the model was trained on")
