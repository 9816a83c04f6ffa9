"""Documents out of raw files of every kind: what is read, where it is from, and what is left out."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import duckdb
import pytest
import zstandard

from idiolect.errors import UserError
from idiolect.text.document import Document
from idiolect.text.reading.raw import Unread, raw_documents, raw_files, stretches
from idiolect.text.settings import ReadingSettings

PAGE = b"""<!DOCTYPE html><html lang="en-GB"><head><title>A page</title>
<link rel="canonical" href="https://example.org/page"><link rel="license" href="https://example.org/licence">
<meta property="article:published_time" content="2024-05-06"></head><body>
<nav><a href="/">Home</a> <a href="/about">About us</a></nav>
<main><p>The tide comes in twice a day.</p><p>It goes out again.</p></main>
<footer>Terms of use</footer></body></html>"""
PAGE_TEXT = "The tide comes in twice a day.\n\nIt goes out again."


def found(path: Path, start: int = 0, stop: int | None = None, **settings: object) -> list[Document | Unread]:
    return list(raw_documents(path, ReadingSettings(**settings), start, stop))  # type: ignore[arg-type]


def texts(path: Path, **settings: object) -> list[str]:
    """The text of each document, or the reason why there is none."""
    return [one.text if isinstance(one, Document) else one.drop.reason for one in found(path, **settings)]


def record(kind: str, block: bytes, length: int | None = None, **fields: str) -> bytes:
    """A WARC record."""
    lines = [f"WARC-Type: {kind}", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    lines.append(f"Content-Length: {len(block) if length is None else length}")
    return ("WARC/1.0\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode() + block + b"\r\n\r\n"


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An HTTP response."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def test_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n \n\nthree\n")
    assert texts(path) == ["one\r\ntwo\n \n\nthree\n"]
    assert texts(path, document="line") == ["one", "two", "three"]
    assert texts(path, document="paragraph") == ["one\r\ntwo", "three"]


def test_rows_of_every_kind(tmp_path: Path) -> None:
    rows = [
        {"body": "one", "url": "http://a/1", "license": "CC0-1.0", "stars": 3},
        {"body": "two\nlines", "lang": "fr"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.csv").write_text('body,url,license,stars\none,http://a/1,CC0-1.0,3\n"two\nlines",,,\n')
    duckdb.sql(
        "COPY (SELECT 'one' AS body, 'http://a/1' AS url, 'CC0-1.0' AS license, 3 AS stars, DATE '2024-01-02' AS date)"
        f" TO '{tmp_path / 'c.parquet'}' (FORMAT parquet)"
    )
    json_rows, csv_rows, parquet_rows = (found(file, field="body") for file in raw_files([tmp_path])[0])
    assert [dict(row.metadata) for row in json_rows if isinstance(row, Document)] == [
        {"url": "http://a/1", "licence": "CC0-1.0", "stars": 3},
        {"language": "fr"},
    ]
    assert [row.id for row in json_rows] == ["a.jsonl:0", f"a.jsonl:{len(json.dumps(rows[0])) + 1}"]
    assert [(row.text, row.id) for row in csv_rows if isinstance(row, Document)] == [
        ("one", "b.csv:0"),
        ("two\nlines", "b.csv:1"),
    ]
    (only,) = parquet_rows
    assert isinstance(only, Document)
    assert only.metadata == {"url": "http://a/1", "licence": "CC0-1.0", "stars": 3, "date": "2024-01-02"}


def test_a_page_and_what_it_says_of_itself(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(PAGE)
    (only,) = found(tmp_path / "a.html")
    assert isinstance(only, Document)
    assert only.text == PAGE_TEXT
    assert only.metadata == {
        "url": "https://example.org/page",
        "licence": "https://example.org/licence",
        "date": "2024-05-06",
        "language": "en",
    }
    (everything,) = texts(tmp_path / "a.html", html="all")
    assert "About us" in everything and "Terms of use" in everything and PAGE_TEXT in everything


def crawl() -> bytes:
    page = response(PAGE, "Content-Type: text/html; charset=utf-8")
    about = {"WARC_Target_URI": "<http://a/1>", "WARC_Date": "2024-01-02T03:04:05Z"}
    return b"".join(
        [
            record("warcinfo", b"software: none"),
            record("request", b"GET / HTTP/1.1\r\n\r\n"),
            record("response", page, Content_Type="application/http; msgtype=response", **about),
            record("conversion", "früh".encode(), Content_Type="text/plain", WARC_Identified_Content_Language="deu"),
            record("response", response(b"gone", status="404 Not Found")),
            record("response", response(b"\x89PNG", "Content-Type: image/png")),
        ]
    )


def test_what_keeps_a_page_from_training_is_read(tmp_path: Path) -> None:
    meta = b'<meta name="Robots" content="noindex, noai"><meta name="tdm-reservation" content="1">'
    (tmp_path / "a.html").write_bytes(PAGE.replace(b"<title>", meta + b"<title>"))
    (tmp_path / "b.html").write_bytes(PAGE.replace(b"<title>", b'<meta name="robots" content="index"><title>'))
    headers = ["Content-Type: text/html", "X-Robots-Tag: noindex", "x-robots-tag: gptbot: noai", "TDM-Reservation: 0"]
    (tmp_path / "c.warc").write_bytes(record("response", response(PAGE, *headers)))
    pages = [found(tmp_path / name)[0] for name in ("a.html", "b.html", "c.warc")]
    names = {"robots", "x-robots-tag", "tdm-reservation"}
    assert [{k: v for k, v in one.metadata.items() if k in names} for one in pages if isinstance(one, Document)] == [
        {"robots": "noindex, noai", "tdm-reservation": "1"},
        {},
        {"x-robots-tag": "gptbot: noai"},
    ]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.zst"])
def test_a_web_archive(tmp_path: Path, name: str) -> None:
    data = crawl()
    packed = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.split(".")[-1], bytes)(data)
    (tmp_path / name).write_bytes(packed)
    assert texts(tmp_path / name) == [PAGE_TEXT, "früh", "HTTP status", "no page or plain text"]
    page, wet, *_ = found(tmp_path / name)
    assert isinstance(page, Document) and isinstance(wet, Document)
    assert page.id == f"{name}:{data.index(b'WARC/1.0', data.index(b'GET'))}"
    assert page.metadata == {
        "url": "http://a/1",
        "date": "2024-01-02T03:04:05Z",
        "language": "en",
        "licence": "https://example.org/licence",
    }
    assert wet.metadata == {"language": "de"}


def archive(path: Path, files: dict[str, bytes]) -> Path:
    """A zip or tar file."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            for name, content in files.items():
                made.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tar:
            for name, content in files.items():
                about = tarfile.TarInfo(name)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz"])
def test_archives_of_files(tmp_path: Path, name: str) -> None:
    files = {
        "x/a.txt": b"plain",
        "x/b.jsonl.gz": gzip.compress(b'{"text": "row"}\n'),
        "x/c.html": PAGE,
        "x/d.png": b"\x89PNG",
        "x/.git/e.txt": b"hidden",
        "../f.txt": b"outside",
        "x/g.zip": b"PK",
        "x/h.warc": crawl(),
    }
    path = archive(tmp_path / name, files)
    assert texts(path) == [
        *("plain", "row", PAGE_TEXT, "unknown kind", "name outside its archive", "archive in an archive"),
        *(PAGE_TEXT, "früh", "HTTP status", "no page or plain text"),
    ]
    first = found(path)[0]
    assert (first.id, first.source) == (f"{name}:0/x/a.txt:0", f"{path}/x/a.txt")


def test_a_file_cut_anywhere_gives_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"row {number}" + "é" * (number % 7)}, ensure_ascii=False) for number in range(23)]
    path.write_text("\n".join([*lines[:5], "", "bad", *lines[5:]]), encoding="utf-8")  # the last line has no end
    whole = found(path, max_bad=0.1)
    assert len(whole) == 24
    for size in range(1, path.stat().st_size + 3):
        cut = [one for start, stop in stretches(path, size) for one in found(path, start, stop, max_bad=0.1)]
        assert cut == whole, size
    assert stretches(tmp_path / "b.csv", 3) == [(0, None)]


def test_a_folder_of_pages_has_other_files(tmp_path: Path) -> None:
    for name in ("a.html", "a.css", "b.png"):
        (tmp_path / name).write_bytes(PAGE)
    assert raw_files([tmp_path]) == ([tmp_path / "a.html"], [tmp_path / "a.css", tmp_path / "b.png"])
    with pytest.raises(UserError, match=r"a\.css is of no kind"):
        raw_files([tmp_path / "a.css"])


def test_ids_begin_with_the_name_they_are_given(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert [one.id for one in raw_documents(tmp_path / "a.txt", ReadingSettings(), name="in/a.txt")] == ["in/a.txt:0"]
