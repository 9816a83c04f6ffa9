"""What a document is called from the corpus on: in shards, in reports, and in the models that were trained on it."""

from __future__ import annotations

import hashlib
from typing import Any

from idiolect.text.duplicates.addresses import canonical

ID = 32
"""Characters of an id: hexadecimal digits of 128 bits, of which a billion documents share one by chance in 10^20."""


def identity(url: Any, text: str) -> str:
    """The id of a document: of the page it was read at, in one spelling, and of its text before anything was changed.

    url: where it was read; empty, or no text, where there is none. The id depends on nothing else, so that whoever has
    the page and the text can ask whether a corpus or a model holds the document.
    """
    address = canonical(url) if isinstance(url, str) else ""
    digest = hashlib.blake2b(digest_size=ID // 2)
    for part in (address, text):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
