"""The verb `classify`: by a head for labels, or without one by how likely the model finds each label's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from idiolect.adapt.heads import Labelled
from idiolect.decode import classify as heads
from idiolect.decode.choices import By, Choice, choices, replies, shares
from idiolect.decode.settings import Precision
from idiolect.decode.verbs import load_with_tokenizer, reader
from idiolect.errors import UserError
from idiolect.models.contract import SequenceToSequence
from idiolect.prompt import few_shot
from idiolect.text.examples import Examples
from idiolect.tokens.chat import own


def classify(
    model: Path | str,
    text: str,
    *,
    other: str | None = None,
    labels: Sequence[str] = (),
    template: str = few_shot.LABELS.template,
    by: By = "sum",
    examples: Path | str | None = None,
    fields: tuple[str, str] = ("text", "label"),
    shots: int = 0,
    seed: int = 0,
    precision: Precision = "stored",
) -> dict[str, Any]:
    """A text's "label" and the "probabilities" of all; of a model that tags words, "tags": a word and its tag each;
    of one that gives numbers the "value" of a text, or of it and an `other`.

    Without a head `labels` are compared: each takes the place of {label} in the template, and "logprobs" has log p of
    each given what is before it, "tokens" how many tokens that is of, "prompt_tokens" what was read before. `by` is
    what is compared, and what the probabilities are shares of: "sum" is p(label | text) itself, which a label of more
    tokens makes smaller; "token" and "byte" are means, which do not. `shots` examples of the file `examples` stand
    before the text (see `few_shot`), as turns of a chat where the model has a template for one, and "notes" says when
    they are too many.
    Raises UserError for labels beside a head or a model without either, and for a text longer than the context.
    """
    loaded = load_with_tokenizer(model, precision)
    assert loaded.tokenizer is not None
    if isinstance(loaded.model, Labelled):
        if labels or shots:
            raise UserError(f"{model} has labels of its own", "leave out --labels and --shots")
        return heads.label(loaded.model, loaded.tokenizer, text, other)
    if other is not None:
        raise UserError(f"{model} has no head for numbers", "train one: idiolect train similarity model.from=MODEL")
    if not labels:
        mend = "name labels to compare: --labels good,bad; or train a head: idiolect train classify model.from=MODEL"
        raise UserError(f"{model} is a {loaded.settings.kind} model and has no labels", mend)
    check_labels(labels)
    form, talk = few_shot.Form(template), own(loaded.tokenizer)
    given = shown(examples, fields, shots, seed)
    reading = reader(loaded, model)
    if isinstance(reading, SequenceToSequence):
        talk = None
    asked = few_shot.prompt(form, given, text, loaded.tokenizer, reading.context, talk)
    if talk is None:
        found = choices(reading, loaded.tokenizer, [(asked.before, asked.after)], labels)[0]
    else:
        found = replies(reading, talk, [asked.messages], labels)[0]
    notes = few_shot.warnings(shots, [])
    lengths = {one.tokens for one in found}
    if by == "sum" and len(lengths) > 1:
        notes.append(f"labels are of {min(lengths)} to {max(lengths)} tokens; compare their means: --by token")
    return weighed(labels, found, by) | {"by": by, "prompt_tokens": asked.tokens, "notes": notes}


def check_labels(labels: Sequence[str]) -> None:
    """Raises UserError unless there are two different labels or more, none of them empty."""
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(labels):
        raise UserError(f"labels to compare are {', '.join(labels)}", "name two or more, each once: --labels good,bad")


def shown(examples: Path | str | None, fields: tuple[str, str], shots: int, seed: int) -> list[tuple[str, str]]:
    """The examples that stand before a question."""
    if shots < 0 or (shots and examples is None):
        raise UserError(f"there are no {shots} examples to show", "name the file with them: --examples FILE")
    if not shots:
        return []
    assert examples is not None
    found = [(row[fields[0]], row[fields[1]]) for row in Examples((Path(examples),), fields)]
    return few_shot.draw(found, shots, seed)


def weighed(labels: Sequence[str], found: Sequence[Choice], by: By) -> dict[str, Any]:
    """ "label", "probabilities" (the likeliest first), "logprobs" and "tokens" of answers that are labels."""
    of = dict(zip(labels, shares([one.weight(by) for one in found]), strict=True))
    order = sorted(of, key=of.__getitem__, reverse=True)
    named = dict(zip(labels, found, strict=True))
    return {
        "label": order[0],
        "probabilities": {label: of[label] for label in order},
        "logprobs": {label: named[label].logprob for label in order},
        "tokens": {label: named[label].tokens for label in order},
    }
