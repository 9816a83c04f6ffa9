"""The verbs `generate`, `translate` and `explore` on a model folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from idiolect.data import frames
from idiolect.decode import attention as looking
from idiolect.decode import explore as explorer
from idiolect.decode import picture
from idiolect.decode.generate import Completion, Piece, complete, stream
from idiolect.decode.settings import AnswerSettings, DecodeSettings, Precision
from idiolect.decode.translate import alignments, source_ids
from idiolect.decode.translate import translate as answer
from idiolect.errors import UserError
from idiolect.interop.folder import Loaded, find, load, with_adapter
from idiolect.models.contract import LanguageModel, SequenceToSequence
from idiolect.text.stream import decoded, lines

PLAIN = DecodeSettings()
GREEDY = AnswerSettings()
WITHOUT = "use a model that reads from left to right, such as one trained by the recipes gpt, lstm or ngram"
ANSWERS = "use a model that answers a text, such as one trained by the recipes seq2seq or translate"
DTYPES = {"stored": None, "fp32": torch.float32, "bf16": torch.bfloat16}


def load_with_tokenizer(
    model: Path | str, precision: Precision = "stored", adapter: Path | str | None = None
) -> Loaded:
    """The model of a model or run folder. Raises UserError when it has no tokenizer to read and write text with.

    Also for another precision than the stored one of a model that has none. `adapter`: an adapter folder, or a run's,
    of what is added to the model.
    """
    path = find(Path(model))
    loaded = load(path, dtype=DTYPES[precision])
    if adapter is not None:
        loaded = with_adapter(loaded, path, find(Path(adapter)))
    if precision != "stored" and loaded.settings.kind == "ngram":
        raise UserError(f"{model} is an n-gram model, which has counts and no precision", "leave precision out")
    if loaded.tokenizer is None:
        raise UserError(f"{model} has no tokenizer", "put its tokenizer.json beside the model")
    return loaded


def language_model(loaded: Loaded, name: Path | str) -> LanguageModel:
    """The model, as one that continues texts. Raises UserError, saying why, for one that cannot."""
    model = loaded.model
    if isinstance(model, SequenceToSequence):
        what = f"{name} is a {loaded.settings.kind} model: it answers a text and cannot continue one"
        raise UserError(what, f"use it by `idiolect translate {name} TEXT`")
    refusal = getattr(model, "refusal", "")
    if refusal or not isinstance(model, LanguageModel):
        raise UserError(
            f"{name} is of the family {loaded.settings.kind} and cannot continue a text: it {refusal}", WITHOUT
        )
    return model


def reader(loaded: Loaded, name: Path | str) -> LanguageModel:
    """The model, as one that gives texts a probability, after a source or not. Raises UserError as `language_model`."""
    return loaded.model if isinstance(loaded.model, SequenceToSequence) else language_model(loaded, name)


def generate(
    model: Path | str,
    prompt: str = "",
    settings: DecodeSettings = PLAIN,
    *,
    count: int = 1,
    streaming: bool = False,
    precision: Precision = "stored",
    adapter: Path | str | None = None,
) -> dict[str, Any] | Iterator[Piece]:
    """Continues a prompt `count` times: "text", "ids", "logprobs", "finish_reason" of the first, "completions" of all.

    With `streaming`, an iterator over the pieces of one continuation after the other instead.
    """
    if count < 1:
        raise UserError(f"cannot write {count} continuations", "ask for at least 1")
    loaded = load_with_tokenizer(model, precision, adapter)
    writing = language_model(loaded, model)
    if streaming:
        return (
            piece for request in range(count) for piece in stream(writing, loaded.tokenizer, prompt, settings, request)
        )
    found = [asdict(c) for c in complete(writing, loaded.tokenizer, [prompt] * count, settings)]
    return found[0] if count == 1 else {**found[0], "completions": found}


def translate(
    model: Path | str,
    text: str | Sequence[str],
    settings: DecodeSettings = GREEDY,
    *,
    file: bool = False,
    attention: bool = False,
    precision: Precision = "stored",
    adapter: Path | str | None = None,
) -> dict[str, Any]:
    """What a sequence-to-sequence model answers a text: "text", "ids", "logprobs" and "finish_reason".

    Of several texts, or the lines of a `file` that `text` names: "text", a line each, and "translations" with the same
    of each. With `attention` each has that, too: "source" and "target" (tokens) and "weights", for each target token
    what was read of each source token, the mean over layers and heads. Nothing but white space is answered by nothing.
    A model that reads frames takes a jsonl `file` of them (`data.frames`), whose tokens are their numbers from 0.
    """
    loaded = load_with_tokenizer(model, precision, adapter)
    answering, tokenizer = loaded.model, loaded.tokenizer
    if not isinstance(answering, SequenceToSequence):
        raise UserError(f"{model} is a {loaded.settings.kind} model and answers no text", ANSWERS)
    assert tokenizer is not None
    width = getattr(getattr(loaded.settings, "encoder", None) or loaded.settings, "source_features", None)
    if width is not None:
        sources = _frames(model, text, file, width, loaded.settings.longest_source)  # type: ignore[attr-defined]
        count = len(sources)
    else:
        if file:
            path = Path(str(text))
            text = [line.rstrip("\r\n") for line in lines(decoded(path), path)]
        texts = [text] if isinstance(text, str) else text
        sources = {i: source_ids(answering, tokenizer, one) for i, one in enumerate(texts) if one.strip()}
        count = len(texts)
    answers = dict(zip(sources, answer(answering, tokenizer, list(sources.values()), settings), strict=True))
    found = [asdict(answers.get(i, Completion("", (), (), "stop"))) for i in range(count)]
    for i, source in sources.items() if attention else ():
        ids = found[i]["ids"]
        found[i]["attention"] = {
            "source": tokenizer.pieces(source.tolist()) if width is None else [str(s) for s in range(len(source))],
            "target": tokenizer.pieces(ids),
            "weights": alignments(answering, tokenizer, source, ids).mean((0, 1)).tolist(),
        }
    if isinstance(text, str) and not file:
        return found[0]
    return {"text": "\n".join(one["text"] for one in found), "translations": found}


def _frames(model: Path | str, name: Any, file: bool, width: int, most: int | None) -> dict[int, torch.Tensor]:
    """The frames of each row of a jsonl file, float32 [S, F]. Raises UserError for a text, and for another width."""
    if not file:
        raise UserError(f"{model} reads frames, not text", "name a jsonl file of them, with --file")
    found = {i: torch.from_numpy(source) for i, (source, _) in enumerate(frames.read([name], frames.FIELD))}
    if found and found[0].shape[1] != width:
        raise UserError(f"{name} has frames of {found[0].shape[1]} numbers, and {model} reads {width}", "give its own")
    longest = max(map(len, found.values()), default=0)
    if most is not None and longest > most:
        raise UserError(f"{name} has {longest} frames in a row, and {model} reads at most {most}", "cut them up")
    return found


def explore(
    model: Path | str,
    prompt: str = "",
    settings: DecodeSettings | None = None,
    *,
    candidates: Sequence[str] = (),
    html: Path | None = None,
    attention: Path | None = None,
    target: str | None = None,
    precision: Precision = "stored",
    adapter: Path | str | None = None,
) -> dict[str, Any]:
    """Strategies side by side, `settings` among them, and the next-token distribution before and after reshaping.

    Returns the `Exploration` and the ranking of the candidates as plain values, and "text" to read; writes the page
    to `html` when asked.

    With `attention`, a .png or .html file, what the model looked at instead: a heat map of each head's weights over
    the prompt or, of a sequence-to-sequence model, over the prompt and `target` (unset: what it answers, greedily
    unless `settings` say otherwise). Returns the "target", "maps" with "name", "rows" and "columns" (tokens) and
    "weights", and "text".
    """
    loaded = load_with_tokenizer(model, precision, adapter)
    if attention is not None:
        if candidates or html:
            raise UserError(
                "candidates and html have no effect beside attention", "explore them in a call of their own"
            )
        seen = looking.look(loaded.model, loaded.tokenizer, prompt, target, settings or GREEDY)
        looking.write(seen, attention)
        written = f"{len(seen.maps)} heat maps" if len(seen.maps) > 1 else "one heat map"
        answered = "" if seen.target is None else f"{seen.target}\n"
        return {**asdict(seen), "attention": str(attention), "text": f"{answered}{written}: {attention}"}
    if target is not None:
        raise UserError("a target has no effect without attention", "name the file to draw: --attention out.html")
    writing = language_model(loaded, model)
    found = explorer.explore(writing, loaded.tokenizer, prompt, explorer.strategies(settings or PLAIN))
    ranking = explorer.candidates(writing, loaded.tokenizer, prompt, candidates) if candidates else []
    if html is not None:
        picture.page(found, ranking).write(html)
    return {
        "prompt": prompt,
        "strategies": {name: asdict(outcome) for name, outcome in found.outcomes.items()},
        "candidates": [asdict(candidate) for candidate in ranking],
        "text": picture.lines(found, ranking),
    }
