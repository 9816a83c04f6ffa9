"""The text of a web page, and what the page says of itself. Runs in a child (text/child.py): pages are hostile."""

from __future__ import annotations

import re
from typing import Any

from idiolect.text.encoding import decoded

CHARSET = re.compile(rb"<meta[^>]{1,200}charset\s*=\s*[\"']?\s*([\w.:+-]{1,40})", re.ASCII | re.IGNORECASE)
HEAD = 4096
"""Bytes in which a page declares its encoding; the standard asks for the first 1024."""
SAID = {
    "url": (("link[rel~=canonical]", "href"), ("meta[property='og:url']", "content")),
    "licence": (
        ("link[rel~=license]", "href"),
        ("a[rel~=license]", "href"),
        ("meta[name='dcterms.license']", "content"),
        ("meta[name='dc.rights']", "content"),
        ("a[href*='creativecommons.org/licenses/']", "href"),
        ("a[href*='creativecommons.org/publicdomain/']", "href"),
    ),
    "date": (
        ("meta[property='article:published_time']", "content"),
        ("meta[name='date']", "content"),
        ("meta[name='dcterms.date']", "content"),
        ("time[datetime]", "datetime"),
    ),
    "language": (("html[lang]", "lang"),),
}
"""Where a page says where it is from: elements and their attributes, the first that is there counts."""
LONGEST = 2000
"""Characters of an address, licence or date; what is longer is none."""


def page(data: bytes, charset: str, main: bool) -> tuple[str, dict[str, Any]]:
    """The text of a page, and what it states: `url`, `licence`, `date`, `language`; and `lost`, see `decoded`.

    charset: the encoding that its server declares, or nothing.
    main: its main content only, without menus and footers.
    """
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    if not charset and (stated := CHARSET.search(data[:HEAD])):
        charset = stated[1].decode("ascii")
    text, lost = decoded(data, charset)
    tree = HTMLTree.parse(text)
    document = tree.document
    assert document is not None
    found: dict[str, Any] = {"lost": lost}
    for name, places in SAID.items():
        for selector, attribute in places:
            element = document.query_selector(selector)
            value = (element.getattr(attribute) or "").strip() if element else ""
            if 0 < len(value) <= LONGEST:
                found[name] = value
                break
    return extract_plain_text(tree, main_content=main, alt_texts=False, list_bullets=True), found
