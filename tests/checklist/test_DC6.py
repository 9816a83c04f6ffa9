"""DC6: every document carries its licence and source, sites and owners may refuse, and what is unknown is counted."""

import json

import pytest

from idiolect import api
from idiolect.errors import UserError
from idiolect.text.read import read

WORDS = "Each of these pages says one thing of its own in a sentence that no other page has, which is number"
PAGES = [
    ("https://free.example/1", "CC-BY-4.0"),
    ("https://free.example/2", None),
    ("https://free.example/private/3", "CC0-1.0"),
    ("https://sub.blocked.example/4", "CC0-1.0"),
    ("https://artist.example/gallery/5", "CC0-1.0"),
    ("https://free.example/6", "CC-BY-NC-4.0"),
    ("https://free.example/7", "MIT"),
    ("https://free.example/8", "unknown"),
]


@pytest.fixture
def heap(tmp_path):
    rows = [
        {"url": url, "licence": licence, "source": "crawl of May", "text": f"{WORDS} {number * 7919}."}
        for number, (url, licence) in enumerate(PAGES, 1)
    ]
    (tmp_path / "heap.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "robots" / "free.example").mkdir(parents=True)
    (tmp_path / "robots/free.example/robots.txt").write_text("User-agent: CCBot\nDisallow: /private/\n")
    (tmp_path / "out.txt").write_text("https://artist.example/gallery\n")
    (tmp_path / "removal.txt").write_text("https://free.example/7\n")
    return tmp_path


def curate(heap, *overrides, name="corpus"):
    given = ['curate.filters=["removed", "sites", "robots", "licence"]', "curate.near.drop=false", *overrides]
    api.curate([heap / "heap.jsonl"], heap / name, overrides=given, workers=1)
    report = json.loads((heap / name / "report.json").read_text())
    kept = {row.metadata["url"]: row.metadata for row in read([heap / name])}
    return kept, report


def test_DC6_what_owners_refuse_is_left_out_and_the_rest_carries_licence_and_source(heap):
    kept, report = curate(
        heap,
        'curate.consent.block=["blocked.example"]',
        f"curate.consent.robots={heap / 'robots'}",
        f"curate.consent.opted_out={heap / 'out.txt'}",
        f"curate.consent.removed={heap / 'removal.txt'}",
        'curate.consent.refuse=["CC-BY-NC"]',
    )
    assert list(kept) == [f"https://free.example/{number}" for number in (1, 2, 8)]
    assert report["dropped"] == {
        "removed": 1,
        "blocked site": 1,
        "refused by robots.txt": 1,
        "opted out": 1,
        "licence that is not wanted": 1,
    }
    assert [found["licence"] or "unknown" for found in kept.values()] == ["CC-BY-4.0", "unknown", "unknown"]
    assert {found["source"] for found in kept.values()} == {"crawl of May"}


def test_DC6_what_owners_say_later_is_not_passed_over(heap):
    robots = f"curate.consent.robots={heap / 'robots'}"
    assert "https://free.example/1" in curate(heap, robots)[0]
    (heap / "robots/free.example/robots.txt").write_text("User-agent: *\nDisallow: /\n")
    with pytest.raises(UserError, match="other settings"):
        curate(heap, robots)
    assert "https://free.example/1" not in curate(heap, robots, name="again")[0]


def test_DC6_an_unknown_licence_is_counted_or_where_one_is_required_dropped(heap):
    kept, report = curate(heap)
    assert len(kept) == 8
    assert {one["value"]: one["documents"] for one in report["kept"]["licence"]}["unknown"] == 2
    kept, report = curate(heap, "curate.consent.require_licence=true", name="known")
    assert len(kept) == 6 and report["dropped"] == {"unknown licence": 2}


def test_DC6_only_allowed_sites(heap):
    kept, report = curate(heap, 'curate.consent.allow=["artist.example"]')
    assert list(kept) == ["https://artist.example/gallery/5"]
    assert report["dropped"] == {"site that is not allowed": 7}


def test_DC6_pages_of_an_archive_may_refuse_in_their_headers(heap):
    page = b"<html lang='en'><body><p>A page about the sea and the land beside it.</p></body></html>"
    blocks = []
    for number, header in enumerate(("X-Robots-Tag: noindex", "X-Robots-Tag: noai", "TDM-Reservation: 1")):
        http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{header}\r\n\r\n".encode() + page
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://x.example/{number}\r\n"
        blocks.append(f"{head}Content-Length: {len(http)}\r\n\r\n".encode() + http + b"\r\n\r\n")
    (heap / "heap.jsonl").unlink()
    (heap / "pages.warc").write_bytes(b"".join(blocks))
    given = ['curate.filters=["robots"]', "curate.exact.drop=false", "curate.near.drop=false"]
    result = api.curate([heap / "pages.warc"], heap / "corpus", overrides=given, workers=1)
    assert result["dropped"] == {"reserved by its header": 2} and result["documents_out"] == 1
