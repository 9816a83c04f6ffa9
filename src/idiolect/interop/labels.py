"""The Hugging Face classes that give labels, of texts and of words, on a body of BERT's kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from idiolect.adapt.settings import LabelledSettings
from idiolect.interop.encoders import ENCODERS
from idiolect.interop.rows import Config, Family
from idiolect.models.settings import EncoderSettings, FamilySettings

Each = Literal["text", "word"]
Hidden = Literal["none", "tanh", "relu"]
HIDDEN: dict[str, Hidden] = {"bert": "tanh", "roberta": "tanh", "xlm-roberta": "tanh", "distilbert": "relu"}
"""The layer that a text's labels are read through, by its activation."""
READS_TOKENS = ("head", "transform.dense", "transform.norm", "base.pooler")
"""Names of a body's row that a model of labels has no use for."""


def hidden_of(base: FamilySettings) -> Hidden:
    """The layer between a body and the label of a text, read at its first position, that is usual for its family."""
    if not isinstance(base, EncoderSettings):
        return "none"
    return next((HIDDEN[name] for name, row in ENCODERS.items() if row.fits(base)), "tanh")


def _row(model_type: str, each: Each, architecture: str, head: Mapping[str, str]) -> Family:
    """The row of a class that gives labels, made from its body's; `head` has the names of the head's layers."""
    body, hidden = ENCODERS[model_type], HIDDEN[model_type] if "dense" in head else "none"
    dropout = "seq_classif_dropout" if hidden == "relu" else "classifier_dropout"

    def fits(s: LabelledSettings) -> bool:
        wired = (s.each, s.pool, s.hidden) == (each, "first", hidden)
        return wired and isinstance(s.base, EncoderSettings) and body.fits(s.base)

    def write(s: LabelledSettings) -> Config:
        numbers = {name: number for number, name in enumerate(s.labels)}
        names = {str(number): name for name, number in numbers.items()}
        return body.write(s.base) | {"id2label": names, "label2id": numbers, dropout: s.dropout}

    def read(c: Config) -> Config:
        names = c.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # as nothing is written of these
        base = {key: value for key, value in body.read(c).items() if value is not None}
        unset = 0.2 if hidden == "relu" else base["dropout"]
        return {
            "base": {"kind": "encoder", **base},
            "labels": [names[str(number)] for number in range(len(names))],
            "each": each,
            "hidden": hidden,
            "dropout": unset if c.get(dropout) is None else c[dropout],
        }

    prefix = body.names["embedding"].partition(".")[0] + "."
    names = {f"base.{name}" if theirs.startswith(prefix) else name: theirs for name, theirs in body.names.items()}
    return Family(
        LabelledSettings,
        architecture,
        fits,
        write,
        read,
        {**body.fixed, "problem_type": (None, "single_label_classification")},
        {name: theirs for name, theirs in names.items() if name not in READS_TOKENS} | dict(head),
        canonical=lambda name: name if name.startswith(("classifier.", "pre_classifier.")) else body.canonical(name),
        model_type=model_type,
    )


TEXT = {
    "bert": {"dense": "bert.pooler.dense", "head": "classifier"},
    "roberta": {"dense": "classifier.dense", "head": "classifier.out_proj"},
    "xlm-roberta": {"dense": "classifier.dense", "head": "classifier.out_proj"},
    "distilbert": {"dense": "pre_classifier", "head": "classifier"},
}
"""The names of a text's head."""
CLASSES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "distilbert": "DistilBert"}
"""How the names of the classes begin."""

LABELLED: dict[str, Family] = {
    **{
        f"{name}ForSequenceClassification": _row(t, "text", f"{name}ForSequenceClassification", TEXT[t])
        for t, name in CLASSES.items()
    },
    **{
        f"{name}ForTokenClassification": _row(t, "word", f"{name}ForTokenClassification", {"head": "classifier"})
        for t, name in CLASSES.items()
    },
}
"""By architecture, as they share their model types with the models that fill in."""
