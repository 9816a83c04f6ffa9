"""The verbs `export` and `import`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from idiolect import files
from idiolect.errors import UserError, nearest
from idiolect.interop import arpa, folder
from idiolect.models.ngram import NGram
from idiolect.tokens.learn import from_vocabulary
from idiolect.tokens.settings import TokenizerSettings

FORMATS = ("hf", "arpa")


def export_model(model: Path | str, target: Path | str, *, to: str = "hf") -> dict[str, Any]:
    """Writes a model as a Hugging Face folder ("hf") or, an n-gram, as an ARPA file ("arpa").

    Raises UserError for an unknown format, and when the model cannot be expressed in it.
    """
    if to not in FORMATS:
        raise UserError(f"there is no format {to}{nearest(to, FORMATS)}", f"use one of {', '.join(FORMATS)}")
    source, target = folder.find(Path(model)), Path(target)
    loaded = folder.load(source)
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
