"""Models of labels on BERT, RoBERTa, DistilBERT and XLM-RoBERTa: transformers' random weights here, and back."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from idiolect.adapt.heads import Labelled, attach
from idiolect.adapt.settings import LabelledSettings
from idiolect.errors import UserError
from idiolect.interop.folder import load, save
from idiolect.interop.labels import hidden_of
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings

V, T = 43, 13
LABELS = {"id2label": {0: "bad", 1: "good", 2: "so-so"}, "label2id": {"bad": 0, "good": 1, "so-so": 2}}
BERT = {
    "vocab_size": V,
    "hidden_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 37,
    "max_position_embeddings": 19,
    "layer_norm_eps": 3e-7,
    **LABELS,
}
DISTILBERT = {"vocab_size": V, "dim": 30, "n_layers": 2, "n_heads": 5, "hidden_dim": 37, "max_position_embeddings": 19}
THEIRS = {
    "bert": BertConfig(**BERT, type_vocab_size=3, classifier_dropout=0.3),
    "roberta": RobertaConfig(**BERT, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**BERT, pad_token_id=3),
    "distilbert": DistilBertConfig(**DISTILBERT, **LABELS, seq_classif_dropout=0.3),
    "two": DistilBertConfig(**DISTILBERT),
}
CLASSES = {"text": AutoModelForSequenceClassification, "word": AutoModelForTokenClassification}


def loud(model):
    """Every parameter, biases and norms included, redrawn from N(0, 0.3) around its default."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(sorted(model.named_parameters())):
            around = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.normal_(around, 0.3, generator=torch.Generator().manual_seed(i))
    return model.eval()


@pytest.fixture
def ids():
    return torch.randint(5, V, (3, T), generator=torch.Generator().manual_seed(2))


def same_logits(ours, theirs, ids):
    """On rows of 13, 7 and 1 tokens."""
    lengths = torch.tensor([T, 7, 1])
    mask = (torch.arange(T) < lengths[:, None]).long()
    with torch.no_grad():
        found, expected = ours.logits(ours.body(ids, lengths), lengths), theirs(ids, attention_mask=mask).logits
    if ours.settings.each == "word":
        found, expected = found[mask.bool()], expected[mask.bool()]
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=min(1e-4, 1e-5 * float(expected.abs().max())))


@pytest.mark.parametrize("each", CLASSES)
@pytest.mark.parametrize("name", THEIRS)
def test_theirs_loads_with_equal_logits_and_goes_back_to_the_bit(name, each, ids, tmp_path):
    theirs = loud(CLASSES[each].from_config(THEIRS[name]))
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    assert isinstance(loaded.model, Labelled)
    settings = loaded.model.settings
    assert settings.labels == (("LABEL_0", "LABEL_1") if name == "two" else ("bad", "good", "so-so"))
    assert (settings.each, settings.pool) == (each, "first")
    same_logits(loaded.model, theirs, ids)
    save(tmp_path / "ours", loaded.model, None, {})
    a, b = (load_file(tmp_path / folder / "model.safetensors") for folder in ("theirs", "ours"))
    assert a.keys() == b.keys() and all(torch.equal(a[tensor], b[tensor]) for tensor in a)
    again = CLASSES[each].from_pretrained(tmp_path / "ours").eval()
    assert again.config.id2label == theirs.config.id2label and again.config.label2id == theirs.config.label2id
    same_logits(loaded.model, again, ids)
    assert load(tmp_path / "ours").settings == settings


def test_what_is_dropped_before_the_labels_comes_back(tmp_path):
    for name, each, expected in (
        ("bert", "text", 0.3),
        ("roberta", "text", 0.1),
        ("distilbert", "text", 0.3),
        ("two", "text", 0.2),
        ("distilbert", "word", 0.1),
    ):
        CLASSES[each].from_config(THEIRS[name]).save_pretrained(tmp_path / name / each)
        assert load(tmp_path / name / each).settings.dropout == expected


@pytest.mark.parametrize("each", CLASSES)
@pytest.mark.parametrize("name", THEIRS)
def test_a_head_on_a_body_of_theirs_opens_in_transformers(name, each, ids, tmp_path):
    from transformers import AutoModelForMaskedLM

    loud(AutoModelForMaskedLM.from_config(THEIRS[name])).save_pretrained(tmp_path / "body")
    base = load(tmp_path / "body").model
    hidden = hidden_of(base.settings) if each == "text" else "none"
    settings = LabelledSettings(base=base.settings, labels=("a", "b", "c"), each=each, hidden=hidden, dropout=0.05)
    model, _ = attach(base, settings, seed=1)
    with torch.no_grad():
        model.head.weight.mul_(100)
    save(tmp_path / "ours", model.eval(), None, {})
    theirs = CLASSES[each].from_pretrained(tmp_path / "ours").eval()
    assert list(theirs.config.id2label.values()) == ["a", "b", "c"]
    same_logits(model, theirs, ids)
    assert load(tmp_path / "ours").settings == settings


def test_berts_own_pooler_is_the_layer_before_the_labels(ids, tmp_path):
    bare = loud(BertModel(THEIRS["bert"]))
    bare.save_pretrained(tmp_path / "body")
    base = load(tmp_path / "body").model
    settings = LabelledSettings(base=base.settings, labels=("a", "b"), hidden="tanh")
    model, report = attach(base, settings, seed=1)
    assert torch.equal(model.dense.weight, bare.pooler.dense.weight) and torch.equal(
        model.dense.bias, bare.pooler.dense.bias
    )
    assert "base.pooler" in report.touched and not settings.base.pooler
    theirs = BertForSequenceClassification.from_pretrained(tmp_path / "body", num_labels=2).eval()
    with torch.no_grad():
        theirs.classifier.weight.copy_(model.head.weight.mul_(100))
        theirs.classifier.bias.copy_(model.head.bias)
    same_logits(model.eval(), theirs, ids)


def test_other_arrangements_are_saved_as_our_own(tmp_path):
    base = load_bert(tmp_path)
    for head in ({"pool": "mean", "hidden": "tanh"}, {"hidden": "none"}, {"each": "word", "pool": "last"}):
        settings = LabelledSettings(base=base.settings, labels=("a", "b"), **head)
        model, _ = attach(build(base.settings, V), settings, seed=1)
        save(tmp_path / "ours", model, None, {})
        assert json.loads((tmp_path / "ours/config.json").read_text())["model_type"] == "idiolect-labels"
        assert load(tmp_path / "ours").settings == settings
    assert hidden_of(DecoderSettings()) == "none"


def load_bert(tmp_path):
    from transformers import BertForMaskedLM

    BertForMaskedLM(THEIRS["bert"]).save_pretrained(tmp_path / "bert")
    return load(tmp_path / "bert").model


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("problem_type", "regression", "problem_type = 'regression' is not supported"),
        ("id2label", {"0": "one"}, "labels"),
        ("id2label", {"0": "a", "2": "b"}, "lacks the key '1'"),
        ("id2label", {"0": "a", "1": "a"}, "two labels have the same name"),
        ("id2label", {"0": 1, "1": 2}, "labels"),
        ("id2label", [1], "damaged"),
    ],
)
def test_a_config_that_cannot_be_is_refused(key, value, problem, tmp_path):
    CLASSES["text"].from_config(THEIRS["bert"]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(UserError, match=problem):
        load(tmp_path)
