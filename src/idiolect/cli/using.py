"""The verbs that use models: each parses its own options, calls one function of `api`, and prints what came back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from idiolect import api
from idiolect.cli import show
from idiolect.cli.options import Adapter, Flat, Json, KeptIn
from idiolect.decode.settings import AnswerSettings, ChatSettings, DecodeSettings, Pool
from idiolect.errors import UserError
from idiolect.evaluate.settings import TaskEvaluation
from idiolect.interop.settings import Kind

EXPLORED = DecodeSettings(max_tokens=40)
TEMPLATE = "Text: {text}\\nLabel: {label}"


def generate(
    model: Path,
    prompt: str = "",
    /,
    *,
    settings: Annotated[DecodeSettings, Flat] = DecodeSettings(),  # noqa: B008
    count: int = 1,
    precision: KeptIn = "stored",
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Continue a prompt with a model; the text streams to stdout.

    Parameters
    ----------
    model
        A model folder or a run folder.
    prompt
        The text to continue; `-` reads it from standard input; empty starts a document.
    count
        How many continuations.
    """
    prompt = show.text_or_stdin(prompt)
    if json:
        show.json_object(api.generate(model, prompt, settings, count=count, precision=precision, adapter=adapter))
    else:
        pieces = api.generate(
            model, prompt, settings, count=count, precision=precision, adapter=adapter, streaming=True
        )
        show.streamed(prompt, pieces)


def chat(
    model: Path,
    /,
    *,
    message: str | None = None,
    system: str | None = None,
    template: str | None = None,
    settings: Annotated[ChatSettings, Flat] = ChatSettings(),  # noqa: B008
    precision: KeptIn = "stored",
    json: Json = False,
) -> None:
    """Talk with a model that has learnt to answer, turn after turn; /reset forgets all, /quit ends it.

    From a pipe, each line is a turn.

    Parameters
    ----------
    model
        A model folder or a run folder.
    message
        Answer this alone; `-` reads it from standard input.
    system
        What the model is told before the conversation.
    template
        How the conversation is spelled where the model does not say: instruction, turns, chatml or a .jinja file.
    """
    asked = "-" if message is None and json else message
    asked = None if asked is None else show.text_or_stdin(asked)
    talk = api.chat(model, asked, settings, system=system, template=template, precision=precision)
    if asked is None:
        show.conversed(talk)
    else:
        show.text(talk, json)


def translate(
    model: Path,
    text: str,
    /,
    *,
    settings: Annotated[AnswerSettings, Flat] = AnswerSettings(),  # noqa: B008
    file: bool = False,
    attention: bool = False,
    precision: KeptIn = "stored",
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Answer a text with a sequence-to-sequence model: translate it, or whatever the model has learnt.

    Parameters
    ----------
    model
        A model folder or a run folder.
    text
        The text; `-` reads it from standard input.
    file
        TEXT is the name of a file, each line of which is answered by a line; of a model that reads frames, a jsonl file
        of them.
    attention
        With --json, add the weights of the attention: for each token of the answer, what was read of the text.
    """
    if attention and not json:
        raise UserError("the weights are numbers for --json", "add --json, or draw them: explore --attention FILE")
    text = text if file else show.text_or_stdin(text)
    show.text(
        api.translate(model, text, settings, file=file, attention=attention, precision=precision, adapter=adapter), json
    )


def explore(
    model: Path,
    prompt: str = "",
    /,
    *,
    settings: Annotated[DecodeSettings, Flat] = EXPLORED,
    candidates: Sequence[str] = (),
    html: Path | None = None,
    attention: Path | None = None,
    target: str | None = None,
    precision: KeptIn = "stored",
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Show decoding strategies side by side and the next-token distribution before and after reshaping.

    Parameters
    ----------
    model
        A model folder or a run folder.
    prompt
        The text to continue.
    candidates
        Rank these words as the continuation.
    html
        Also write the page to this file.
    attention
        Draw what the model looked at instead, into this .png or .html file: a heat map for each head of its attention.
    target
        With --attention, what a sequence-to-sequence model is told to answer, instead of what it would.
    """
    prompt = show.text_or_stdin(prompt)
    given = None if attention and settings == EXPLORED else settings
    found = api.explore(
        *(model, prompt, given),
        candidates=candidates,
        html=html,
        attention=attention,
        target=target,
        precision=precision,
        adapter=adapter,
    )
    show.text(found, json)


def fill(model: Path, text: str, /, *, top: int = 5, precision: KeptIn = "stored", json: Json = False) -> None:
    """Fill in the masks of a text: "The teacher <mask> the student".

    Parameters
    ----------
    model
        A model folder or a run folder of a model that fills in.
    text
        The text, with <mask> or [MASK] for each hidden word; `-` reads it from standard input.
    top
        How many candidates to show for each.
    """
    show.filled(api.fill(model, show.text_or_stdin(text), top=top, precision=precision), json)


def embed(
    model: Path,
    /,
    *text: str,
    pool: Pool = "mean",
    normalise: bool = False,
    precision: KeptIn = "stored",
    json: Json = False,
) -> None:
    """Turn each text into one vector.

    Parameters
    ----------
    model
        A model folder or a run folder of any neural family.
    text
        One or more texts; a single `-` reads one from standard input.
    pool
        The mean over all tokens, or the first (cls) or last token's vector.
    normalise
        Divide each vector by its length.
    """
    texts = [show.text_or_stdin(one) for one in text]
    asked = texts[0] if len(texts) == 1 else texts
    show.embedded(api.embed(model, asked, pool=pool, normalise=normalise, precision=precision), json)


def classify(
    model: Path,
    text: str,
    /,
    *,
    other: str | None = None,
    labels: Sequence[str] = (),
    template: str = TEMPLATE,
    by: Literal["sum", "token", "byte"] = "sum",
    examples: Path | None = None,
    fields: str = "text,label",
    shots: int = 0,
    seed: int = 0,
    precision: KeptIn = "stored",
    json: Json = False,
) -> None:
    """Say which label a text has, or which tag each of its words, by a head or by how likely each label's name is.

    Parameters
    ----------
    model
        A model folder or a run folder.
    text
        The text; `-` reads it from standard input. Words are what white space sets apart.
    other
        A second text, for a model that gives two texts a number.
    labels
        Names to compare, with commas between them, for a model without a head: good,bad.
    template
        How text and label are written together.
    by
        What is compared: the probability of a whole label (sum), or the mean of its log over tokens or over bytes, so
        that a longer label is no less likely for its length.
    examples
        A file of texts with their labels, of which some are shown before the text.
    fields
        The two fields or columns of that file.
    shots
        How many examples are shown.
    seed
        Seed of which.
    """
    found = api.classify(
        *(model, show.text_or_stdin(text)),
        other=other,
        labels=[part.strip() for some in labels for part in some.split(",")],
        template=template.replace("\\n", "\n"),
        by=by,
        examples=examples,
        fields=show.two(fields),
        shots=shots,
        seed=seed,
        precision=precision,
    )
    show.classified(found, json)


def neighbours(
    model: Path,
    /,
    *words: str,
    plus: Sequence[str] = (),
    minus: Sequence[str] = (),
    top: int = 10,
    json: Json = False,
) -> None:
    """Show the words whose vectors are nearest to those of given words: king --minus man --plus woman.

    Parameters
    ----------
    model
        A model folder or a run folder; any family but n-grams.
    words
        Words; each gets a list of its own, unless plus or minus are given.
    plus
        Words whose vectors are added.
    minus
        Words whose vectors are taken away.
    top
        How many words to show.
    """
    show.table(api.neighbours(model, words, plus=plus, minus=minus, top=top), json)


def score(
    model: Path,
    text: str,
    /,
    *,
    stride: int | None = None,
    file: bool = False,
    precision: KeptIn = "stored",
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Score a text: log-probability, perplexity, bits per byte.

    Parameters
    ----------
    model
        A model folder or a run folder.
    text
        The text; `-` reads it from standard input.
    stride
        Slide the window by this many tokens instead of by the whole context.
    file
        TEXT is the name of a file to score.
    """
    if file:
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {text}: {error}", "give a UTF-8 text file") from None
    show.scored(api.score(model, show.text_or_stdin(text), stride=stride, precision=precision, adapter=adapter), json)


def evaluate(
    *models: Path,
    on: Path,
    task: Literal["labels", "pairs"] | None = None,
    shots: str = "0",
    examples: Path | None = None,
    fields: str | None = None,
    template: str | None = None,
    chat: bool = True,
    by: Literal["sum", "token", "byte"] = "sum",
    limit: int | None = None,
    answer_tokens: int = 64,
    seed: int = 0,
    precision: KeptIn = "stored",
    json: Json = False,
) -> None:
    """Score models on a file, beside the baselines, in bits per byte; or on a task, tuned beside prompted.

    Parameters
    ----------
    models
        Model or run folders.
    on
        The text to score, or the task's examples.
    task
        Measure a task instead: labels (accuracy, macro F1) or pairs of source and target (exact match, ROUGE).
    shots
        How many examples are shown to a model that has to be prompted, a row of the table each: 0,1,2,4.
    examples
        The file the examples that are shown come from.
    fields
        The two fields or columns of an example; unset, text,label or source,target.
    template
        How an example is written: "Text: {text}\\nLabel: {label}".
    chat
        Ask a model that has a chat template by it, the examples as earlier turns; --no-chat asks it as any other.
    by
        What is compared of labels: the probability of a whole name (sum), or the mean of its log over tokens or bytes.
    limit
        How many test examples are asked, the first ones; unset, all.
    answer_tokens
        Tokens after which a written answer is cut off.
    seed
        Seed of which examples are shown.
    """
    asked = TaskEvaluation(
        task=task,
        shots=show.numbers(shots),
        examples=examples,
        fields=None if fields is None else show.two(fields),
        template=None if template is None else template.replace("\\n", "\n"),
        chat=chat,
        by=by,
        limit=limit,
        answer_tokens=answer_tokens,
        seed=seed,
    )
    show.evaluated(api.evaluate(models, on, task=asked, precision=precision), json)


def lineage(
    models: list[Path],
    /,
    *,
    document: list[str] | None = None,
    removal: Path | None = None,
    json: Json = False,
) -> int:
    """What models were made of, and which of some documents are in which; exit code 8 when one is.

    Parameters
    ----------
    models
        Model folders or run folders.
    document
        The id or the address of a document that is looked for; may come more than once.
    removal
        A file of ids, domains, and addresses with all that lies below, one a line, that are looked for.
    """
    return show.lineage(api.lineage(models, document or (), removal), json)


def export_model(
    model: Path,
    target: Path,
    /,
    *,
    to: str = "hf",
    type_: Annotated[Kind | None, Parameter(name="--type")] = None,
    text: str | None = None,
    json: Json = False,
) -> None:
    """Write a model in another format; another program reads it back first, and must make the same of it.

    Parameters
    ----------
    model
        A model folder or a run folder.
    target
        The folder (hf) or file (gguf, arpa, graph) to write.
    to
        hf (Hugging Face folder), gguf (decoders, for llama.cpp), arpa (n-gram models), or graph (the computation graph
        of the loss of a text, as .dot or .svg).
    type_
        How a GGUF file keeps matrices; unset, as they are.
    text
        The text of the graph; without it, two tokens.
    """
    show.facts(api.export_model(model, target, to=to, type_=type_, text=text), json)


def import_model(source: Path, target: Path, /, *, check: bool = False, json: Json = False) -> None:
    """Bring a model in: an ARPA file, or a Hugging Face folder of a known family.

    Parameters
    ----------
    source
        The file or folder.
    target
        The model folder to write.
    check
        Have `transformers` read the folder too, and compare what both make of it.
    """
    show.facts(api.import_model(source, target, check=check), json)
