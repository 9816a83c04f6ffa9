"""How results are printed: for people on stdout, or as exactly one JSON object."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from idiolect.config import Settings
from idiolect.errors import Exit, UserError
from idiolect.report import shown


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: dataclasses become objects, paths text, non-finite numbers null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Settings):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def json_object(value: Any) -> None:
    """Prints one JSON object."""
    print(json.dumps(plain(value), ensure_ascii=False, allow_nan=False))


def text_or_stdin(text: str) -> str:
    """The text, or standard input when it is `-`. Raises UserError when that is not UTF-8."""
    if text != "-":
        return text
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 (byte {error.start})", "convert it first") from None


def lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of aligned columns: text to the left, numbers to the right."""
    cells = [[shown(cell) for cell in row] for row in rows]
    table = [list(header), *cells]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    numeric = [all(_is_number(row[column]) for row in cells) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(list(header)), "  ".join("─" * width for width in widths), *map(line, cells)])


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:2].lstrip("-")[:1].isdigit() or text in ("–", "inf", "-inf")


def templates(found: Mapping[str, Sequence[Mapping[str, Any]]], as_json: bool) -> None:
    """Sets of templates, category by category."""
    if as_json:
        json_object(found)
        return
    rows = [
        (category, one["name"], one["templates"], ", ".join(one["fields"]))
        for category in found
        for one in found[category]
    ]
    print(lines(("category", "set", "templates", "fields"), rows))


def facts(values: Mapping[str, Any], as_json: bool) -> None:
    """Names and values, a line each."""
    if as_json:
        json_object(values)
        return
    width = max(map(len, values), default=0)
    for name, value in values.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {shown(item)}" for key, item in value.items())
        elif isinstance(value, (list, tuple)):
            value = ", ".join(map(shown, value))
        if value is not None and value != "":
            print(f"{name.replace('_', ' ').ljust(width)}  {shown(value)}")


def table(result: Mapping[str, Any], as_json: bool) -> None:
    """A result with `rows` (mappings with the same keys) and optional `notes`."""
    if as_json:
        json_object(result)
        return
    rows = result["rows"]
    if rows:
        print(lines([key.replace("_", " ") for key in rows[0]], [list(row.values()) for row in rows]))
    for note in result.get("notes", ()):
        print(note)


def compared(result: Mapping[str, Any], as_json: bool) -> int:
    """The table of runs; it fails when a model does not beat the baselines that its family has to beat."""
    table(result, as_json)
    for line in result["failed"]:
        print(f"check failed: {line}", file=sys.stderr)
    return int(Exit.CHECK_FAILED if result["failed"] else Exit.DONE)


def encoded(result: Mapping[str, Any], as_json: bool) -> None:
    """Ids, and the piece each stands for."""
    if as_json:
        json_object(result)
        return
    print(" ".join(map(str, result["ids"])))
    print(" ".join(json.dumps(piece, ensure_ascii=False) for piece in result["tokens"]))


def plan(result: Mapping[str, Any], as_json: bool) -> None:
    """Parameters and memory."""
    if as_json:
        json_object(result)
        return
    parts = [(name, count) for name, count in result["parameter_parts"].items()]
    print(lines(["parameters", ""], [*parts, ("total", result["parameters"])]))
    print()
    from idiolect.plan.memory import size

    memory = [(name, size(count)) for name, count in result["memory_bytes"].items()]
    print(lines(["peak memory", ""], memory))
    if result.get("sources"):
        if result["weights_sum"] is not None:
            print(f"\ndata.weights sum to {result['weights_sum']:.4g}, and are divided by it")
        names = [key.replace("_", " ") for key in result["sources"][0]]
        print("\n" + lines(names, [list(one.values()) for one in result["sources"]]) + "\n")
    for key in ("parameters_trained", "parameters_active", "flops", "tokens", "tokens_per_parameter"):
        if result.get(key) is not None:
            print(f"{key.replace('_', ' ')}: {shown(result[key])}")
    for note in result.get("notes", ()):
        print(note)


def bench(result: Mapping[str, Any], as_json: bool) -> None:
    """Limits, and speeds with their share of them."""
    if as_json:
        json_object(result)
        return
    from idiolect.plan.memory import size

    most, training, decoding, ngram = (result[key] for key in ("limits", "training", "decoding", "ngram"))
    print(f"{result['hardware']}, {result['threads']} threads, torch {result['torch']}\n")
    limits = [(f"matrix products, {name}", f"{rate / 1e9:,.0f} GFLOP/s") for name, rate in most["matmul_flops"].items()]
    limits += [(f"memory, {name}", f"{most[f'{name}_bytes'] / 1e9:.1f} GB/s") for name in ("copy", "read")]
    limits += [(f"matrix times vector, {n}", f"{r / 1e9:.1f} GB/s") for n, r in most["vector_bytes"].items()]
    print(lines(["this machine at most", ""], limits))
    speeds = [
        (
            f"training a small transformer, {training['precision']}",
            f"{training['tokens_per_second']:,.0f} tokens/s",
            f"{training['mfu']:.0%} of the products",
        ),
        (
            f"decoding {size(decoding['weight_bytes'])} of weights, {decoding['precision']}",
            f"{decoding['tokens_per_second']:.1f} tokens/s",
            f"{decoding['share_of_bandwidth']:.0%} of reading memory",
        ),
        ("text to shards", f"{result['tokenising']['bytes_per_second'] / 1e6:.1f} MB/s", ""),
        ("counting 5-grams", f"{ngram['counted_tokens_per_second']:,.0f} tokens/s", ""),
        ("scoring by 5-grams", f"{ngram['scored_tokens_per_second']:,.0f} tokens/s", ""),
    ]
    print("\n" + lines(["Idiolect here", "", ""], speeds))


FIGURES = {
    "loss": "loss (nats)",
    "bits_per_byte": "bits per byte",
    "loss_other_prompt": "loss after another prompt",
    "stops": "share of answers that stop",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "entity_f1": "entity F1",
    "mean_squared_error": "mean squared error",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "exact_match": "exact match",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
}
"""The held-out figures that the end of a run prints."""


def trained(result: Mapping[str, Any], as_json: bool) -> int:
    """The end of a run; the exit code says whether it was stopped by a signal."""
    if as_json:
        json_object(result)
    else:
        validation = result.get("validation", {})
        print(f"run    {result['run']}")
        if result.get("model"):
            print(f"model  {result['model']}")
        print(f"steps  {shown(result['steps'])}   tokens {shown(result['tokens'])}")
        figures = [
            f"{name} {shown(validation[key])}" for key, name in FIGURES.items() if validation.get(key) is not None
        ]
        if figures:
            print(f"held-out {', '.join(figures)}")
        if result.get("mixture"):
            from idiolect.recipes.stage import MIXTURE

            rows = [list(one.values()) for one in result["mixture"]]
            print("\n" + lines(list(MIXTURE), rows) + "\n")
        if result.get("forgetting"):
            forgotten(result["forgetting"])
        print(f"report {result['report']}" if result.get("report") else f"resume with: idiolect resume {result['run']}")
    return int(Exit.STOPPED if result.get("stopped") else Exit.DONE)


def forgotten(result: Mapping[str, Any]) -> None:
    """The forgetting ledger, and what can be done where something got worse."""
    from idiolect.recipes.finish import LEDGER, ledger_rows

    print("\n" + lines(LEDGER, ledger_rows(dict(result))))
    if result["forgotten"]:
        print(f"worse than the tolerance of {result['tolerance']:g}: {', '.join(result['forgotten'])}")
        print(f"it may help: {result['offer']}")
    print()


def verified(result: Mapping[str, Any], as_json: bool) -> int:
    """Whether resuming is exact."""
    if as_json:
        json_object(result)
    else:
        print(result["verdict"])
        for difference in result["differences"]:
            print(f"  {difference}")
    return int(Exit.DONE if result["identical"] else Exit.CHECK_FAILED)


MOST = 10
"""Sources and licences that are shown of a model."""


def lineage(result: Mapping[str, Any], as_json: bool) -> int:
    """What each model was made of, and where the documents asked for are; it fails when some are in a model."""
    if as_json:
        json_object(result)
        return int(Exit.CHECK_FAILED if result["contained"] else Exit.DONE)
    for made in result["models"]:
        print(made["model"])
        for parent in made["parents"]:
            print(f"  made from   {parent['path']} ({parent['fingerprint'][:12]})")
        for corpus in made["corpora"]:
            print(f"  trained on  {corpus['documents']:,} documents of corpus {corpus['corpus'][:12]}")
        for name in ("sources", "licences"):
            some = list(made[name].items())
            more = f", and {len(some) - MOST:,} more" if len(some) > MOST else ""
            if some:
                print(f"  {name.ljust(10)}  {', '.join(f'{key} {n:,}' for key, n in some[:MOST])}{more}")
        for unknown in made["unknown"]:
            print(f"  unknown     what {unknown} was trained on")
    for answer in result["asked"]:
        found = [f"{n:,} in {model}" for model, n in answer["models"].items()]
        unknown = any(made["unknown"] for made in result["models"])
        print(f"{answer['entry']}: {', '.join(found) or ('not found, and not all is known' if unknown else 'in none')}")
    return int(Exit.CHECK_FAILED if result["contained"] else Exit.DONE)


def streamed(prompt: str, pieces: Iterable[Any]) -> None:
    """Text as it is generated, each continuation after its prompt; why it ended goes to stderr."""
    begun = False
    for piece in pieces:
        print(piece.text if begun else prompt + piece.text, end="", flush=True)
        begun = piece.finish_reason is None
        if not begun:
            print(flush=True)
            print(f"[{piece.finish_reason}]", file=sys.stderr)


def conversed(talk: Any) -> None:
    """A conversation: a line in, an answer out as it is written, until the lines end or /quit."""
    terminal = sys.stdin.isatty()
    while True:
        try:
            line = _line("> " if terminal else "")
        except KeyboardInterrupt:
            line = None
        if line is None or line.strip() in ("/quit", "/exit"):
            return
        if line.strip() == "/reset":
            talk.reset()
            print("[all forgotten]", file=sys.stderr)
        elif line.startswith("/") and line.strip()[1:].isalpha():
            print("[no such command: /reset forgets all, /quit ends]", file=sys.stderr)
        elif line.strip():
            try:
                _answered(talk, line)
            except UserError as error:
                if not terminal:
                    raise
                print(f"{error.what}: {error.mend}", file=sys.stderr)


def _line(prompt: str) -> str | None:
    """The next line of standard input; None at its end. Raises UserError when it is not UTF-8."""
    try:
        return input(prompt)
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 (byte {error.start})", "convert it first") from None


def _answered(talk: Any, line: str) -> None:
    """One answer; Ctrl-C ends it and not the conversation."""
    before, reason = talk.forgotten, None
    try:
        for piece in talk.answer(line):
            print(piece.text, end="", flush=True)
            reason = piece.finish_reason
    except KeyboardInterrupt:
        reason = "interrupted"
    print(flush=True)
    if reason != "stop":
        print(f"[{reason}]", file=sys.stderr)
    if talk.forgotten > before:
        print(f"[the first {talk.forgotten} messages no longer fit and are forgotten]", file=sys.stderr)


def filled(result: Mapping[str, Any], as_json: bool) -> None:
    """The candidates of each mask, and the text filled in."""
    if as_json:
        json_object(result)
        return
    for number, found in enumerate(result["masks"], start=1):
        name = "token" if len(result["masks"]) == 1 else f"mask {number}"
        print(lines([name, "probability"], [(one["token"], one["probability"]) for one in found]) + "\n")
    print(result["text"])


def embedded(result: Mapping[str, Any], as_json: bool) -> None:
    """The numbers of a text's vector, a line each text."""
    if as_json:
        json_object(result)
        return
    for vector in result.get("embeddings", [result.get("embedding")]):
        print(" ".join(f"{number:.6g}" for number in vector))


def classified(result: Mapping[str, Any], as_json: bool) -> None:
    """A text's label and the probabilities of all, or a line for each word with its tag."""
    if as_json:
        json_object(result)
    elif "tags" in result:
        print("\n".join(f"{entry['word']}\t{entry['tag']}" for entry in result["tags"]))
    else:
        facts(
            {key: result[key] for key in ("label", "value", "probabilities", "prompt_tokens") if key in result}, as_json
        )
        for note in result.get("notes", ()):
            print(note, file=sys.stderr)


def two(fields: str) -> tuple[str, str]:
    """Two names with a comma between them. Raises UserError when they are not two."""
    names = tuple(part.strip() for part in fields.split(","))
    if len(names) != 2 or not all(names):
        raise UserError(f"{fields!r} are not two fields", "name them like text,label, or by their columns: 1,2")
    return names[0], names[1]


def numbers(text: str) -> tuple[int, ...]:
    """Numbers with commas between them. Raises UserError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"{text!r} are no numbers", "write them like 0,1,2,4")
    return tuple(map(int, parts))


def scored(result: Mapping[str, Any], as_json: bool) -> None:
    """One text's score; the ids are for JSON only."""
    shown = {key: value for key, value in result.items() if key not in ("ids", "logprobs")}
    facts(result if as_json else shown, as_json)


def evaluated(result: Mapping[str, Any], as_json: bool) -> None:
    """The score of one model as flat keys (JSON), of several as a table."""
    table(result, as_json)


def text(result: Mapping[str, Any], as_json: bool) -> None:
    """A result whose "text" says it all to people."""
    if as_json:
        json_object(result)
    else:
        print(result["text"])


def quickstart(result: Mapping[str, Any], as_json: bool) -> int:
    """The table, a sample of each model, where things are and what to type next; it fails as `compared` does."""
    code = compared(result, as_json)
    if as_json:
        return code
    for name, text in result["samples"].items():
        print(f"\n── {name} writes ──\n{text}")
    print("\nEverything is in " + str(result["folder"]) + ". What to type next:")
    for line in result["next"]:
        print("  " + line)
    return code
