"""What reading does with files that lie, are damaged, or are made to harm: they cost themselves, and are told of."""

from __future__ import annotations

import gzip
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from pathlib import Path

import duckdb
import pytest
import zstandard

from idiolect.errors import UserError
from idiolect.text.document import Document, Drop
from idiolect.text.reading.child import child
from idiolect.text.reading.raw import Unread, judge, raw_documents
from idiolect.text.settings import ReadingSettings

ROW = b'{"text": "row"}\n'
HTML = ["Content-Type: text/html"]


def found(path: Path, **settings: object) -> list[Document | Unread]:
    return list(raw_documents(path, ReadingSettings(**settings)))  # type: ignore[arg-type]


def texts(path: Path, **settings: object) -> list[str]:
    """The text of each document, or the reason why there is none."""
    return [one.text if isinstance(one, Document) else one.drop.reason for one in found(path, **settings)]


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# encodings


@pytest.mark.parametrize("name", ["a.txt", "a.html"])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Überall Äpfel und Öl: schöne Grüße aus der großen Stadt.", "latin-1"),
        ("Привет, мир. Это просто проверка кодировки текста.", "koi8-r"),
        ("Привет, мир. Это просто проверка кодировки текста.", "cp1251"),
        ("これは日本語のテキストです。今日は天気がいいですね。", "shift_jis"),
        ("Naïve café, in sixteen bits.", "utf-16"),
        ("Naïve café, marked.", "utf-8-sig"),
    ],
)
def test_encodings_that_are_not_declared(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    page = f"<p>{text}</p>" if name.endswith("html") else text
    assert texts(written(tmp_path / name, page.encode(encoding))) == [text]


def test_a_declared_encoding_counts_where_it_fits(tmp_path: Path) -> None:
    page = "<meta charset={}><p>Řeka, měsíc, noc</p>"
    assert texts(written(tmp_path / "a.html", page.format("iso-8859-2").encode("iso-8859-2"))) == ["Řeka, měsíc, noc"]
    assert texts(written(tmp_path / "b.html", page.format("zip").encode())) == ["Řeka, měsíc, noc"]  # it is UTF-8
    assert texts(written(tmp_path / "c.html", page.format("utf-16").encode())) == ["Řeka, měsíc, noc"]


def test_bytes_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    noise = zlib.compress(bytes(range(256)) * 99)[:400] * 3
    assert texts(written(tmp_path / "a.txt", b"\xef\xbb\xbf" + noise)) == ["unknown encoding"]
    assert texts(written(tmp_path / "b.txt", b"words " * 999 + b"\xff\n")) == ["words " * 999 + "\ufffd\n"]


# rows


def test_bad_rows_are_told_with_their_place(tmp_path: Path) -> None:
    bad = [b"not json", b'{"text": 7}', b"\xff\xfe", b'{"text": "half \\ud800"}', b"[" * 200_000, b'{"text": " "}']
    bad += [b'{"text": "x", "url": ["\\udfff"]}', b'{"text": "x", "n": NaN}', b'{"text": "' + b"x" * 300_000 + b'"}']
    path = written(tmp_path / "a.jsonl", b"".join(ROW * 99 + line + b"\n" for line in bad))
    unread = [one for one in found(path, max_bad=0.1, largest=250_000) if isinstance(one, Unread)]
    assert [one.drop.reason for one in unread] == [
        *("not JSON", "no text in field 'text'", "not UTF-8", "half of a surrogate pair", "not JSON", "no text"),
        *("half of a surrogate pair", "not JSON", "too large"),
    ]
    data = path.read_bytes()
    assert [data[int(one.id.removeprefix("a.jsonl:")) :][: len(line)] for one, line in zip(unread, bad)] == bad
    assert len(texts(path, max_bad=0.1)) == 99 * len(bad) + len(bad)


def test_too_many_bad_rows_refuse_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", ROW * 98 + b"bad\nbad\n")
    with pytest.raises(UserError, match=r"2 of 100 rows cannot be read \(row 99: not JSON"):
        found(path)
    part = list(raw_documents(path, ReadingSettings(), 98 * len(ROW)))
    assert [one.drop.reason for one in part if isinstance(one, Unread)] == ["not JSON"] * 2  # judged by who adds up
    with pytest.raises(UserError, match="2 of 100"):
        judge(str(path), 2, 100, "row 99", ReadingSettings())
    judge(str(path), 1, 100, "row 99", ReadingSettings())


def test_tables_that_are_broken(tmp_path: Path) -> None:
    lines = [b"text,url", b"one,u", b"short", b'"no "end" of it,u', b"nul\x00,u", b"b,\xff", b"x" * 300_000 + b",u"]
    path = written(tmp_path / "a.csv", b"\n".join([*lines, b"last,u", b""]))
    assert texts(path, max_bad=1, largest=250_000) == [
        *("one", "columns are missing", "not csv", "nul\x00", "not UTF-8", "not csv", "last")
    ]
    with pytest.raises(UserError, match="no column 'body'"):
        found(path, field="body")


def test_parquet_that_was_tampered_with_ends_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    duckdb.sql(f"COPY (SELECT 'text ' || i AS text FROM range(999) t(i)) TO '{path}' (FORMAT parquet)")
    whole = path.read_bytes()
    assert len(texts(path)) == 999
    for data in (whole[:-9], whole[:40] + whole[80:], whole[:-40] + b"\xff" * 32 + whole[-8:], b"PAR1" * 99):
        *_, last = texts(written(path, data))
        assert last == "damaged file"
    with pytest.raises(UserError, match=r"a\.parquet has no column 'body'"):
        found(written(path, whole), field="body")


# packing


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_of_a_file_that_was_cut_off_whole_rows_are_kept(tmp_path: Path, name: str) -> None:
    data = b"".join(b'{"text": "%d"}\n' % (number * 7919) for number in range(50_000))
    packed = gzip.compress(data) if name.endswith("gz") else zstandard.compress(data)
    *rows, last = texts(written(tmp_path / name, packed[: len(packed) // 2]))
    assert len(rows) > 5_000 and rows == [str(number * 7919) for number in range(len(rows))]
    assert last == "damaged file"


def test_bombs_stop_and_what_came_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idiolect.text.stream.BOMB_BYTES", 1 << 20)
    big = b"\0" * (16 << 20)
    paths = [
        written(tmp_path / "a.jsonl.gz", gzip.compress(ROW + big)),
        written(tmp_path / "b.jsonl.zst", zstandard.compress(ROW + big)),
        tmp_path / "c.zip",
        tmp_path / "d.tar.gz",
        tmp_path / "e.zip",
    ]
    with zipfile.ZipFile(paths[2], "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.jsonl", ROW)
        for number in range(9):
            made.writestr(f"{number}.jsonl", big)
    with tarfile.open(paths[3], "w:gz") as tar:
        for name, content in (("a.jsonl", ROW), ("b.jsonl", big)):
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    with zipfile.ZipFile(paths[4], "w", zipfile.ZIP_DEFLATED) as made:  # packed twice
        made.writestr("a.jsonl", ROW)
        made.writestr("b.jsonl.gz", gzip.compress(big))
    for path in paths:
        row, *_, bomb = found(path, max_bad=1)
        assert isinstance(row, Document) and isinstance(bomb, Unread), path
        assert "200 times" in str(bomb.drop.value), path


# archives


def test_a_damaged_file_in_a_zip_costs_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        for number in range(3):
            made.writestr(f"{number}.jsonl", b'{"text": "row %d"}\n' % number)
        made.writestr("4.txt", "packed in a way of its own", zipfile.ZIP_LZMA)
    data = path.read_bytes()
    assert texts(written(path, data.replace(b'"row 1"', b'"ROW 1"'))) == [
        *("row 0", "damaged file", "row 2", "unknown compression")
    ]
    assert texts(written(path, data[:-30])) == ["damaged file"]
    at = data.rindex(b"PK\x05\x06")
    assert texts(written(path, data[: at + 12] + b"\xff\xff\xff\x7f" + data[at + 16 :])) == ["damaged file"]
    at = data.index(b"PK\x01\x02") + 8
    assert texts(written(path, data[:at] + b"\x01" + data[at + 1 :]))[0] == "encrypted"


def tar_of(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                about = tarfile.TarInfo(member[0])
                about.size = len(member[1])
                tar.addfile(about, io.BytesIO(member[1]))
    return out.getvalue()


def link(kind: bytes) -> tarfile.TarInfo:
    about = tarfile.TarInfo("link.txt")
    about.type, about.linkname = kind, "/etc/passwd"
    return about


def with_size(data: bytes, at: int, field: bytes) -> bytes:
    """A tar file whose header at a place states another size, as if it had been written so."""
    header = (
        data[at : at + 124] + field.ljust(12, b"\0") + data[at + 136 : at + 148] + b" " * 8 + data[at + 156 : at + 512]
    )
    return data[:at] + header[:148] + b"%06o\0 " % sum(header) + header[156:] + data[at + 512 :]


def test_hostile_tars(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    links = [link(kind) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)]
    whole = tar_of(("a.txt", b"first"), *links, ("b.txt", b"last"))
    assert texts(written(path, whole)) == ["first", *["no plain file"] * 4, "last"]
    assert texts(written(path, whole[:1000])) == ["first", "damaged file"]
    damaged = whole[:1030] + b"\xff" + whole[1031:]
    assert texts(written(path, damaged)) == ["first", "damaged file"]
    whole = tar_of(("a.txt", b"first"), ("b.txt", b"last"))
    for size in (b"77777777777", b"\x80\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff", b"\xff" * 12, b"-1"):
        began = time.process_time()
        *rest, last = texts(written(path, with_size(whole, 1024, size)))
        assert rest[0] == "first" and last == "damaged file"
        assert time.process_time() - began < 1
    pax = bytearray(tar_of(link(tarfile.XHDTYPE), ("b.txt", b"last")))
    assert texts(written(path, with_size(bytes(pax), 0, b"00777777777") + b"0" * (5 << 20))) == ["damaged file"]
    assert texts(written(path, b"no tar at all" * 99)) == ["damaged file"]


# web archives


def record(block: bytes, length: int | None = None, kind: str = "conversion") -> bytes:
    """A record of plain text, or of an HTTP response."""
    stated = len(block) if length is None else length
    about = "text/plain" if kind == "conversion" else "application/http"
    header = f"WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Type: {about}\r\nContent-Length: {stated}\r\n\r\n"
    return header.encode() + block + b"\r\n\r\n"


FIRST, LAST = record(b"first"), record(b"last")


@pytest.mark.parametrize(
    ("middle", "reasons"),
    [
        (record(b"says too much", 40), ["wrong Content-Length"]),
        (record(b"says too little", 9), ["wrong Content-Length"]),
        (record(b"says far too much", 10**9), ["wrong Content-Length"]),
        (record(b"says nonsense", -5), ["not a WARC record"]),
        (record(b"x").replace(b"Content-Length: 1\r\n", b""), ["not a WARC record"]),
        (b"no record at all\r\n\r\n", ["not a WARC record"]),
        (b"WARC/1.0\r\n" * 3 + b"A: " + b"x" * 99_999 + b"\r\n", ["not a WARC record"]),
        (record(b"x" * 5000), ["too large"]),
        (record(b"\xef\xbb\xbf\xff\xfe\xfd"), ["unknown encoding"]),
        (record(b" \r\n "), ["no text"]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_record_that_lies_costs_itself(tmp_path: Path, middle: bytes, reasons: list[str], packed: bool) -> None:
    data = FIRST + middle + LAST
    path = written(tmp_path / ("a.warc.gz" if packed else "a.warc"), gzip.compress(data) if packed else data)
    got = texts(path, largest=4000)
    if packed and b"10000" in middle:
        assert got == ["first", "cut off"]  # how long an unpacked file is shows at its end only
    else:
        assert got[0] == "first" and got[-1] == "last" and [*dict.fromkeys(got[1:-1])] == reasons


def test_the_beginning_of_a_record_in_a_page_is_text(tmp_path: Path) -> None:
    inner = b"how to write one:\n\nWARC/1.0\r\nContent-Length: 3\r\n\r\nabc"
    assert texts(written(tmp_path / "a.warc", FIRST + record(inner) + LAST)) == ["first", inner.decode(), "last"]


def test_an_archive_of_beginnings_takes_no_time_to_speak_of(tmp_path: Path) -> None:
    path = written(tmp_path / "a.warc", b"WARC/1.0\r\nContent-Length: 300000\r\n\r\n" * 30_000)
    began = time.process_time()
    assert {*texts(path)} <= {"wrong Content-Length", "cut off"}
    assert time.process_time() - began < 5


def chunked(data: bytes) -> bytes:
    return (
        b"".join(b"%x\r\n%b\r\n" % (len(data[i : i + 7]), data[i : i + 7]) for i in range(0, len(data), 7))
        + b"0\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        (["Transfer-Encoding: chunked"], chunked(b"<p>some words</p>"), "some words"),
        (["Transfer-Encoding: chunked"], b"<p>joined already</p>", "joined already"),
        (["Content-Encoding: gzip"], gzip.compress(b"<p>packed</p>", mtime=0), "packed"),
        (["Content-Encoding: deflate"], zlib.compress(b"<p>packed</p>"), "packed"),
        (["Content-Encoding: gzip"], b"<p>unpacked already</p>", "unpacked already"),
        (
            ["Content-Encoding: gzip", "Transfer-Encoding: chunked"],
            chunked(gzip.compress(b"<p>both</p>", mtime=0)),
            "both",
        ),
        (["Content-Encoding: gzip"], gzip.compress(b"<p>" + b" " * 99_999, mtime=0), "too large"),
        (["Content-Encoding: gzip"], b"\x1f\x8b no", "damaged page"),
        (["Content-Encoding: br"], b"\x0b\x01", "unknown compression"),
        (["Transfer-Encoding: chunked"], b"fffffffffffffff\r\n<p>lies</p>", "lies"),
    ],
)
def test_bodies_as_the_web_wraps_them(tmp_path: Path, headers: list[str], body: bytes, expected: str) -> None:
    block = "\r\n".join(["HTTP/1.1 200 OK", *HTML, *headers, "", ""]).encode() + body
    path = written(tmp_path / "a.warc", record(block, kind="response") + LAST)
    assert texts(path, largest=9999) == [expected, "last"]


# pages


@pytest.mark.parametrize(
    "page",
    [b"<div>" * 100_000 + b"x", b"<a " + b" ".join(b"a%d=1" % i for i in range(100_000)) + b">x"],
    ids=["nesting", "attributes"],
)
def test_a_page_that_takes_too_long_costs_itself(tmp_path: Path, page: bytes) -> None:
    for name, content in (("a.html", b"<p>first</p>"), ("b.html", page), ("c.html", b"<p>last</p>")):
        (tmp_path / name).write_bytes(content)
    began = time.monotonic()
    got = [texts(tmp_path / name, deadline=0.5)[0] for name in ("a.html", "b.html", "c.html")]
    assert got == ["first", "took too long to read", "last"]
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "page", [b"&#x;&amp" * 100_000, b"<b><p>" * 9999, b"<!DOCTYPE a [<!ENTITY b '&b;&b;'>]><p>&b;"]
)
def test_a_page_of_tricks_is_read(tmp_path: Path, page: bytes) -> None:
    (one,) = found(written(tmp_path / "a.html", page))
    assert isinstance(one, Document) or one.drop == Drop("no text")


def reader() -> int:
    """The process that reads pages."""
    process = child().process
    assert process is not None
    return process.pid


def test_a_reader_that_hangs_costs_one_page(tmp_path: Path) -> None:
    path = written(tmp_path / "a.html", b"<p>words</p>")
    assert texts(path) == ["words"]
    os.kill(reader(), signal.SIGSTOP)
    assert texts(path, deadline=0.3) == ["took too long to read"]
    assert texts(path) == ["words"]


def test_a_reader_that_crashes_costs_the_page_it_was_at(tmp_path: Path) -> None:
    path, nested = written(tmp_path / "a.html", b"<p>words</p>"), written(tmp_path / "b.html", b"<div>" * 100_000)
    assert texts(path) == ["words"]
    killer = threading.Timer(0.3, os.kill, (reader(), signal.SIGKILL))
    killer.start()
    assert texts(nested, deadline=30) == ["crashed its reader"]
    killer.join()
    assert texts(path) == ["words"]
    os.kill(reader(), signal.SIGKILL)
    time.sleep(0.1)
    assert texts(path) == ["words"]  # it died of no page


def test_a_reader_dies_with_who_asked_it() -> None:
    code = """
import os, signal
from idiolect.text.reading.child import child
child().ask("page", {"charset": "", "main": True}, b"<p>x", 9)
print(child().process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(ended.stdout)
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("it is still there")


def test_a_reader_has_no_more_memory_than_it_needs(tmp_path: Path) -> None:
    found(written(tmp_path / "a.html", b"<p>x"))
    limits = Path(f"/proc/{reader()}/limits").read_text()
    assert f"Max address space         {2 << 30}" in limits and "Max open files            64" in limits
