"""What a model knew before it was tuned, and what of that it has lost: probes, measured before and after.

Catastrophic forgetting: McCloskey and Cohen 1989; of language models, Luo et al. 2023 (arXiv 2308.08747).
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idiolect.data.batch import IGNORE, Batch, bits_per_byte
from idiolect.data.padding import pad
from idiolect.data.shards import Shards, encode
from idiolect.decode.choices import choices
from idiolect.decode.translate import start_id
from idiolect.errors import UserError
from idiolect.evaluate.score import lossy, summed
from idiolect.evaluate.verbs import evaluate_masks, evaluate_shards
from idiolect.models.contract import LanguageModel, SequenceToSequence
from idiolect.models.encoder import Encoder
from idiolect.prompt.few_shot import LABELS
from idiolect.text.corpus import Corpus
from idiolect.text.document import Document
from idiolect.text.examples import Examples
from idiolect.text.read import kind_of
from idiolect.tokens.tokenizer import Tokenizer
from idiolect.train import objectives

PROSE = Path(__file__).with_name("prose.txt")
TOPICS, TOPIC = 24, 400
"""Topics of the language reference, evenly spread, and the characters read of each."""
MODULES, MODULE = ("bisect", "textwrap", "shlex", "sched", "fractions"), 2000
"""Modules of the standard library, and the characters read of each one's source."""
SOURCE, TARGET = 96, 32
"""Tokens that a sequence-to-sequence model reads of a text, and that it is then to go on with."""
EXAMPLES = 200
"""Labelled examples that are measured, the first ones."""
LABELLED = (".jsonl", ".parquet", ".csv", ".tsv")


@dataclass(frozen=True)
class Texts:
    """A few texts as a corpus."""

    texts: tuple[str, ...]

    def __iter__(self) -> Iterator[Document]:
        return (Document(text, str(i), "") for i, text in enumerate(self.texts))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the texts."""
        return hashlib.sha256("\0".join(self.texts).encode("utf-8")).hexdigest()


Probe = Texts | Corpus | tuple[tuple[str, str], ...]
"""Texts, or examples: a text and its label each."""


def own() -> dict[str, Probe]:
    """The probes that ship: prose of our own; of this Python, reference topics and the source of a few modules."""
    from pydoc_data.topics import topics

    names = sorted(topics)[:: max(1, len(topics) // TOPICS)][:TOPICS]
    sources = [Path(str(spec.origin)) for name in MODULES if (spec := importlib.util.find_spec(name))]
    return {
        "prose": Texts(tuple(PROSE.read_text(encoding="utf-8").split("\n\n"))),
        "reference": Texts(tuple(topics[name].strip()[:TOPIC] for name in names)),
        "code": Texts(tuple(path.read_text(encoding="utf-8")[:MODULE] for path in sources)),
    }


def given(path: Path) -> Probe:
    """The probe in a file or folder of the user's: examples where its rows have text and label, else text."""
    if kind_of(path, LABELLED):
        try:
            rows = list(Examples((path,), ("text", "label")))
        except UserError:  # no such fields: it is text, of which `Corpus` says what is wrong
            rows = []
        if rows:
            return tuple((row["text"], row["label"]) for row in rows[:EXAMPLES])
    return Corpus([path])


@dataclass(frozen=True)
class Figure:
    """One measurement of one probe."""

    measure: str
    """ "bits per byte", "nats a token" (where the tokenizer loses part of a text), or "accuracy"."""
    value: float

    @property
    def rises(self) -> bool:
        """Whether more is better."""
        return self.measure == "accuracy"


def measure(model: Any, tokenizer: Tokenizer, probe: Probe, tokens: int) -> Figure:
    """The probe's figure, over its first `tokens` tokens.

    Text: bits per byte of a model that gives it a probability; of an encoder, the accuracy under masks, always the
    same; of a sequence-to-sequence model, bits per byte of TARGET tokens given the SOURCE before them. Examples: the
    share whose label's name is found the likeliest of all there are. Raises UserError for a model with none of these.
    """
    if isinstance(probe, tuple):
        return Figure("accuracy", _named_right(model, tokenizer, probe))
    shards = encode(probe, tokenizer)
    if isinstance(model, Encoder):
        if tokenizer.mask_id is None or model.settings.head == "none":
            raise UserError("it has no mask to hide tokens under, or nothing to fill them in with", "nothing to mend")
        return Figure("accuracy", evaluate_masks(model, tokenizer, shards, limit_tokens=tokens).accuracy)
    if isinstance(model, SequenceToSequence):
        return _continued(model, tokenizer, shards, tokens)
    if not _speaks(model):
        raise UserError("it gives a text no probability and fills nothing in", "nothing to mend")
    found = evaluate_shards(model, tokenizer, shards, limit_tokens=tokens)
    if found.bits_per_byte is None:
        return Figure("nats a token", found.loss)
    return Figure("bits per byte", found.bits_per_byte)


def _speaks(model: Any) -> bool:
    """Whether it gives texts a probability."""
    return isinstance(model, LanguageModel) and not str(getattr(model, "refusal", ""))


def _named_right(model: Any, tokenizer: Tokenizer, examples: Sequence[tuple[str, str]]) -> float:
    labels = sorted({label for _, label in examples})
    if not _speaks(model):
        raise UserError("it gives the names of labels no probability", "nothing to mend")
    asked = [LABELS.sides(text) for text, _ in examples]
    found = [max(range(len(labels)), key=lambda i: row[i].logprob) for row in choices(model, tokenizer, asked, labels)]
    return sum(labels[guess] == label for guess, (_, label) in zip(found, examples, strict=True)) / len(examples)


def _continued(model: Any, tokenizer: Tokenizer, shards: Shards, tokens: int) -> Figure:
    settings, widths = model.settings, tokenizer.token_bytes()
    if getattr(settings, "source_features", None) is not None:
        raise UserError("it reads frames, not text", "nothing to mend")
    source, target = min(SOURCE, settings.longest_source or SOURCE), min(TARGET, model.context or TARGET)
    ids = np.asarray(shards.ids[0 : min(tokens, shards.tokens)]).astype(np.int64)
    begin, rows = start_id(settings, tokenizer), []
    for start in range(0, len(ids) - source, source + target):
        rows.append((ids[start : start + source], ids[start + source : start + source + target]))
    if not rows:
        raise UserError(f"it has fewer than {source + 1} tokens, of which {source} are read first", "give more text")
    asked, lengths = pad([row[0] for row in rows], tokenizer.pad_id)
    read, _ = pad([np.append(begin, row[1][:-1]) for row in rows], tokenizer.pad_id)
    labels, _ = pad([row[1] for row in rows], IGNORE)
    batch = Batch(read, labels, source=asked, source_lengths=lengths)
    nats, count = summed(model, [batch], objectives.translate)
    if widths is None or lossy(tokenizer):
        return Figure("nats a token", nats / count)
    return Figure("bits per byte", bits_per_byte(nats, int(widths[np.concatenate([row[1] for row in rows])].sum())))


@dataclass(frozen=True)
class Entry:
    """A probe before and after."""

    probe: str
    measure: str
    before: float
    after: float
    worse: float
    """How much worse: the share by which bits or nats grew, or by how much the accuracy fell; below 0, it is better."""
    forgotten: bool
    """Whether that is more than the tolerance."""


def ledger(before: Mapping[str, Figure], after: Mapping[str, Figure], tolerance: float) -> list[Entry]:
    """The probes of both measurements, the worst first."""
    entries = []
    for name in before.keys() & after.keys():
        was, now = before[name], after[name]
        worse = was.value - now.value if was.rises else now.value / was.value - 1 if was.value else 0.0
        entries.append(Entry(name, was.measure, was.value, now.value, worse, worse > tolerance))
    return sorted(entries, key=lambda entry: (-entry.worse, entry.probe))
