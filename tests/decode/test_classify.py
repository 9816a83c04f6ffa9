"""The verb `classify` on models with a head for texts' and for words' labels."""

import pytest
import torch

from idiolect.adapt.heads import attach
from idiolect.adapt.settings import LabelledSettings
from idiolect.decode.classify import label_texts, tag_words
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings
from idiolect.prompt.classify import classify
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

TEXTS = ["the cat sat on the mat", "cat", "a mat , a cat and a dog"]
SETTINGS = DecoderSettings(layers=1, heads=2, width=8, context=17)


def model_of(folder_, **head):
    tokenizer = train(TEXTS * 5, TokenizerSettings(kind="bpe", size=265))
    settings = LabelledSettings(base=SETTINGS, labels=("O", "B-x", "I-x"), pool="last", **head)
    model, _ = attach(build(SETTINGS, tokenizer.size), settings, seed=3)
    with torch.no_grad():
        model.head.weight.mul_(50)
    folder.save(folder_, model, tokenizer, {})
    return model.eval(), tokenizer


def test_a_text_has_the_likeliest_label_and_probabilities_that_sum_to_one(tmp_path):
    model, tokenizer = model_of(tmp_path / "model")
    found = classify(tmp_path / "model", TEXTS[0])
    ids = torch.tensor([[tokenizer.begin_id, *tokenizer.encode(TEXTS[0])]])
    expected = model.logits(model.body(ids))[0].softmax(-1).tolist()
    assert found["probabilities"] == pytest.approx(dict(zip(("O", "B-x", "I-x"), expected, strict=True)), abs=1e-6)
    assert sum(found["probabilities"].values()) == pytest.approx(1)
    assert found["label"] == max(found["probabilities"], key=found["probabilities"].get)
    assert list(found["probabilities"].values()) == sorted(found["probabilities"].values(), reverse=True)


def test_texts_together_and_alone_have_the_same_labels(tmp_path):
    model, tokenizer = model_of(tmp_path / "model")
    for text, found in zip(TEXTS, label_texts(model, tokenizer, TEXTS), strict=True):
        alone = label_texts(model, tokenizer, [text])[0]
        assert alone["label"] == found["label"]
        assert alone["probabilities"] == pytest.approx(found["probabilities"], abs=1e-5)


def test_every_word_has_a_tag_the_same_together_and_alone(tmp_path):
    model, tokenizer = model_of(tmp_path / "model", each="word")
    sentences = [text.split() for text in TEXTS]
    for words, found in zip(sentences, tag_words(model, tokenizer, sentences), strict=True):
        alone = tag_words(model, tokenizer, [words])[0]
        assert [entry["word"] for entry in found] == words
        assert [entry["tag"] for entry in alone] == [entry["tag"] for entry in found]
        shares = [entry["probability"] for entry in found]
        assert [entry["probability"] for entry in alone] == pytest.approx(shares, abs=1e-5)
    assert classify(tmp_path / "model", TEXTS[2]) == {"tags": tag_words(model, tokenizer, sentences[2:])[0]}


@pytest.mark.parametrize("each", ["text", "word"])
def test_a_text_longer_than_the_context_is_refused(tmp_path, each):
    model_of(tmp_path / "model", each=each)
    with pytest.raises(UserError, match="the model reads at most 16"):
        classify(tmp_path / "model", " ".join(TEXTS))


def test_a_model_of_labels_continues_no_text(tmp_path):
    from idiolect.decode.verbs import generate

    model_of(tmp_path / "model")
    with pytest.raises(UserError, match="gives labels, not tokens"):
        generate(tmp_path / "model", "the")
