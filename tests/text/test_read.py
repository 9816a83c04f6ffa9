"""Documents out of files of every kind, and what is refused."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import duckdb
import pytest
import zstandard

from idiolect.errors import UserError
from idiolect.text import read as module
from idiolect.text.read import files_of, read
from idiolect.text.stream import chunks


def texts(*paths: Path, **options: object) -> list[str]:
    return [document.text for document in read(paths, **options)]  # type: ignore[arg-type]


def rows(path: Path, *values: object) -> Path:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    return path


def test_a_folder_is_walked_in_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/z.md", "b/a.txt", "c.txt", ".hidden.bin"):
        (tmp_path / name).write_text(name)
    assert [f.relative_to(tmp_path).as_posix() for f in files_of([tmp_path])] == ["b/a.txt", "b/z.md", "c.txt"]
    assert files_of([tmp_path / "c.txt", tmp_path / "c.txt"]) == [tmp_path / "c.txt"]


@pytest.mark.parametrize("name", ["a.exe", "a", "a.tar.gz"])
def test_unknown_kinds_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=name):
        files_of([tmp_path])


def test_units_of_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\n \n\nthree\n")
    assert texts(path) == ["one\r\ntwo\n \n\nthree\n"]
    assert texts(path, document="line") == ["one", "two", "three"]
    assert texts(path, document="paragraph") == ["one\r\ntwo", "three"]


def test_every_document_is_numbered_and_says_where_it_is_from(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n")
    found = list(read([path], document="line"))
    assert [(d.id, d.source, d.last) for d in found] == [("a.txt:0", str(path), True), ("a.txt:1", str(path), True)]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfhi")
    assert texts(path) == ["hi"]


def test_packed_files_read_as_plain_ones(tmp_path: Path) -> None:
    text = "a line with words\n" * 5000 + "漢字"
    data = text.encode()
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(data))
    halves = [zstandard.compress(data[:777]), zstandard.compress(data[777:])]  # two frames, cut inside a character run
    (tmp_path / "b.txt.zst").write_bytes(b"".join(halves))
    assert texts(tmp_path) == [text, text]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_gz_file_may_have_many_members(tmp_path: Path, size: int) -> None:
    members = [b"x" * size, b"", b"y", b"z" * 200_003]
    packed = b"".join(gzip.compress(member) for member in members) + b"\0" * 600  # filled up, as tapes are
    (tmp_path / "a.txt.gz").write_bytes(packed)
    assert b"".join(chunks(tmp_path / "a.txt.gz")) == b"".join(members)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt.gz", gzip.compress(b"text " * 9999, mtime=0)[:-9]),
        ("a.txt.gz", b"no gzip"),
        ("a.txt.zst", zstandard.compress(b"text " * 9999)[:-5]),
        ("a.txt.zst", b"no zstandard"),
        ("a.parquet", b"no parquet"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=name):
        texts(tmp_path)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_decompression_bomb_is_refused(tmp_path: Path, pack: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idiolect.text.stream.BOMB_BYTES", 1 << 20)
    name = "a.txt.gz" if pack is gzip.compress else "a.txt.zst"
    (tmp_path / name).write_bytes(pack(b"\n" * (4 << 20)))  # type: ignore[operator]
    with pytest.raises(UserError, match="200 times"):
        texts(tmp_path)


@pytest.mark.parametrize("offset", [0, 5, (1 << 20) - 1, 1 << 20, (1 << 20) + 3])
def test_bad_utf8_is_named_by_file_and_byte(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"x" * offset + b"\xe9t\xe9")
    with pytest.raises(UserError, match=rf"bad\.txt.*byte {offset} "):
        texts(path)


def test_a_character_across_two_chunks_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    text = "x" * ((1 << 20) - 1) + "漢"
    path.write_text(text, encoding="utf-8")
    assert texts(path) == [text]


def test_a_cut_off_last_character_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("abc漢".encode()[:-1])
    with pytest.raises(UserError, match="byte 3 "):
        texts(path)


@pytest.mark.parametrize("line", ["some words\n", "\n no line begins with a word \n"])
def test_a_long_text_comes_in_parts_that_join_to_it(tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 1000)
    path = tmp_path / "a.txt"
    path.write_text(line * 300)
    found = list(read([path]))
    assert "".join(d.text for d in found) == line * 300
    assert [d.last for d in found] == [False] * (len(found) - 1) + [True]
    assert len({d.id for d in found}) == 1
    assert all(len(d.text) >= 1000 for d in found[:-1]) and len(found) > 2


def test_lone_huge_lines_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("idiolect.text.stream.LARGEST_LINE", "idiolect.text.read.LARGEST_LINE"):
        monkeypatch.setattr(name, 1 << 20)
    monkeypatch.setattr(module, "PART", 1 << 10)
    (tmp_path / "a.txt").write_text("x" * (3 << 20))
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "x" * (3 << 20)}))
    for name, unit in (("a.txt", "file"), ("a.txt", "line"), ("a.txt", "paragraph"), ("b.jsonl", "file")):
        with pytest.raises(UserError, match=f"{name} has more than 1 MB"):
            texts(tmp_path / name, document=unit)


def test_jsonl_rows_keep_their_other_fields(tmp_path: Path) -> None:
    path = rows(tmp_path / "a.jsonl", {"body": "one", "lang": "en"}, {"body": " "}, {"body": "two\nlines"})
    found = list(read([path], field="body"))
    assert [d.text for d in found] == ["one", "two\nlines"]
    assert [d.id for d in found] == ["a.jsonl:0", "a.jsonl:2"]
    assert dict(found[0].metadata) == {"lang": "en"}


BAD_ROWS = [
    b"not json",
    b'{"text": "cut off',
    b'{"text": 7}',
    b'{"other": "x"}',
    b'["text"]',
    b"\xff\xfe",
    b'{"text": "half \\ud800"}',
    b'{"text": "x", "n": NaN}',
    b'{"text": "x", "n": ' + b"9" * 5000 + b"}",
    b'{"text": "x", "text": "y"}',
    b"[" * 200_000,
    b'""',
    b'"text"',
]


@pytest.mark.parametrize("bad", BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_bad_rows_are_left_out_and_counted(tmp_path: Path, bad: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' * 99 + bad + b'\n{"text": "end"}\n')
    with caplog.at_level(logging.WARNING):
        assert texts(path) == ["good"] * 99 + ["end"]
    assert "left out 1 of 101 rows (row 100: " in caplog.text


def test_too_many_bad_rows_stop_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' * 98 + b"bad\nbad\n")
    with pytest.raises(UserError, match=r"2 of 100 rows.*row 99"):
        texts(path)
    assert len(texts(path, max_bad=0.02)) == 98


def test_too_many_bad_rows_stop_a_long_file_early(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' * 900 + b"bad\n" * 100_000)
    with pytest.raises(UserError, match="rows cannot be read") as caught:
        texts(path)
    assert "101 of 1001 rows" in caught.value.what


@pytest.mark.parametrize("name", ["a.parquet", "b[1]*.parquet", "c.parquet.zst"])
def test_parquet(tmp_path: Path, name: str) -> None:
    plain = tmp_path / "plain.parquet"
    duckdb.sql(
        "COPY (SELECT 'text ' || i AS body, i AS number FROM range(700) t(i)) TO '" + str(plain) + "' (FORMAT parquet)"
    )
    data = plain.read_bytes()
    plain.unlink()
    (tmp_path / name).write_bytes(zstandard.compress(data) if name.endswith("zst") else data)
    found = list(read([tmp_path], field="body"))
    assert [d.text for d in found] == [f"text {i}" for i in range(700)]
    assert found[3].metadata == {"number": 3}
    with pytest.raises(UserError, match="no column 'text'"):
        texts(tmp_path)


def test_no_text_at_all_is_an_empty_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n\t\n")
    rows(tmp_path / "b.jsonl", {"text": ""})
    with pytest.raises(UserError, match="empty corpus"):
        texts(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        texts(tmp_path / "absent")


def test_a_name_that_is_too_long_is_refused():
    with pytest.raises(UserError, match="is no path"):
        list(read(["x" * 5000]))
