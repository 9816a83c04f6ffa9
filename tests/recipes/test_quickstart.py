"""The newcomer's command on a small part of its text; `make quickstart` and the benchmark run all of it."""

import itertools

import pytest

from idiolect.errors import Exit, UserError
from idiolect.recipes import library, quickstart


@pytest.fixture
def small(monkeypatch):
    documents = [document[:2000] for document in itertools.islice(library.documents(), 60)]
    monkeypatch.setattr(library, "documents", lambda: iter(documents))
    monkeypatch.setattr(quickstart, "VOCABULARY", 400)
    few = (*quickstart.SMALL, "train.batch_tokens=256", "train.steps=4", "model.width=16", "train.threads=1")
    monkeypatch.setattr(quickstart, "SMALL", few)
    monkeypatch.setattr(quickstart, "FAMILIES", {"ngram": (), "lstm": (), "gpt": ()})


def test_text_tokenizer_models_table_and_samples(small, tmp_path):
    found = quickstart.quickstart(tmp_path / "q")
    assert {row["model"] for row in found["rows"]} == {"ngram", "lstm", "gpt", "gzip", "unigram", "uniform"}
    assert set(found["samples"]) == {"ngram", "lstm", "gpt"}
    assert all(text.startswith(quickstart.PROMPT) for text in found["samples"].values())
    assert len(list((tmp_path / "q" / "text" / "held-out").iterdir())) == 6
    assert all((tmp_path / "q" / name / "report.html").exists() for name in found["samples"])


def test_stopped_it_goes_on_where_it_was(small, tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        return {"stopped": "SIGINT"}

    train = quickstart.train
    monkeypatch.setattr(quickstart, "train", stopped)
    with pytest.raises(UserError, match="SIGINT") as error:
        quickstart.quickstart(tmp_path / "q")
    assert error.value.code is Exit.STOPPED
    monkeypatch.setattr(quickstart, "train", train)
    assert quickstart.quickstart(tmp_path / "q")["rows"]
    monkeypatch.setattr(quickstart, "train", stopped)  # all is trained: nothing is trained again
    assert quickstart.quickstart(tmp_path / "q")["rows"]


def test_a_folder_of_the_users_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="something else"):
        quickstart.quickstart(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_text_is_the_librarys_and_whole():
    documents = list(library.documents())
    assert len(documents) > 300 and sum(map(len, documents)) > 1_000_000
    assert any("context manager" in document for document in documents)
