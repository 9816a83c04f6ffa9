"""Masks filled in as transformers fills them, however they are written; what cannot be filled is said."""

import json

import pytest
import torch
from tokenizers import AddedToken, ByteLevelBPETokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
)

from idiolect import api
from idiolect.cli import run
from idiolect.decode.fill import masked_ids
from idiolect.errors import UserError
from idiolect.interop.folder import save
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, EncoderSettings
from idiolect.tokens.learn import from_vocabulary, train
from idiolect.tokens.settings import TokenizerSettings

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "teacher", "student", "teach", "##es", "a", "."]
SHAPE = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 31}
SHAPE |= {"max_position_embeddings": 19, "initializer_range": 0.5}
TEXT = "The teacher {} the student. {} a teacher"


def saved(model, words, folder):
    model.eval().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder, model, words


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=len(PIECES), **SHAPE))
    words = BertTokenizer(vocab={piece: i for i, piece in enumerate(PIECES)})
    return saved(model, words, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    learner = ByteLevelBPETokenizer()
    controls = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    learner.train_from_iterator([TEXT] * 9, vocab_size=300, special_tokens=controls)
    folder = tmp_path_factory.mktemp("roberta")
    learner.save_model(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text())
    merges = [tuple(line.split(" ")) for line in (folder / "merges.txt").read_text().splitlines()[1:]]
    torch.manual_seed(0)
    model = RobertaForMaskedLM(RobertaConfig(vocab_size=len(vocabulary), **SHAPE))
    mask = AddedToken("<mask>", lstrip=True)  # as in roberta-base: the space before it is the hidden word's
    return saved(model, RobertaTokenizer(vocab=vocabulary, merges=merges, mask_token=mask), folder)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@torch.no_grad()
def test_probabilities_are_those_of_transformers(family, request):
    folder, model, words = request.getfixturevalue(family)
    ids = words(TEXT.format(*[words.mask_token] * 2), return_tensors="pt")["input_ids"]
    expected = model(ids).logits[0][ids[0] == words.mask_token_id].double().softmax(-1)
    found = api.fill(folder, TEXT.format("[mask]", "<MASK>"), top=3)
    assert len(found["masks"]) == len(expected) == 2 and found["candidates"] == found["masks"][0]
    special = set(words.all_special_ids)
    for candidates, row in zip(found["masks"], expected, strict=True):
        order = [i for i in row.argsort(descending=True).tolist() if i not in special][:3]
        assert [one["id"] for one in candidates] == order
        assert [one["probability"] for one in candidates] == pytest.approx(row[order].tolist(), rel=1e-5)
    first, second = (candidates[0]["token"] for candidates in found["masks"])
    assert found["text"] == TEXT.format(first, second)


def test_from_the_command_line(bert, capsys):
    text = TEXT.format("<mask>", "")
    assert run(["fill", str(bert[0]), text, "--top", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["candidates"] == api.fill(bert[0], text, top=2)["candidates"]
    assert run(["fill", str(bert[0]), TEXT.format("<mask>", "<mask>")]) == 0
    out = capsys.readouterr().out
    assert "mask 2" in out and out.splitlines()[-1].startswith("The teacher ")


def test_a_control_token_is_never_a_candidate(bert):
    found = api.fill(bert[0], "<mask>", top=100)["candidates"]
    assert {one["token"] for one in found} == set(PIECES[5:])


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_what_lies_under_a_mask_of_bytes(kind):
    """A mask of a byte is one byte, and the space before it stays; a mask of a word holds its space."""
    texts = ["the teacher teaches the student "] * 50
    tokenizer = train(texts, TokenizerSettings(kind=kind, size=300 if kind == "char" else 270)).with_mask()
    ids = masked_ids(tokenizer, ["the ", " the"])
    before, after = ids[1 : ids.index(tokenizer.mask_id)], ids[ids.index(tokenizer.mask_id) + 1 :]
    assert tokenizer.decode(before) == ("the" if kind == "bpe" else "the ")
    assert tokenizer.decode(after) == " the"


def folder_of(tmp_path, settings, mask=True):
    words = from_vocabulary(["a", "b"], TokenizerSettings(kind="word", size=8))
    tokenizer = words.with_mask() if mask else words
    save(tmp_path / "model", build(settings, tokenizer.size), tokenizer, {})
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("settings", "mask", "text", "what"),
    [
        (EncoderSettings(layers=1, heads=1, width=4), True, "a b", "the text has no mask"),
        (EncoderSettings(layers=1, heads=1, width=4), False, "a <mask>", "has no mask token"),
        (EncoderSettings(layers=1, heads=1, width=4, head="none"), True, "a <mask>", "holds no head"),
        (EncoderSettings(layers=1, heads=1, width=4, context=3), True, "a b a <mask>", "more than the context of 3"),
        (DecoderSettings(layers=1, heads=1, width=4), True, "a <mask>", "family decoder, which fills nothing in"),
    ],
)
def test_what_cannot_be_filled_in_is_said(settings, mask, text, what, tmp_path, capsys):
    folder = folder_of(tmp_path, settings, mask)
    with pytest.raises(UserError, match=what):
        api.fill(folder, text)
    assert run(["fill", str(folder), text]) == 2
    assert what in capsys.readouterr().err


def test_nonsense_is_refused(bert, tmp_path):
    with pytest.raises(UserError, match="cannot show 0"):
        api.fill(bert[0], "<mask>", top=0)
    with pytest.raises(UserError):
        api.fill(tmp_path / "absent", "<mask>")
    torch.manual_seed(0)
    bare = saved(BertModel(BertConfig(vocab_size=len(PIECES), **SHAPE)), bert[2], tmp_path)[0]
    with pytest.raises(UserError, match="holds no head that fills in"):
        api.fill(bare, "<mask>")
