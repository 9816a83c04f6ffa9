"""The verb `tokenizer compare`: vocabulary against length, with the model that each vocabulary costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from idiolect.models.settings import DecoderSettings
from idiolect.plan.parameters import count
from idiolect.text.corpus import Corpus
from idiolect.tokens.compare import compare
from idiolect.tokens.settings import Kind, TokenizerSettings

HELD_OUT = 0.1
"""Share of the text that is measured on when no other text is given."""


def compare_tokenizers(
    text: Sequence[Path | str], *, size: int = 2048, test: Path | str | None = None, width: int = 256
) -> dict[str, Any]:
    """Every kind of tokenizer learnt from the same text, measured on text it has not seen: {"rows", "notes"}.

    `parameters` are those of the `gpt` recipe's decoder at a width, whose embedding grows with the vocabulary.
    Raises UserError for text that cannot be read or is too little for the size.
    """
    corpus = Corpus(text)
    learn, held = corpus.split(HELD_OUT) if test is None else (corpus, Corpus([test]))
    texts = [document.text for document in learn]
    settings = [TokenizerSettings(kind=kind, size=size) for kind in get_args(Kind)]
    model = DecoderSettings(width=width)
    found = compare(texts, "\n".join(d.text for d in held), settings, lambda V: count(model, V).total)
    rows = [{**vars(row), "loses": ", ".join(row.loses) or "nothing"} for row in found]
    return {"rows": rows, "notes": []}
