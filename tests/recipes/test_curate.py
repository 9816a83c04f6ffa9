"""What recipes hand to a curation: a tokenizer that counts, a model that is asked how strange a text is."""

import json
import math

import pytest

from idiolect import api
from idiolect.errors import UserError
from idiolect.recipes.curate import PerplexityOf

FIELD = "the cat sat on the mat and the dog sat on the rug . "


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A heap of plain and of strange text, and an n-gram of plain text."""
    folder = tmp_path_factory.mktemp("curate")
    (folder / "plain.txt").write_text(FIELD * 40)
    plain = [f"{FIELD * 5}number {n} ." for n in range(7)]
    strange = [f"zyx {n} wvu {n} tsr qpo {n} nml kji hgf {n} edc ba" for n in range(5)]
    (folder / "heap.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*plain, *strange]))
    overrides = [f"data.train={folder}/plain.txt", "tokenizer.kind=char", "model.order=3", "data.validation=0.1"]
    api.train("ngram", overrides, folder / "run")
    return folder


def test_an_ngram_tells_strange_text_from_plain(made):
    asked = [f"curate.perplexity.model={made}/run", 'curate.filters=["perplexity"]', "curate.perplexity.max=1e6"]
    found = api.curate([made / "heap.jsonl"], made / "corpus", overrides=[*asked, "curate.near.drop=false"], workers=2)
    assert found["documents_out"] == 7 and found["dropped"] == {"high perplexity": 5}


def test_its_perplexity_is_that_of_a_word(made):
    text = FIELD.strip()
    score = api.score(made / "run", text)
    assert PerplexityOf(made / "run")(text) == pytest.approx(math.exp(-score["logprob"] / len(text.split())))


def test_the_report_counts_the_tokens_of_a_tokenizer(made):
    found = api.curate([made / "plain.txt"], made / "counted", overrides=[f"curate.tokenizer={made}/run"], workers=1)
    report = json.loads((made / "counted" / "report.json").read_text())
    assert report["tokens_are"] == "tokens" and report["tokens_out"] == found["bytes_out"]


def test_a_filter_without_its_model_is_refused(made):
    with pytest.raises(UserError, match="no model to ask"):
        api.curate([made / "plain.txt"], made / "none", overrides=['curate.filters=["perplexity"]'], workers=1)
