"""A corpus reads again, knows when it changed, and splits without loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from idiolect.errors import UserError
from idiolect.text import read as module
from idiolect.text.corpus import Corpus


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {i}\n" for i in range(11)))
    return path


def words(corpus: Corpus) -> list[str]:
    return [document.text for document in corpus]


def test_it_reads_again(lines: Path) -> None:
    corpus = Corpus([lines], "line")
    assert words(corpus) == words(corpus) == [f"line {i}" for i in range(11)]


def test_the_last_documents_are_held_out(lines: Path) -> None:
    train, held = Corpus([lines], "line").split(0.3)  # int(11 * 0.7) = 7
    assert words(train) == [f"line {i}" for i in range(7)]
    assert words(held) == [f"line {i}" for i in range(7, 11)]
    inner, last = train.split(0.5)
    assert words(inner) == ["line 0", "line 1", "line 2"]
    assert words(last) == [f"line {i}" for i in range(3, 7)]


def test_a_lone_document_is_cut_by_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 40)
    text = "some words\n" * 31  # 341 characters, in parts of 44
    path = tmp_path / "a.txt"
    path.write_text(text)
    train, held = Corpus([path]).split(0.1)  # int(341 * 0.9) = 306, inside a part
    assert "".join(words(train)) == text[:306]
    assert "".join(words(held)) == text[306:]
    for half in (train, held):
        assert [d.last for d in half] == [False] * (len(words(half)) - 1) + [True]
    first, second = held.split(0.5)
    assert "".join(words(first)) + "".join(words(second)) == text[306:]


def test_a_document_in_parts_stays_whole_in_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 40)
    (tmp_path / "a.txt").write_text("short")
    (tmp_path / "b.txt").write_text("some words\n" * 31)
    (tmp_path / "c.txt").write_text("end")
    train, held = Corpus([tmp_path]).split(0.4)  # int(3 * 0.6) = 1
    assert words(train) == ["short"]
    assert "".join(words(held)) == "some words\n" * 31 + "end"


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 2.0, 0.9])
def test_no_half_is_empty(tmp_path: Path, share: float) -> None:
    (tmp_path / "a.txt").write_text("word")
    with pytest.raises(UserError):
        Corpus([tmp_path]).split(share)


def test_the_fingerprint_follows_content_and_settings_not_names(lines: Path, tmp_path: Path) -> None:
    corpus = Corpus([lines], "line")
    copy = tmp_path / "copy.txt"
    copy.write_bytes(lines.read_bytes())
    assert Corpus([copy], "line").fingerprint == corpus.fingerprint
    assert Corpus([lines], "file").fingerprint != corpus.fingerprint
    train, held = corpus.split(0.3)
    assert len({corpus.fingerprint, train.fingerprint, held.fingerprint}) == 3
    copy.write_text(copy.read_text() + "x")
    assert Corpus([copy], "line").fingerprint != corpus.fingerprint
