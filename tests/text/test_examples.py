"""Examples of several fields, read from files of every kind, split, and refused with a reason."""

import gzip
import json

import pytest

from idiolect.errors import UserError
from idiolect.text.examples import Examples

ROWS = [("a cat", "eine Katze"), ('say "no", twice', "sag zweimal nein"), ("tab", "Tabulator")]
FIELDS = ("en", "de")
WANTED = [dict(zip(FIELDS, row)) for row in ROWS]


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def found(*paths, fields=FIELDS, **more):
    return list(Examples(paths, fields, **more))


def test_jsonl_names_its_fields(tmp_path):
    lines = (json.dumps({"en": en, "de": de, "other": 1}) for en, de in ROWS)
    assert found(write(tmp_path / "a.jsonl", "\n".join(lines))) == WANTED


def test_tsv_has_a_header_and_no_quotes(tmp_path):
    text = "de\ten\n" + "".join(f"{de}\t{en}\n" for en, de in ROWS)
    assert found(write(tmp_path / "a.tsv", text)) == WANTED


def test_numbers_count_the_columns_of_a_file_without_a_header(tmp_path):
    path = write(tmp_path / "a.tsv", "good film\t1\nbad film\t0\n")
    assert found(path, fields=("1", "2")) == [{"1": "good film", "2": "1"}, {"1": "bad film", "2": "0"}]


def test_csv_has_quotes_and_lines_within_them(tmp_path):
    path = write(tmp_path / "a.csv", 'en,de\n"two\nlines, one ""cell""",eins\n')
    assert found(path) == [{"en": 'two\nlines, one "cell"', "de": "eins"}]


def test_parquet_rows_are_examples(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "a.parquet"
    duckdb.sql("SELECT 'a cat' AS en, 'eine Katze' AS de, ['x'] AS tags").write_parquet(str(path))
    assert found(path) == WANTED[:1]
    assert found(path, fields=("tags[]",)) == [{"tags[]": ["x"]}]


def test_numbers_in_json_are_text_and_lists_are_lists(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "fine", "label": 1, "tags": ["A", "B"]}\n')
    assert found(path, fields=("text", "label")) == [{"text": "fine", "label": "1"}]
    assert found(path, fields=("tags[]",)) == [{"tags[]": ["A", "B"]}]


def test_conll_sentences_take_the_first_and_the_last_column(tmp_path):
    path = write(tmp_path / "a.conll", "-DOCSTART- X O\n\nAda\tNNP\tB-person\ncodes\tVBZ\tO\n\n\nHi\tUH\tO")
    wanted = [{"t[]": ["Ada", "codes"], "g[]": ["B-person", "O"]}, {"t[]": ["Hi"], "g[]": ["O"]}]
    assert found(path, fields=("t[]", "g[]")) == wanted


def test_lines_of_two_plain_files_belong_together(tmp_path):
    en = tmp_path / "a.en.txt.gz"
    en.write_bytes(gzip.compress(b"one\n\nthree\n"))
    de = write(tmp_path / "a.de.txt", "eins\nzwei\ndrei\n")
    assert found(en, beside=(de,)) == [{"en": "one", "de": "eins"}, {"en": "three", "de": "drei"}]


def test_a_file_beside_another_may_have_any_name(tmp_path):
    """Such as the language; in a folder, as everywhere, the name says what is text."""
    (tmp_path / "x").mkdir()
    en, de = write(tmp_path / "x" / "train.en", "one\n"), write(tmp_path / "train.de", "eins\n")
    assert found(en, beside=(de,)) == [{"en": "one", "de": "eins"}]
    with pytest.raises(UserError, match="no kind"):
        found(tmp_path / "x", beside=(de,))


@pytest.mark.parametrize(
    ("files", "fields", "beside", "problem"),
    [
        ({"a.txt": "x\ny\n", "b.txt": "x\n"}, FIELDS, ("b.txt",), "b.txt has 1 lines"),
        ({"a.txt": "x\n", "b.txt": "x\n"}, FIELDS, ("b.txt", "b.txt"), "1 files of en and 2 of de"),
        ({"a.txt": "x\n"}, FIELDS, (), "plain text, which has no fields en and de"),
        ({"a.tsv": "en\tfr\nx\ty\n"}, FIELDS, (), "no column 'de'"),
        ({"a.tsv": "x\n"}, ("1", "2"), (), "1 of 1 rows cannot be read"),
        ({"a.tsv": "en\tde\nx\n"}, FIELDS, (), "1 of 2 columns"),
        ({"a.jsonl": '{"en": "x"}\n'}, FIELDS, (), "no text in field 'de'"),
        ({"a.jsonl": '{"t": ["a"], "g": ["A", "B"]}\n'}, ("t[]", "g[]"), (), "lists of different lengths"),
        ({"a.jsonl": '{"t": "a", "g": ["A"]}\n'}, ("t[]", "g[]"), (), "no list of texts in field 't'"),
        ({"a.conll": "Ada\n\n"}, ("t[]", "g[]"), (), "'Ada' has no tag"),
        ({"a.pdf": "x"}, FIELDS, (), "of no kind that can be read"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, files, fields, beside, problem):
    for name, content in files.items():
        write(tmp_path / name, content)
    first = next(iter(files))
    with pytest.raises(UserError, match=problem):
        found(tmp_path / first, fields=fields, beside=tuple(tmp_path / name for name in beside))


def test_the_last_share_is_held_out_and_nothing_is_in_both(tmp_path):
    path = write(tmp_path / "a.tsv", "".join(f"text {i}\t{i}\n" for i in range(11)))
    train, held = Examples((path,), ("1", "2")).split(0.2)
    assert [row["2"] for row in train] == [str(i) for i in range(8)]
    assert [row["2"] for row in held] == ["8", "9", "10"]
    assert train.fingerprint != held.fingerprint
    with pytest.raises(UserError, match="leaves one part empty"):
        Examples((path,), ("1", "2"), stop=1).split(0.5)


def test_the_fingerprint_follows_content_fields_and_the_file_beside(tmp_path):
    one, other = write(tmp_path / "a.txt", "x\n"), write(tmp_path / "b.txt", "y\n")
    same = write(tmp_path / "c.txt", "x\n")
    base = Examples((one,), FIELDS, (other,)).fingerprint
    assert Examples((same,), FIELDS, (other,)).fingerprint == base
    assert Examples((one,), FIELDS, (one,)).fingerprint != base
    assert Examples((one,), ("en", "fr"), (other,)).fingerprint != base
