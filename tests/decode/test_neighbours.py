"""Nearest words and analogies, by vectors whose answers are known."""

import pytest
import torch

from idiolect.decode.neighbours import id_of, most_similar, neighbours, unit
from idiolect.errors import UserError
from idiolect.interop.folder import save
from idiolect.models.build import build
from idiolect.models.ngram import NGram
from idiolect.models.settings import CbowSettings, DecoderSettings, NGramSettings
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

WORDS = "king queen man woman cat kitten dog"
TOKENIZER = train([WORDS], TokenizerSettings(kind="word", size=50))


def planted(settings):
    """A model whose vectors are royalty, sex, animal and youth along four axes, of several lengths."""
    model = build(settings, TOKENIZER.size)
    table = {"king": (3, 1, 0), "queen": (3, -1, 0), "man": (0, 2, 0), "woman": (0, -2, 0)}
    table |= {"cat": (0, 0, 5), "kitten": (0, 0.1, 1), "dog": (1, 0.5, 2)}
    with torch.no_grad():
        model.embedding.weight.zero_()
        for word, vector in table.items():
            model.embedding.weight[TOKENIZER.encode(word)[0], :3] = torch.tensor(vector)
    return model


@pytest.fixture(params=[CbowSettings(width=4), DecoderSettings(width=4, heads=1, layers=1)], ids=["cbow", "decoder"])
def folder(request, tmp_path):
    save(tmp_path / "model", planted(request.param), TOKENIZER, {})
    return tmp_path / "model"


def test_each_word_has_its_nearest_by_cosine(folder):
    found = neighbours(folder, ["cat", "king"], top=2)
    rows = [(row["query"], row["word"], round(row["similarity"], 4)) for row in found["rows"]]
    # cat·kitten = 1 / √1.01; cat·dog = 2 / √5.25; king·queen = 8 / 10; king·dog = 3.5 / √(10 · 5.25)
    assert rows == [("cat", "kitten", 0.995), ("cat", "dog", 0.8729), ("king", "queen", 0.8), ("king", "dog", 0.483)]


def test_an_analogy_is_the_nearest_to_the_sum_of_unit_vectors(folder):
    found = neighbours(folder, ["king"], minus=["man"], plus=["woman"], top=1)["rows"]
    # (3, 1) / √10 - (0, 1) - (0, 1) = (0.9487, -1.6838), and with queen (2.846 + 1.684) / (√10 · 1.9327)
    assert (found[0]["query"], found[0]["word"]) == ("king + woman - man", "queen")
    assert found[0]["similarity"] == pytest.approx(0.7412, abs=1e-4)


def test_neither_the_given_words_nor_control_tokens_are_answers():
    vectors = unit(planted(CbowSettings(width=4)).embedding.weight)
    query = {TOKENIZER.encode(word)[0]: 1.0 for word in ("king", "queen")}
    found = [piece for piece, _ in most_similar(vectors, TOKENIZER, query, 99)]
    assert sorted(found) == ["cat", "dog", "kitten", "man", "woman"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kit"], "'kit' is not in the vocabulary"),
        (["kin"], 'did you mean "king"'),
        (["king man"], "several tokens"),
        ([""], "not in the vocabulary"),
        ([], "no word"),
    ],
)
def test_what_is_no_word_is_refused_with_the_nearest_spelling(folder, words, message):
    with pytest.raises(UserError, match=message):
        neighbours(folder, words)


def test_a_model_without_vectors_says_so(tmp_path):
    counted = NGram(NGramSettings(order=2), TOKENIZER.size, begin_id=0, end_id=0, pad_id=1)
    save(tmp_path / "model", counted.fit(Documents), TOKENIZER, {})
    with pytest.raises(UserError, match="no vectors of words"):
        neighbours(tmp_path / "model", ["king"])


class Documents:
    ids = torch.tensor(TOKENIZER.encode(WORDS)).numpy()
    offsets = torch.tensor([0, 7]).numpy()


def test_where_spaces_belong_to_tokens_a_word_is_the_one_after_a_space():
    tokenizer = train(["the cat. the cat sat, cat cat cat cat"] * 9, TokenizerSettings(kind="bpe", size=265))
    assert tokenizer.pieces([id_of(tokenizer, "cat")]) == [" cat"]
