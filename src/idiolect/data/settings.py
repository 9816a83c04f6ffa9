"""Settings of the data a model is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from idiolect.config import Settings

Weights = Literal["proportional", "equal", "capped"] | tuple[Annotated[float, Field(gt=0)], ...]
"""How much of each source a run reads."""


class DataSettings(Settings):
    """Which text, how it is cut into documents, and how documents fill the rows of a batch."""

    train: tuple[Path, ...] = Field(min_length=1)
    """Files or folders of text (txt, md, jsonl, parquet; also .gz and .zst)."""
    validation: Path | float = 0.1
    """A file or folder held out, or the share of the training text (its last documents) to hold out."""
    document: Literal["file", "paragraph", "line"] = "file"
    """What one document of a plain text file is; a row of jsonl or parquet is always one document."""
    field: str = "text"
    """The field of a jsonl or parquet row that holds the text."""
    packing: Literal["documents", "stream"] = "documents"
    """documents: several documents share a row without seeing one another; stream: windows of one endless text."""
    weights: Weights | None = None
    """What share of the rows each file or folder of train has: proportional to its examples, equal, capped (no source
    counts for more examples than cap), or a number for each. Unset: all of it is one text, read once an epoch."""
    tokens: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """How many tokens each source of train has, where `plan`, which reads no text, is to tell their epochs."""
    cap: int | None = Field(default=None, ge=1)
    """Examples (rows of a text) that a source counts for at most, with weights = "capped"."""
    replay: tuple[Path, ...] = ()
    """Files or folders of general text of which every batch has a part, so that a tuned model does not forget it."""
    replay_share: float = Field(default=0.2, gt=0, lt=1)
    """The share of the rows that are replayed, where there is something to replay."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.weights == "capped") != (self.cap is not None):
            raise ValueError('cap and weights = "capped" belong together')
        if isinstance(self.weights, tuple) and len(self.weights) != len(self.train):
            raise ValueError(f"weights has {len(self.weights)} numbers for the {len(self.train)} of train")
        if self.tokens and len(self.tokens) != len(self.train):
            raise ValueError(f"tokens has {len(self.tokens)} numbers for the {len(self.train)} of train")
        if self.tokens and self.weights in (None, "capped"):
            raise ValueError("tokens is for sources with weights that are no number of examples")
        return self


class NextTokenTask(Settings):
    """Each token of a text from those before it."""

    kind: Literal["next-token"] = "next-token"
    """The task."""


class AnswersTask(Settings):
    """What tasks have in common whose targets are written."""

    metrics: tuple[Literal["exact_match", "rouge", "bleu", "chrf"], ...] = ("exact_match",)
    """What is measured at the end of the model's own answers to held-out sources, beside their loss; bleu and chrf
    need sacrebleu."""
    answers: int = Field(default=200, ge=0)
    """How many held-out sources, the first ones, it answers for that, greedily."""


class PairsTask(AnswersTask):
    """A target text from a source text: translation, summaries, answers."""

    kind: Literal["pairs"] = "pairs"
    """The task."""
    source: str = "source"
    """The field of a jsonl or parquet row, or the column of a csv or tsv file, that is read; a number counts columns
    from 1 in a file without a header. Or a text with such fields in braces: question: {question} context: {context}."""
    target: str = "target"
    """The field or column that is written."""
    targets: tuple[Path, ...] = ()
    """Plain text files whose line i answers line i of data.train's; unset: source and target are fields of one file."""
    validation_targets: Path | None = None
    """The same for data.validation, where that is a plain text file."""
    prefix: str = ""
    """Text put before every source, which tells a model of many tasks what is asked."""


class SpansTask(Settings):
    """Spans of a text that were left out, from what is around them."""

    kind: Literal["spans"] = "spans"
    """The task."""
    share: float = Field(default=0.15, gt=0, lt=1)
    """Of the tokens, those that are left out."""
    mean_length: float = Field(default=3.0, ge=1)
    """Tokens of a span, on average."""
    sentinels: int = Field(default=100, ge=1)
    """Tokens that each stand for one span of a text; tokenizer.size counts them."""


class MaskedTask(Settings):
    """Hidden tokens of a text from all that is around them."""

    kind: Literal["masked"] = "masked"
    """The task."""
    share: float = Field(default=0.15, gt=0, lt=1)
    """Of the tokens, those to fill in: 80% of them are hidden, 10% replaced by others and 10% left as they are."""
    whole_words: bool = False
    """Choose whole words instead of single tokens."""


class LabelsTask(Settings):
    """The label of a text: sentiment, topic, any class."""

    kind: Literal["labels"] = "labels"
    """The task."""
    text: str = "text"
    """The field of a jsonl or parquet row, or the column of a csv or tsv file, that is read; a number counts columns
    from 1 in a file without a header."""
    label: str = "label"
    """The field or column with the label."""
    pool: Literal["first", "last", "mean"] | None = None
    """Where the label is read: at the first or the last position, or at the mean of all; unset: at the first of an
    encoder, at the mean of the encoder of an encoder-decoder, else at the last."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of activations dropped before the labels while training."""
    freeze_base: bool = False
    """Leave the body's weights as they are, to the bit, and learn the head alone."""


class TagsTask(Settings):
    """A tag for each word of a sentence: names, word classes."""

    kind: Literal["tags"] = "tags"
    """The task."""
    tokens: str = "tokens"
    """The field of a jsonl or parquet row with the list of words; conll files, a word and its tag a line, need none."""
    tags: str = "tags"
    """The field with the list of their tags."""
    pool: Literal["first", "last"] | None = None
    """Which token of a word its tag is read at; unset: the first of an encoder (or an encoder-decoder's), else the
    last."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of activations dropped before the tags while training."""
    freeze_base: bool = False
    """Leave the body's weights as they are, to the bit, and learn the head alone."""


class NumbersTask(Settings):
    """A number for a text, or for two: a grade, a price, how much two sentences mean the same."""

    kind: Literal["numbers"] = "numbers"
    """The task."""
    text: str = "text"
    """The field of a jsonl or parquet row, or the column of a csv or tsv file, that is read; a number counts columns
    from 1 in a file without a header."""
    other: str | None = None
    """The field with a second text, read after the first; unset: there is none."""
    target: str = "score"
    """The field with the number."""
    pool: Literal["first", "last", "mean"] | None = None
    """Where the number is read: as a label is (see the task labels)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of activations dropped before the number while training."""
    freeze_base: bool = False
    """Leave the body's weights as they are, to the bit, and learn the head alone."""


class NeighboursTask(Settings):
    """A word from the words around it, or they from it (see `model.mode`); of a left_only model, from those before."""

    kind: Literal["neighbours"] = "neighbours"
    """The task."""


class FramesTask(AnswersTask):
    """A target text from a source that is no text: words from a spectrum, a caption from the lines of a picture."""

    kind: Literal["frames"] = "frames"
    """The task."""
    frames: str = "frames"
    """The field of a jsonl row with the frames: lists of as many numbers each, or the name of a .npy file beside it."""
    target: str = "text"
    """The field with the text that is written."""


class ChatTask(AnswersTask):
    """The answers of conversations: instructions followed, questions answered, turns of a dialogue."""

    kind: Literal["chat"] = "chat"
    """The task."""
    template: str | None = None
    """How conversations are spelled: instruction, turns or chatml, or a .jinja file; unset: as the model in model.from
    has learnt to, else instruction."""
    train_on: Literal["responses", "all"] = "responses"
    """What is learnt: what the assistant says and where it stops, or every token of the conversation."""
    prompt: str | None = None
    """What is asked, as a text with fields of a row in braces: Summarise: {dialogue}. Unset: the names of the fields
    tell (messages; conversations; instruction, input and output; prompt and response; question and answer)."""
    response: str | None = None
    """What is answered, likewise: {summary}."""
    templates: tuple[str, ...] = ()
    """A set of prompts, of which each example gets one: a name (dialogue-summary), a file, or FILE:TASK; or a set for
    each file or folder of data.train, which are then tasks of their own."""
    system: str | None = None
    """What a system message says before every conversation that has none."""
    metrics: tuple[Literal["exact_match", "rouge", "bleu", "chrf"], ...] = ("rouge",)
    """What is measured at the end of the model's own answers to held-out prompts; bleu and chrf need sacrebleu."""
    answers: int = Field(default=100, ge=0)
    """How many held-out prompts, the first ones, it answers for that, greedily."""
    answer_tokens: int = Field(default=256, ge=1)
    """Tokens after which such an answer is cut off: it has not stopped by itself."""

    @field_validator("templates", mode="before")
    @classmethod
    def _one(cls, templates: Any) -> Any:
        """One name stands for itself."""
        return (templates,) if isinstance(templates, str) else tuple(templates or ())

    @model_validator(mode="after")
    def _check(self) -> ChatTask:
        if (self.prompt is None) != (self.response is None):
            raise ValueError("prompt and response are given together or not at all")
        if self.templates and self.prompt is not None:
            raise ValueError("templates and prompt exclude each other: both say what is asked")
        return self


Task = (
    NextTokenTask
    | SpansTask
    | PairsTask
    | MaskedTask
    | LabelsTask
    | TagsTask
    | NumbersTask
    | NeighboursTask
    | FramesTask
    | ChatTask
)
TaskSettings = Annotated[Task, Field(discriminator="kind")]
