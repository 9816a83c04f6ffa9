"""The verbs `export` and `import`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from idiolect import files
from idiolect.errors import UserError, nearest
from idiolect.interop import arpa, folder, graph
from idiolect.models.ngram import NGram
from idiolect.tokens.learn import from_vocabulary
from idiolect.tokens.settings import TokenizerSettings

FORMATS = ("hf", "arpa", "graph")


def export_model(model: Path | str, target: Path | str, *, to: str = "hf", text: str | None = None) -> dict[str, Any]:
    """Writes a model as a Hugging Face folder ("hf") or, an n-gram, as an ARPA file ("arpa").

    "graph" writes the computation graph of its loss over `text` as DOT or SVG, after the target's suffix. Raises
    UserError for an unknown format, and when the model cannot be expressed in it.
    """
    if to not in FORMATS:
        raise UserError(f"there is no format {to}{nearest(to, FORMATS)}", f"use one of {', '.join(FORMATS)}")
    if text is not None and to != "graph":
        raise UserError(f"a text is for a graph, not for {to}", "leave --text out, or use --to graph")
    source, target = folder.find(Path(model)), Path(target)
    loaded = folder.load(source)
    if to == "graph":
        return _graph(loaded, target, text)
    if to == "hf":
        place = target.resolve()  # the working directory, when it is replaced, is no longer the one of that name
        if place == source.resolve():
            raise UserError("source and target are the same folder", "name another target")
        folder.save(target, loaded.model, loaded.tokenizer, loaded.lineage)
        return {"model": str(target), "model_type": files.read_json(place / folder.CONFIG)["model_type"]}
    if not isinstance(loaded.model, NGram):
        raise UserError(f"ARPA files hold n-grams, and {model} is a {loaded.settings.kind}", "export it with --to hf")
    if loaded.tokenizer is None:
        raise UserError(f"{model} has no tokenizer, whose tokens an ARPA file names", "put tokenizer.json beside it")
    arpa.write_arpa(loaded.model, loaded.tokenizer, target)
    return {"model": str(target), "model_type": "arpa"}


def _graph(loaded: folder.Loaded, target: Path, text: str | None) -> dict[str, Any]:
    """Writes the graph, and says how large it is."""
    write = {".dot": graph.dot, ".gv": graph.dot, ".svg": graph.svg}.get(target.suffix)
    if write is None:
        raise UserError(f"{target} is neither DOT nor SVG by its name", "end it in .dot or .svg")
    if isinstance(loaded.model, NGram):
        raise UserError("an n-gram is counted: it computes no loss to draw a graph of", "use a model with weights")
    if loaded.tokenizer is None:
        raise UserError("the model has no tokenizer to read a text with", "put its tokenizer.json beside it")
    nodes = graph.of_model(loaded.model, loaded.tokenizer, text)
    files.write_text(target, write(nodes, f"{loaded.settings.kind}: the loss of a text"))
    return {"graph": str(target), "nodes": len(nodes), "edges": sum(len(set(node.inputs)) for node in nodes)}


def import_model(source: Path | str, target: Path | str) -> dict[str, Any]:
    """Writes a model folder from an ARPA file or a Hugging Face folder of a family in `interop.families`.

    The words of an ARPA file become a word tokenizer that splits text at white space. Raises UserError for what can
    neither be read nor expressed.
    """
    source, target = Path(source), Path(target)
    place = target.resolve()
    if source.is_file():
        model, pieces = arpa.read_arpa(source)
        if arpa.UNKNOWN not in pieces:
            raise UserError(f"{source} gives no probability to {arpa.UNKNOWN}", "estimate it with an open vocabulary")
        words = TokenizerSettings(kind="word", size=len(pieces), pattern=r"\S+")
        tokenizer = from_vocabulary(pieces[arpa.UNKNOWN_ID + 1 :], words)
        folder.save(target, model, tokenizer, {"imported": {"from": source.name, "sha256": files.sha256(source)}})
    else:
        loaded = folder.load(folder.find(source))
        lineage = loaded.lineage or {"imported": {"from": source.resolve().name}}
        folder.save(target, loaded.model, loaded.tokenizer, lineage)
    return {"model": str(target), "model_type": files.read_json(place / folder.CONFIG)["model_type"]}
