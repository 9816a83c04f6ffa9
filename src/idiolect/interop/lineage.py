"""The verb `lineage`: what models were made of, and whether documents are in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from idiolect import files
from idiolect.errors import UserError
from idiolect.interop import folder, foreign
from idiolect.text import passport
from idiolect.text.duplicates.addresses import canonical
from idiolect.text.filtering.consent import Removed
from idiolect.text.passport import Passport, Section

EXAMPLES = 5
"""Documents that are shown of all that an entry names."""
DISTINCT = 10_000
"""Sources, or licences, that are counted apart; further ones are counted together."""
OTHERS = "others"
UNKNOWN = "unknown"


class Asked:
    """What is asked for: documents by id or address, and a removal list, whose domains and addresses stand for more."""

    def __init__(self, documents: Sequence[str], removal: Path | None) -> None:
        self.removed = Removed.of(removal) if removal else Removed(())
        self.entries = list(dict.fromkeys([*documents, *self.removed.ids]))
        self._exact: dict[str, list[str]] = {}
        for one in documents:
            for name in {one, canonical(one)}:
                self._exact.setdefault(name, []).append(one)

    def naming(self, found: Passport) -> set[str]:
        """The entries that a document is meant by."""
        exact = self._exact.get(found.id, [])
        if self._exact and isinstance(found.url, str):
            exact = [*exact, *self._exact.get(canonical(found.url), [])]
        return {*exact, *self.removed.naming([found.id], found.url)}


def lineage(
    models: Sequence[Path | str], documents: Sequence[str] = (), removal: Path | str | None = None
) -> dict[str, Any]:
    """What each model was made of, and which of the documents asked for are in which.

    documents: ids or addresses of documents. removal: a list of ids, addresses (with all below) and domains, a line
    each. "models" says of each its "recipe", "parents", "corpora" by hash, how many "documents", their "sources" and
    "licences", and the "unknown" models that it goes back to; "asked" says of each entry the "models" that hold
    such documents, how many, and "examples"; "contained" whether there is any.

    Raises UserError for a folder that is no model, or a damaged one.
    """
    asked = Asked(documents, None if removal is None else Path(removal))
    hits: dict[str, dict[str, list[Passport]]] = {entry: {} for entry in asked.entries}
    counts: Counter[tuple[str, str]] = Counter()
    about = []
    for model in map(str, models):
        one = _Made(folder.find(Path(model)))
        for found in one.documents():
            for entry in asked.naming(found) if hits else ():
                counts[entry, model] += 1
                shown = hits[entry].setdefault(model, [])
                if len(shown) < EXAMPLES:
                    shown.append(found)
        about.append({"model": model, **one.json()})
    answers = [
        {
            "entry": entry,
            "models": {model: counts[entry, model] for model in found},
            "examples": {model: [one.json() for one in some] for model, some in found.items()},
        }
        for entry, found in hits.items()
    ]
    return {"models": about, "asked": answers, "contained": bool(counts)}


class _Made:
    """What one model folder says of itself."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UserError(f"{path} is no model folder", "name a model folder or a run folder")
        self.path = path
        if (path / files.MANIFEST).exists():
            files.verify(path, [folder.LINEAGE, folder.DOCUMENTS])
        self.lineage = foreign.json_object(path, folder.LINEAGE) if (path / folder.LINEAGE).exists() else {}
        with files.understood(path / folder.LINEAGE):
            self.parents = _parents(self.lineage)
        self.sources: Counter[str] = Counter()
        self.licences: Counter[str] = Counter()
        self.corpora: list[dict[str, Any]] = []
        self.unknown: list[str] = []
        """Models that it goes back to and of which nothing is known."""

    def documents(self) -> Iterator[Passport]:
        """All that it, and the models that it was made from, were trained on; counted on the way."""
        path = folder.documents_of(self.path)
        if path is None:
            self.unknown.append(str(self.path))
            return
        for found in passport.read(path):
            if isinstance(found, Section):
                if found.corpus is None:
                    self.unknown.append(str(found.unknown))
                else:
                    self.corpora.append({"corpus": found.corpus, "documents": 0})
                continue
            if self.corpora:
                self.corpora[-1]["documents"] += 1
            _count(self.sources, found.source)
            _count(self.licences, found.licence)
            yield found

    def json(self) -> dict[str, Any]:
        """The facts, once all documents were read."""
        return {
            **{key: self.lineage.get(key) for key in ("idiolect", "recipe", "fingerprints", "accepted_changes")},
            "imported": self.lineage.get("imported"),
            "parents": self.parents,
            "corpora": self.corpora,
            "documents": sum(self.licences.values()),
            "sources": dict(self.sources.most_common()),
            "licences": dict(self.licences.most_common()),
            "unknown": self.unknown,
        }


def _count(counter: Counter[str], name: Any) -> None:
    name = UNKNOWN if name is None else str(name)
    counter[name if name in counter or len(counter) < DISTINCT else OTHERS] += 1


def _parents(lineage: dict[str, Any]) -> list[dict[str, Any]]:
    """Path and fingerprint of each model that this one goes back to, the nearest first."""
    out, waiting = [], [lineage]
    while waiting:
        for parent in waiting.pop(0).get("parents") or ():
            out.append({"path": parent["path"], "fingerprint": parent["fingerprint"]})
            waiting.append(parent["lineage"] or {})
    return out
