"""The verbs `score` and `evaluate` on model folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from idiolect.data.batches import held_out
from idiolect.data.masking import held_out_masks, masking
from idiolect.data.settings import MaskedTask
from idiolect.data.shards import Shards, encode
from idiolect.decode.fill import filler
from idiolect.decode.settings import Precision
from idiolect.decode.verbs import language_model, load_with_tokenizer
from idiolect.errors import UserError
from idiolect.evaluate import baselines, table
from idiolect.evaluate import score as scorer
from idiolect.evaluate.masked import NO_PROBABILITY, Filled, fill_in
from idiolect.evaluate.settings import TaskEvaluation
from idiolect.evaluate.tasks import evaluate_task
from idiolect.models.contract import LanguageModel
from idiolect.models.encoder import Encoder
from idiolect.text.corpus import Corpus
from idiolect.tokens.tokenizer import Tokenizer

OF_TEXT = TaskEvaluation()


def score(
    model: Path | str,
    text: str,
    *,
    stride: int | None = None,
    precision: Precision = "stored",
    adapter: Path | str | None = None,
) -> dict[str, Any]:
    """The fields of `Score` for one text: "logprob", "ids", "tokens", "first_scored", "bits_per_byte" and others."""
    loaded = load_with_tokenizer(model, precision, adapter)
    assert loaded.tokenizer is not None
    return scorer.score_text(language_model(loaded, model), loaded.tokenizer, text, stride=stride).json()


def evaluate(
    models: Sequence[Path | str],
    on: Path | str,
    *,
    document: Literal["file", "paragraph", "line"] = "file",
    field: str = "text",
    task: TaskEvaluation = OF_TEXT,
    precision: Precision = "stored",
) -> dict[str, Any]:
    """Scores models on a text, beside uniform, unigram and gzip: {"rows", "notes"} as `table.compare` gives them.

    With a `task`, on its examples instead: see `tasks.evaluate_task`.
    Of a single model also "bits_per_byte", "perplexity", "tokens", "bytes" and "metrics". A model that fills in has
    none of the first two, and its row says why; its accuracy is among the metrics. Raises UserError for a single model
    whose scores are no probabilities; among several, its row says so.
    """
    if not models:
        raise UserError("there is no model to evaluate", "name one or more model folders")
    if task.task is not None:
        return evaluate_task(models, on, task, precision)
    corpus = Corpus([on], document, field)
    text = corpus.fingerprint
    rows: list[table.Row] = []
    tokenizers: dict[str, tuple[Tokenizer, Shards]] = {}
    result: dict[str, Any] = {}
    for name in models:
        loaded = load_with_tokenizer(name, precision)
        tokenizer = loaded.tokenizer
        assert tokenizer is not None
        if tokenizer.fingerprint not in tokenizers:
            tokenizers[tokenizer.fingerprint] = tokenizer, encode(corpus, tokenizer)
        row = table.Row(str(name), loaded.settings.kind, text, tokenizer.fingerprint)
        if isinstance(loaded.model, Encoder):
            found = evaluate_masks(*filler(loaded, name), tokenizers[tokenizer.fingerprint][1])
            rows.append(replace(row, reason=f"{NO_PROBABILITY}; of hidden tokens {found.accuracy:.1%} are right"))
            result = found.json()
            continue
        model = language_model(loaded, name)
        refused = scorer.unnormalised(model, "perplexity and bits_per_byte")
        if refused and len(models) > 1:
            rows.append(replace(row, reason=refused))
            continue
        scored = evaluate_shards(model, tokenizer, tokenizers[tokenizer.fingerprint][1])
        rows.append(table.Row.of(row.name, row.family, text, tokenizer.fingerprint, scored))
        result = scored.json()
    for tokenizer, shards in tokenizers.values():
        rows += guesses(tokenizer, shards, text, named=len(tokenizers) > 1)
    rows.append(compressed(corpus, text))
    if len(models) == 1:
        keys = ("bits_per_byte", "perplexity", "tokens", "bytes")
        metrics: dict[str, Any] = {key: result[key] for key in ("loss", "accuracy") if key in result}
        metrics |= {row.name: row.bits_per_byte for row in rows if row.baseline}
        return {key: result.get(key) for key in keys} | {"metrics": metrics} | table.compare(rows)
    return table.compare(rows)


def evaluate_masks(model: Encoder, tokenizer: Tokenizer, shards: Shards, *, limit_tokens: int | None = None) -> Filled:
    """Every document of `shards` (or the first `limit_tokens` of them), with always the same tokens hidden."""
    how, context = masking(tokenizer, MaskedTask().share, MaskedTask().whole_words), model.settings.context
    marks = {"begin_id": tokenizer.begin_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
    rows = max(1, scorer.ROWS // context)
    held = held_out(shards, context=context, rows=rows, limit_tokens=limit_tokens, **marks)
    return fill_in(model, held_out_masks(held, how), how.mask_id)


def evaluate_shards(
    model: LanguageModel, tokenizer: Tokenizer, shards: Shards, *, limit_tokens: int | None = None
) -> scorer.Evaluation:
    """Every document of `shards` (or the first `limit_tokens` of them), each with its end-of-text.

    They are read in the model's own windows. Raises UserError as `score.evaluate` does.
    """
    context, stride = scorer.window_of(model)
    held = held_out(
        shards,
        context=context,
        stride=stride,
        rows=max(1, scorer.ROWS // context),
        begin_id=tokenizer.begin_id,
        end_id=tokenizer.end_id,
        pad_id=tokenizer.pad_id,
        limit_tokens=limit_tokens,
    )
    return scorer.evaluate(model, tokenizer, held, bytes_=held.bytes(tokenizer.token_bytes()))


def guesses(
    tokenizer: Tokenizer, held: Shards, text: str, *, train: Sequence[Shards] = (), named: bool = False
) -> list[table.Row]:
    """The rows of the uniform and the unigram guess; `named` after their tokenizer where a table has several."""
    of = f" of {tokenizer.kind}" if named else ""
    found = {"uniform": baselines.uniform(held, tokenizer), "unigram": baselines.unigram(held, tokenizer, *train)}
    return [
        table.Row.of(name + of, name, text, tokenizer.fingerprint, evaluation, baseline=True)
        for name, evaluation in found.items()
    ]


def compressed(corpus: Corpus, text: str) -> table.Row:
    """The row of gzip."""
    bits = baselines.gzip(document.text for document in corpus)
    return table.Row("gzip -9", "gzip", text, bits_per_byte=bits, baseline=True)
