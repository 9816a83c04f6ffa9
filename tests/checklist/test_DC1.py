"""DC1: text of every kind is read, as a stream however large it is, and a corpus says what it consists of."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import duckdb
import zstandard

from idiolect import api
from idiolect.text.document import Document
from idiolect.text.reading.raw import raw_documents, raw_files
from idiolect.text.settings import ReadingSettings

TEXT = "The wheel of the patent turns 7 times; der Zähler zählt."
PAGE = f"<!DOCTYPE html><html><body><main><p>{TEXT}</p></main></body></html>".encode()


def record(kind: str, about: str, block: bytes) -> bytes:
    header = f"WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Type: {about}\r\nContent-Length: {len(block)}\r\n\r\n"
    return header.encode() + block + b"\r\n\r\n"


def test_DC1_text_of_every_kind_is_read(tmp_path: Path) -> None:
    row = json.dumps({"text": TEXT}).encode() + b"\n"
    response = record("response", "application/http", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + PAGE)
    duckdb.sql(f"COPY (SELECT '{TEXT}' AS text) TO '{tmp_path / 'a.parquet'}' (FORMAT parquet)")
    files = {
        "b.txt": TEXT.encode(),
        "c.md": TEXT.encode(),
        "d.jsonl": row,
        "e.csv": f'text\n"{TEXT}"\n'.encode(),
        "f.html": PAGE,
        "g.warc": response,
        "h.wet": record("conversion", "text/plain", TEXT.encode()),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        (tmp_path / f"{name}.zst").write_bytes(zstandard.compress(content))
    found, others = raw_files([tmp_path])
    assert len(found) == 1 + 3 * len(files) and not others
    for path in found:
        (one,) = raw_documents(path, ReadingSettings())
        assert isinstance(one, Document) and one.text.strip() == TEXT, path


READ = """
import resource, sys
from pathlib import Path
from idiolect.text.reading.raw import raw_documents
from idiolect.text.settings import ReadingSettings
settings = ReadingSettings(document="paragraph")
found = lambda: sum(len(one.text) for one in raw_documents(Path(sys.argv[1]), settings))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(found(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_DC1_a_stream_larger_than_the_memory_it_takes(tmp_path: Path) -> None:
    """30 MB of each kind in half of it."""
    size = 30_000_000
    text = "It was the best of times, it was the worst of times. " * 40
    row = (json.dumps({"text": text}) + "\n").encode()
    contents = {
        "a.txt": (text + "\n\n").encode(),
        "b.jsonl.gz": row,
        "c.csv": f'"{text}"\n'.encode(),
        "d.wet": record("conversion", "text/plain", text.encode()),
    }
    for name, one in contents.items():
        path = tmp_path / name
        with gzip.open(path, "wb", 1) if name.endswith("gz") else open(path, "wb") as out:
            if name.endswith("csv"):
                out.write(b"text\n")
            block = one * 100
            for _ in range(size // len(block)):
                out.write(block)
        said = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True).stdout
        read, kilobytes = map(int, said.split())
        assert read > 0.9 * size and kilobytes * 1024 < size / 2, (name, read, kilobytes)
        path.unlink()


def test_DC1_a_corpus_says_what_it_consists_of(tmp_path: Path) -> None:
    (tmp_path / "patents").mkdir()
    (tmp_path / "news").mkdir()
    for folder, count in (("patents", 3), ("news", 5)):
        rows = [{"text": f"{TEXT} {folder} {i}", "url": f"https://{folder}.example/{i}"} for i in range(count)]
        (tmp_path / folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["curate.filters=[]", "curate.near.drop=false"]
    api.curate([tmp_path / "patents", tmp_path / "news"], tmp_path / "out", overrides=asked, workers=1)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    for column, ending in (("source", ""), ("site", ".example")):
        found = {row["value"]: (row["documents"], row["bytes"], row["tokens"]) for row in report["kept"][column]}
        assert found == {  # 13 words a document
            f"{name}{ending}": (count, count * len(f"{TEXT} {name} 0".encode()), count * 13)
            for name, count in (("patents", 3), ("news", 5))
        }
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(name in page for name in ("patents.example", "news.example"))
