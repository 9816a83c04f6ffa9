"""All kinds of sources in one command: the Python library's text, its pages as HTML, and a web archive with planted
duplicates, personal data and bad pages. What is dropped is checked against Python's own sets and strings."""

import gzip
import html
import itertools
import json
import pydoc
import re

import pytest

from idiolect import api
from idiolect.recipes.library import documents
from tests.text.test_curate import prose, rows

PAGES = ("argparse", "csv", "datetime", "decimal", "email", "fractions", "heapq", "json", "logging", "random", "shelve")
PLANTED = {
    "first": ("http://news.example/story?id=7", prose(1) + "."),
    "same address": ("HTTP://NEWS.example:80/story?id=7&utm_source=mail#top", prose(2) + "."),
    "same text": ("http://mirror.example/7", prose(1) + "."),
    "person": ("http://people.example/", prose(3) + ". Ask ada@lovelace.example or 4111 1111 1111 1111."),
    "bad": ("http://shop.example/", "Buy now and save big on all offers. " * 40),
}


def record(url, text):
    """A response of a web server, as a gzip member."""
    page = (
        f"<html lang=en><head><title>A page</title></head><body><main><p>{html.escape(text)}</p></main></body></html>"
    )
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page.encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
        "WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000007>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + body + b"\r\n\r\n")


def shingles(text):
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def jaccard(one, other):
    return len(one & other) / len(one | other) if one | other else 0.0


@pytest.mark.slow
def test_library_pages_and_archive_in_one_command(tmp_path):
    heap = tmp_path / "heap"
    (heap / "library").mkdir(parents=True)
    texts = list(documents())
    for number, text in enumerate(texts):
        (heap / "library" / f"{number:04}.txt").write_text(text)
    (heap / "pages").mkdir()
    for name in PAGES:
        (heap / "pages" / f"{name}.html").write_text(
            pydoc.HTMLDoc().page(name, pydoc.HTMLDoc().document(__import__(name)))
        )
    with open(heap / "crawl.warc.gz", "wb") as archive:
        for url, text in PLANTED.values():
            archive.write(record(url, text))
    asked = [
        'curate.filters=["gopher_repetition"]',
        "curate.gopher_repetition.lines=1",
        "curate.gopher_repetition.line_characters=1",
    ]
    found = api.curate([heap], tmp_path / "corpus", overrides=asked, workers=2)

    assert found["documents_in"] == len(texts) + len(PAGES) + len(PLANTED)
    kept, dropped = rows(tmp_path / "corpus"), rows(tmp_path / "corpus", "dropped")
    by_url = {row["url"]: row["reason"] for row in dropped if row["url"]}
    assert by_url[PLANTED["same address"][0]] == "duplicate address"
    assert by_url[PLANTED["same text"][0]] == "duplicate text"
    assert by_url[PLANTED["bad"][0]].startswith(("repeated", "frequent"))
    assert len(by_url) == 3
    person = next(row["text"] for row in kept if row["url"] == PLANTED["person"][0])
    assert person.endswith("Ask <EMAIL> or <CARD>.")

    by_id = {row["id"]: row["text"] for row in kept}
    near = [row for row in dropped if row["reason"] == "near duplicate"]
    assert near, "the library repeats itself somewhere"
    for row in near:
        assert jaccard(shingles(row["text"]), shingles(by_id[row["value"]])) >= 0.8
    sets = [shingles(text) for text in by_id.values()]
    alike = sum(jaccard(a, b) >= 0.8 for a, b in itertools.combinations(sets, 2) if a and b)
    assert alike <= 0.05 * len(near) + 1
    report = json.loads((tmp_path / "corpus" / "report.json").read_text())
    assert report["files_left_out"] == 0 and {row["value"] for row in report["kept"]["source"]} == {"heap"}
