"""A curation end to end: what was planted is found and nothing else, the same bytes whoever does the work and after
whatever kill."""

import json
import random
import signal
import subprocess
import sys
import time
import unicodedata

import duckdb
import pytest

from idiolect import api
from idiolect.errors import Exit, UserError
from idiolect.text.curation import curate as curating
from idiolect.text.read import read

WORDS = ["time", "way", "year", "work", "day", "part", "case", "group", "place", "point", "fact", "hand"]


def prose(number, words=120):
    """A text of its own; two share no run of five words."""
    draw = random.Random(number)
    return " ".join(f"{draw.choice(WORDS)}{draw.randrange(10**6)}" for _ in range(words))


PLANTED = {
    "url": "HTTP://Site.Example:80/page/3/?utm_source=x#top",
    "text": unicodedata.normalize("NFD", "Café " + prose(5)).replace(" ", "  ", 7) + "\n\n",
    "near": prose(7).replace(" ", " changed ", 1),
    "empty": " \n ",
    "mail": prose(301) + " write to jane.doe@mail.example today",
}


def heap(folder, extra=()):
    """Three files: ordinary documents, and what is planted, across them."""
    folder.mkdir()
    rows = [{"url": f"http://site.example/page/{n}", "text": prose(n), "dialect": "ab"[n % 2]} for n in range(23)]
    rows[5]["text"] = "Café " + prose(5)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    planted = [
        {"url": PLANTED["url"], "text": prose(101), "licence": "CC-BY-4.0"},
        {"url": "http://other.example/", "text": PLANTED["text"]},
        {"url": "http://[half", "text": PLANTED["near"]},
        {"url": None, "text": PLANTED["empty"]},
        {"url": "http://[half a bracket", "text": PLANTED["mail"]},
        *extra,
    ]
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in planted))
    (folder / "c.txt").write_text(prose(201))
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def rows(corpus, part="text"):
    """The rows of a corpus, in their order."""
    found = []
    for path in sorted((corpus / part).iterdir()):
        read = duckdb.execute(f"SELECT * FROM read_parquet('{path}')")
        found += [dict(zip([column[0] for column in read.description], row)) for row in read.fetchall()]
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curate")
    result = api.curate([heap(folder / "heap")], folder / "corpus", workers=1)
    return folder, result


def test_what_was_planted_is_found_and_nothing_else(made):
    folder, result = made
    assert (result["documents_in"], result["documents_out"]) == (29, 25)
    assert result["dropped"] == {"duplicate address": 1, "duplicate text": 1, "near duplicate": 1, "no text": 1}
    assert result["redacted"] == {"email": 1}
    assert set(result) == {
        *("documents_in", "documents_out", "bytes_in", "bytes_out", "dropped", "redacted", "seconds"),
        *("folder", "report"),
    }
    kept = rows(folder / "corpus")
    assert [row["text"] for row in kept[:3]] == [prose(0), prose(1), prose(2)]
    assert "jane.doe" not in str(kept) and "<EMAIL>" in str(kept)
    assert len({row["id"] for row in kept}) == 25
    assert {row["source"] for row in kept} == {"heap"}
    assert not (folder / ".curating-corpus").exists()


def test_what_was_dropped_is_kept_with_the_reason_and_the_document_it_repeats(made):
    folder, _ = made
    ids = {row["text"]: row["id"] for row in rows(folder / "corpus")}
    dropped = {row["reason"]: row for row in rows(folder / "corpus", "dropped")}
    assert dropped["duplicate address"]["value"] == ids[prose(3)]
    assert dropped["duplicate text"]["value"] == ids["Café " + prose(5)]
    assert dropped["near duplicate"]["value"] == ids[prose(7)]


def test_the_report_adds_up(made):
    folder, result = made
    report = json.loads((folder / "corpus" / "report.json").read_text())
    steps = {row["step"]: row["documents"] for row in report["funnel"]}
    assert steps["read"] == 29 and steps["reading"] == 28 and steps["the corpus"] == 25
    assert report["files_left_out"] == 1
    assert sum(row["documents"] for row in report["kept"]["site"]) == 25
    assert {row["value"]: row["documents"] for row in report["kept"]["licence"]} == {"unknown": 25}
    assert report["bytes_out"] == sum(len(row["text"].encode()) for row in rows(folder / "corpus"))
    page = (folder / "corpus" / "report.html").read_text()
    assert "near duplicate" in page and "<script" not in page


def test_a_corpus_is_read_as_text(made):
    folder, _ = made
    assert [document.text for document in read([folder / "corpus"])] == [row["text"] for row in rows(folder / "corpus")]


def test_a_finished_corpus_is_not_made_again_and_another_is_not_put_in_its_place(made):
    folder, result = made
    again = api.curate([folder / "heap"], folder / "corpus", workers=1)
    assert {**again, "seconds": 0} == {**result, "seconds": 0}
    with pytest.raises(UserError, match="other text or other settings"):
        api.curate([folder / "heap"], folder / "corpus", overrides=["curate.near.drop=false"])


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_the_bytes_do_not_depend_on_who_does_the_work(made, engine, tmp_path, monkeypatch):
    folder, _ = made
    api.curate([folder / "heap"], tmp_path / "corpus", workers=2, engine=engine)
    assert contents(tmp_path / "corpus") == contents(folder / "corpus")


def test_nor_on_how_the_text_is_cut_into_parts(made, tmp_path, monkeypatch):
    folder, _ = made
    monkeypatch.setattr(curating, "PART_BYTES", 3000)
    api.curate([folder / "heap"], tmp_path / "corpus", workers=1)
    assert rows(tmp_path / "corpus") == rows(folder / "corpus")


def test_a_filter_that_flags_persons_drops_nothing_before_it_was_seen_by_slice(tmp_path):
    heap(tmp_path / "heap")
    (tmp_path / "words").write_text("time1\n")
    asked = ['curate.filters=["toxicity"]', f"curate.toxicity.words={tmp_path / 'words'}"]
    out, given = tmp_path / "corpus", [tmp_path / "heap"]
    with pytest.raises(UserError, match="no slices are given"):
        api.curate(given, out, overrides=asked, workers=1)
    asked.append('curate.slices=["dialect"]')
    with pytest.raises(UserError, match="before its flags were seen by slice"):
        api.curate(given, out, overrides=asked, workers=1)
    seen = api.curate(given, out, overrides=asked, dry_run=True, workers=1)
    assert not (out / "text").exists() and seen["documents_in"] == 29
    report = json.loads((out / "report.json").read_text())
    assert {row["value"] for row in report["slices"]["toxicity"]["dialect"]} == {"a", "b", "unknown"}
    assert api.curate(given, out, overrides=asked, workers=1)["documents_out"] <= 25
    assert (out / "text").is_dir()


def test_what_is_configured_but_not_asked_is_refused(tmp_path):
    with pytest.raises(UserError, match="consent.removed has no effect without the filter removed"):
        api.curate(
            [heap(tmp_path / "heap")], tmp_path / "corpus", overrides=["curate.filters=[]", "curate.consent.removed=x"]
        )


def test_evaluation_sets_are_found_in_the_heap_and_a_filter_learns_from_it(tmp_path):
    (tmp_path / "quiz.jsonl").write_text(
        json.dumps({"question": prose(3, 30)}) + "\n" + json.dumps({"q": prose(999, 30)})
    )
    (tmp_path / "good.jsonl").write_text(
        "".join(json.dumps({"text": f"Good prose about {n}."}) + "\n" for n in range(97))
    )
    asked = [
        f'curate.decontaminate.against=["{tmp_path}/quiz.jsonl"]',
        f'curate.quality.good=["{tmp_path}/good.jsonl"]',
    ]
    asked.append('curate.filters=["decontaminate", "quality"]')
    found = api.curate([heap(tmp_path / "heap")], tmp_path / "corpus", overrides=asked, workers=2)
    assert found["dropped"]["overlaps quiz.jsonl"] == 1
    assert found["dropped"]["unlike the good text"] == 27
    report = json.loads((tmp_path / "corpus" / "report.json").read_text())
    assert (report["overlap"]["quiz.jsonl"]["found"], report["overlap"]["quiz.jsonl"]["examples"]) == (1, 2)
    assert report["learnt"]["quality"]["auc"] > 0.9


def test_unknown_filters_are_named_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match='did you mean "gopher_quality"'):
        api.curate([heap(tmp_path / "heap")], tmp_path / "corpus", overrides=['curate.filters=["gopher_qualty"]'])


def test_a_folder_that_is_called_like_a_setting_is_no_part_of_a_corpus(made, monkeypatch):
    folder, result = made
    monkeypatch.chdir(folder)
    (folder / "text").mkdir()  # as the field that holds the text is called
    again = api.curate([folder / "heap"], folder / "corpus", workers=1)
    assert {**again, "seconds": 0} == {**result, "seconds": 0}


def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(curating, "PACKAGES", ("duckdb", "no-such-package"))
    with pytest.raises(UserError, match="no-such-package") as raised:
        api.curate([heap(tmp_path / "heap")], tmp_path / "corpus")
    assert "idiolect[data]" in raised.value.mend


def test_as_many_processes_as_there_can_be(tmp_path):
    with pytest.raises(UserError, match="0 processes"):
        api.curate([heap(tmp_path / "heap")], tmp_path / "corpus", workers=0)


def test_require_licence(tmp_path):
    found = api.curate(
        [heap(tmp_path / "heap")], tmp_path / "corpus", overrides=["curate.consent.require_licence=true"], workers=1
    )
    assert found["documents_out"] == 1 and found["dropped"]["unknown licence"] == 27


def command(*arguments):
    return [sys.executable, "-m", "idiolect", "curate", *map(str, arguments)]


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tmp_path):
    folder = heap(tmp_path / "heap", [{"text": prose(n)} for n in range(1000, 3000)])
    asked = command(folder, "-o", tmp_path / "corpus", "--workers", 2)
    process = subprocess.Popen(asked, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / ".curating-corpus" / "key").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == Exit.STOPPED and "give the same command again" in said and "Traceback" not in said
    assert not (tmp_path / "corpus").exists()
    assert subprocess.run(asked).returncode == 0
    api.curate([folder], tmp_path / "whole", workers=1)
    assert contents(tmp_path / "corpus") == contents(tmp_path / "whole")
