"""The text of a web page, and what the page says of itself. Runs in a child (child.py): pages are hostile."""

from __future__ import annotations

import re
from typing import Any

from idiolect.text.filtering.robots import reserves
from idiolect.text.reading.encoding import decoded, mark

CHARSET = re.compile(rb"<meta[^>]{1,200}charset\s*=\s*[\"']?\s*([\w.:+-]{1,40})", re.ASCII | re.IGNORECASE)
HEAD = 4096
"""Bytes in which a page declares its encoding; the standard asks for the first 1024."""
SAID = {
    "url": ((b"canonical", "link[rel~=canonical]", "href"), (b"og:url", "meta[property='og:url']", "content")),
    "licence": (
        (b"license", "link[rel~=license]", "href"),
        (b"license", "a[rel~=license]", "href"),
        (b"dcterms.license", "meta[name='dcterms.license']", "content"),
        (b"dc.rights", "meta[name='dc.rights']", "content"),
        (b"creativecommons.org/", "a[href*='creativecommons.org/licenses/']", "href"),
        (b"creativecommons.org/", "a[href*='creativecommons.org/publicdomain/']", "href"),
    ),
    "date": (
        (b"article:published_time", "meta[property='article:published_time']", "content"),
        (b"date", "meta[name='date']", "content"),
        (b"dcterms.date", "meta[name='dcterms.date']", "content"),
        (b"datetime", "time[datetime]", "datetime"),
    ),
    "language": ((b"lang", "html[lang]", "lang"),),
}
"""Where a page says where it is from, the first that is there counts: a word in it, an element, its attribute.

Only where the word is in the page is the element looked for, which takes longer than reading a short page.
"""
RESERVING = ("robots", "tdm-reservation")
"""Names of meta elements by which a page may keep itself from training."""
RESERVED = (b"noai", b"noml", b"tdm-reservation")
"""A page without any of these words, in whatever letters, does not; a pattern would take longer than the page."""
LONGEST = 2000
"""Characters of an address, licence or date; what is longer is none."""


def page(data: bytes, charset: str, main: bool) -> tuple[str, dict[str, Any]]:
    """The text of a page, and what it states: `url`, `licence`, `date`, `language`; and `lost`, see `decoded`.

    What keeps it from training is there too, under the name of the meta element.

    charset: the encoding that its server declares, or nothing.
    main: its main content only, without menus and footers.
    """
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    if not charset and (stated := CHARSET.search(data[:HEAD])):
        charset = stated[1].decode("ascii")
    text, lost = decoded(data, charset)
    seen = text.encode("utf-8", "replace") if mark(data) else data  # words are found faster in bytes
    head = seen[: seen.find(b"</head")]  # all of it where there is no end of a head
    tree = HTMLTree.parse(text)
    document = tree.document
    assert document is not None
    found: dict[str, Any] = {"lost": lost}
    for name, places in SAID.items():
        for word, selector, attribute in places:
            there = word in (seen if selector.startswith(("a", "time")) else head)
            element = document.query_selector(selector) if there else None
            value = (element.getattr(attribute) or "").strip() if element else ""
            if 0 < len(value) <= LONGEST:
                found[name] = value
                break
    lower = seen.lower()
    for name in RESERVING if any(word in lower for word in RESERVED) else ():
        for element in document.query_selector_all(f"meta[name='{name}' i]"):
            if reserves(value := (element.getattr("content") or "")[:LONGEST], name):
                found[name] = value
    return extract_plain_text(tree, main_content=main, alt_texts=False, list_bullets=True), found
