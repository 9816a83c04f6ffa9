"""The verbs `export` and `import`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from idiolect import files
from idiolect.adapt import edits
from idiolect.errors import UserError, nearest
from idiolect.interop import arpa, folder, foreign, gguf_file, graph, parity, parity_arpa, parity_gguf, peft
from idiolect.interop.folder import Loaded
from idiolect.interop.settings import Kind
from idiolect.models.contract import Network
from idiolect.models.ngram import NGram
from idiolect.tokens.learn import from_vocabulary
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer

FORMATS = ("hf", "gguf", "arpa", "graph")


def export_model(
    model: Path | str, target: Path | str, *, to: str = "hf", type_: Kind | None = None, text: str | None = None
) -> dict[str, Any]:
    """Writes a model as a Hugging Face folder ("hf"), a decoder as a GGUF file, an n-gram as an ARPA file.

    type_: how a GGUF file keeps matrices; unset, as they are. The result says who read what was written, and what was
    compared (see `interop.parity`). Updates of an adapter folder are added into its base's matrices. "graph" writes the
    computation graph of its loss over `text` as DOT or SVG, after the target's suffix. Raises UserError for an unknown
    format, when the model cannot be expressed in it, and (exit 8) when another program makes something else of what was
    written, of which then nothing is left.
    """
    if to not in FORMATS:
        raise UserError(f"there is no format {to}{nearest(to, FORMATS)}", f"use one of {', '.join(FORMATS)}")
    if type_ is not None and to != "gguf":
        raise UserError(f"a type is how a GGUF file keeps numbers, not for {to}", "leave --type out, or use --to gguf")
    if text is not None and to != "graph":
        raise UserError(f"a text is for a graph, not for {to}", "leave --text out, or use --to graph")
    source, target = folder.find(Path(model)), Path(target)
    loaded = folder.load(source)
    if to == "graph":
        return _graph(loaded, target, text)
    edits.whole(loaded.model)
    if to == "gguf":
        return _gguf(loaded, target, type_)
    return _hf(loaded, source, target) if to == "hf" else _arpa(loaded, target)


def _hf(loaded: Loaded, source: Path, target: Path) -> dict[str, Any]:
    """Writes the folder; says what it is, and what `transformers` makes of it."""
    place = target.resolve()  # the working directory, when it is replaced, is no longer the one of that name
    if place == source.resolve():
        raise UserError("source and target are the same folder", "name another target")
    model, tokenizer = loaded.model, loaded.tokenizer
    checked = folder.save(
        target,
        model,
        tokenizer,
        loaded.lineage,
        lambda new: parity.check_hf(new, model, tokenizer, exported=True),
        documents=loaded.documents,
    )
    model_type = files.read_json(place / folder.CONFIG)["model_type"]
    return {"model": str(target), "model_type": model_type, **checked}


def _gguf(loaded: Loaded, target: Path, asked: Kind | None) -> dict[str, Any]:
    """Writes the file; says what it is, and what its readers make of it."""
    model, tokenizer = loaded.model, _tokenizer(loaded)
    model_type, _ = gguf_file.architecture_of(model)
    assert isinstance(model, Network)
    kind = gguf_file.kind_for(model, asked)
    notes, checked = gguf_file.write_gguf(
        model, tokenizer, target, kind, lambda new: parity_gguf.check_gguf(new, model, tokenizer, kind)
    )
    return {"model": str(target), "model_type": model_type, "type": kind, **checked, "notes": notes}


def _arpa(loaded: Loaded, target: Path) -> dict[str, Any]:
    """Writes the file; says what reading it makes of it."""
    model = loaded.model
    if not isinstance(model, NGram):
        raise UserError(f"ARPA files hold n-grams, and this is a {loaded.settings.kind}", "export it with --to hf")
    tokenizer = _tokenizer(loaded)
    checked = arpa.write_arpa(model, tokenizer, target, lambda new: parity_arpa.check_arpa(new, model, tokenizer))
    return {"model": str(target), "model_type": "arpa", **checked}


def _graph(loaded: Loaded, target: Path, text: str | None) -> dict[str, Any]:
    """Writes the graph, and says how large it is."""
    write = {".dot": graph.dot, ".gv": graph.dot, ".svg": graph.svg}.get(target.suffix)
    if write is None:
        raise UserError(f"{target} is neither DOT nor SVG by its name", "end it in .dot or .svg")
    if isinstance(loaded.model, NGram):
        raise UserError("an n-gram is counted: it computes no loss to draw a graph of", "use a model with weights")
    nodes = graph.of_model(loaded.model, _tokenizer(loaded), text)
    files.write_text(target, write(nodes, f"{loaded.settings.kind}: the loss of a text"))
    return {"graph": str(target), "nodes": len(nodes), "edges": sum(len(set(node.inputs)) for node in nodes)}


def _tokenizer(loaded: Loaded) -> Tokenizer:
    """Raises UserError for a model without one."""
    if loaded.tokenizer is None:
        raise UserError("the model has no tokenizer, which knows its tokens", "put its tokenizer.json beside it")
    return loaded.tokenizer


def import_model(source: Path | str, target: Path | str, *, check: bool = False) -> dict[str, Any]:
    """Writes a model folder from an ARPA file or a Hugging Face folder of a family in `interop.families`.

    The words of an ARPA file become a word tokenizer that splits text at white space. With `check`, `transformers`
    reads the folder too, and both must make the same of it (exit 8). Raises UserError for what can neither be read nor
    expressed. "notes" say what of a foreign folder was left alone.
    """
    source, target = Path(source), Path(target)
    place = target.resolve()
    found: dict[str, Any] = {}
    if source.is_file():
        foreign.refuse(source)
        if check:
            raise UserError("transformers reads no ARPA files, so nothing can check them", "leave --check out")
        model, pieces = arpa.read_arpa(source)
        if arpa.UNKNOWN not in pieces:
            raise UserError(f"{source} gives no probability to {arpa.UNKNOWN}", "estimate it with an open vocabulary")
        words = TokenizerSettings(kind="word", size=len(pieces), pattern=r"\S+")
        tokenizer = from_vocabulary(pieces[arpa.UNKNOWN_ID + 1 :], words)
        folder.save(target, model, tokenizer, {"imported": {"from": source.name, "sha256": files.sha256(source)}})
    else:
        source = folder.find(source)
        loaded = folder.load(source)
        if not loaded.lineage:
            found["notes"] = foreign.notes(source, loaded.model.vocabulary, loaded.tokenizer)
        if check:
            found |= parity.check_hf(source, loaded.model, loaded.tokenizer)
        lineage = loaded.lineage or {"imported": {"from": source.resolve().name}}
        folder.save(target, loaded.model, loaded.tokenizer, lineage, documents=loaded.documents)
    if peft.is_adapter(place):
        return {"model": str(target), "model_type": f"adapter: {peft.settings_of(place).kind}", **found}
    return {"model": str(target), "model_type": files.read_json(place / folder.CONFIG)["model_type"], **found}
