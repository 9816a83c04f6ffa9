"""Folders: what is saved opens here and in transformers; what is foreign is checked first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Native
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from idiolect.errors import UserError
from idiolect.tokens.folder import locate
from idiolect.tokens.tokenizer import Tokenizer

KINDS = ("word", "char", "byte", "bpe", "wordpiece", "unigram")
Learnt = Callable[..., Tokenizer]
TEXTS = [
    "",
    "  It's the name of a class,\n\n  isn't it?\t",
    "naïve café 漢字 😀 — 12345",
    "UPPER lower __init__.py <0x41> ##ing",
    "def f(x):\n    return x\n",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lowercase", [False, True])
def test_a_saved_tokenizer_comes_back_and_opens_in_transformers(
    learnt: Learnt, kind: str, lowercase: bool, tmp_path: Path
) -> None:
    tokenizer = learnt(kind, lowercase=lowercase)
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (again.fingerprint, again.kind, again.loses) == (tokenizer.fingerprint, kind, tokenizer.loses)
    assert (again.end_id, again.begin_id, again.pad_id, again.unknown_id) == (0, 0, 1, tokenizer.unknown_id)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.eos_token_id, theirs.bos_token_id, theirs.pad_token_id) == (0, 0, 1)
    assert theirs.unk_token_id == tokenizer.unknown_id and len(theirs) == tokenizer.size
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids == again.encode(text)
        assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)


def test_declared_losses_are_in_the_file_and_read_back(learnt: Learnt, tmp_path: Path) -> None:
    learnt("bpe", lowercase=True).save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["idiolect"] == {"kind": "bpe", "loses": ["case"]}
    config["idiolect"]["loses"] = ["footnotes"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.load(tmp_path).loses == ("footnotes", "case")  # what the file hides is found all the same


def test_a_pattern_of_ones_own_loads_again(learnt: Learnt, tmp_path: Path) -> None:
    tokenizer = learnt("bpe", pattern=r"\S+|\s")
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])


def test_a_run_folder_knows_its_tokenizer(learnt: Learnt, tmp_path: Path) -> None:
    learnt("byte").save(tmp_path / "run" / "model")
    assert locate(tmp_path / "run") == tmp_path / "run" / "model"
    for wrong in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="holds no tokenizer"):
            locate(wrong)
        with pytest.raises(UserError, match="holds no tokenizer"):
            Tokenizer.load(wrong)


# --- other people's tokenizers ------------------------------------------------------------------------------------


def saved(native: Native, folder: Path, **config: str) -> Path:
    folder.mkdir(exist_ok=True)
    native.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def bert(folder: Path) -> Path:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "[", "]", "mask", "sep"]
    native = Native(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    native.normalizer = normalizers.BertNormalizer(lowercase=True)
    native.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    native.decoder = decoders.WordPiece()
    native.add_special_tokens(pieces[:5])
    native.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    native.enable_truncation(2)
    native.enable_padding(length=9)
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return saved(native, folder, **names)


def sentencepiece_like(folder: Path) -> Path:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁the", -1.0), ("▁", -2.0), ("cat", -2.0)]
    pieces += [(character, -5.0) for character in "</s>abc"]
    native = Native(models.Unigram(pieces, unk_id=2))
    native.pre_tokenizer = pre_tokenizers.Metaspace()
    native.decoder = decoders.Metaspace()
    native.add_special_tokens([AddedToken("<pad>"), AddedToken("</s>"), AddedToken("<unk>")])
    return saved(native, folder, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def test_a_bert_shaped_tokenizer(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bert(tmp_path))
    assert (tokenizer.kind, tokenizer.end_id, tokenizer.begin_id, tokenizer.pad_id) == ("wordpiece", 3, 2, 0)
    assert tokenizer.unknown_id == 1
    ids = tokenizer.encode("The cats [MASK] [SEP] dog")  # no control token, nothing cut off, nothing padded
    assert tokenizer.pieces(ids) == ["the", "cat", "##s", "[", "mask", "]", "[", "sep", "]", "[UNK]"]
    assert not tokenizer.lossless and "unknown words" in tokenizer.loses


def test_a_sentencepiece_shaped_tokenizer(tmp_path: Path) -> None:
    """Its model holds `</s>` as its likeliest piece, so content would become the end of text."""
    tokenizer = Tokenizer.load(sentencepiece_like(tmp_path))
    ids = tokenizer.encode("the </s> cat")
    assert tokenizer.pieces(ids) == ["▁the", "▁", "<", "/", "s", ">", "▁", "cat"]
    assert tokenizer.decode(ids) == "the </s> cat"
    stream = tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == "the </s> cat"
    assert (tokenizer.end_id, tokenizer.pad_id, tokenizer.begin_id) == (1, 0, 1)


def test_what_the_vocabulary_cannot_say_is_a_user_error(tmp_path: Path) -> None:
    native = Native(models.Unigram([("a", -1.0), ("b", -1.0)], unk_id=None))
    tokenizer = Tokenizer.load(saved(native, tmp_path))
    assert tokenizer.pieces(tokenizer.encode("ab")) == ["a", "b"]
    with pytest.raises(UserError, match="unknown token"):
        tokenizer.encode("abc")


@pytest.mark.parametrize("make", [bert, sentencepiece_like])
def test_ids_are_those_of_transformers(make: Callable[[Path], Path], tmp_path: Path) -> None:
    ours, theirs = Tokenizer.load(make(tmp_path)), PreTrainedTokenizerFast.from_pretrained(tmp_path)
    theirs._tokenizer.no_truncation()
    theirs._tokenizer.no_padding()
    for text in ("The cats", "the cat  a\nb", "", "a the"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False, truncation=False, padding=False)


def test_end_and_padding_are_added_where_there_are_none_or_one_for_both(tmp_path: Path) -> None:
    native = Native(models.WordLevel({"<unk>": 0, "a": 1, "</s>": 2}, unk_token="<unk>"))
    bare = Tokenizer.load(saved(native, tmp_path / "bare"))
    assert (bare.size, bare.end_id, bare.pad_id, bare.vocabulary[3:]) == (5, 3, 4, ["<|endoftext|>", "<|pad|>"])
    native.add_special_tokens(["</s>"])
    both = Tokenizer.load(saved(native, tmp_path / "both", eos_token="</s>", pad_token="</s>"))
    assert (both.size, both.end_id, both.pad_id) == (4, 2, 3)
    assert both.encode("</s>") == [0]


# --- files that are wrong, by accident or on purpose --------------------------------------------------------------


def broken(folder: Path, change: Callable[[dict[str, Any]], Any], learnt: Learnt) -> Path:
    learnt("bpe").save(folder)
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec = change(spec) or spec
    path.write_text(json.dumps(spec))
    return folder


def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(spec: dict[str, Any]) -> None:
        inner: Any = spec
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


WRONG = {
    "list": lambda spec: [spec],
    "no model": lambda spec: {"version": "1.0"},
    "unknown model": put("model", "type", value="Pickle"),
    "huge id": put("model", "vocab", "Ġthe", value=4294967295),
    "negative id": put("model", "vocab", "Ġthe", value=-1),
    "text id": put("model", "vocab", "Ġthe", value="7"),
    "boolean id": put("model", "vocab", "Ġthe", value=True),
    "gap": put("model", "vocab", "Ġthe", value=600),
    "same id twice": put("model", "vocab", "Ġthe", value=300),
    "no vocabulary": put("model", "vocab", value=None),
    "vocabulary of triples": put("model", "vocab", value=[["a", 1.0, 2]]),
    "merge of unknown tokens": put("model", "merges", value=[["zzz", "yyy"]]),
    "merges of numbers": put("model", "merges", value=[1, 2]),
    "other id for a control token": put("added_tokens", 0, "id", value=5),
    "added id far away": put("added_tokens", value=[{"id": 10**9, "content": "x", "special": True}]),
    "added token without text": put("added_tokens", 0, "content", value=""),
    "added tokens as text": put("added_tokens", value="x"),
    "normalizer as text": put("normalizer", value="NFC"),
    "unknown normalizer": put("normalizer", value={"type": "Exec"}),
    "unknown pre-tokenizer": put("pre_tokenizer", value={"type": "Exec"}),
    "half a surrogate": put("pre_tokenizer", value={"type": "Split", "pattern": {"String": "\ud800"}}),
    "not a number": put("version", value=float("nan")),
    "exponential pattern": put(
        "pre_tokenizer",
        value={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
    ),
    "quadratic pattern in a normalizer": put(
        "normalizer", value={"type": "Replace", "pattern": {"Regex": "a+$"}, "content": ""}
    ),
    "pattern that is none": put(
        "pre_tokenizer",
        value={"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "(a"}}]},
    ),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_files_end_in_one_error(name: str, learnt: Learnt, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokenizer.json|no tokenizer that can be used"):
        Tokenizer.load(broken(tmp_path, WRONG[name], learnt))


def test_dropout_is_set_aside(learnt: Learnt, tmp_path: Path) -> None:
    """Merges left out by chance would give a text other ids each time."""
    tokenizer = Tokenizer.load(broken(tmp_path, put("model", "dropout", value=0.9), learnt))
    assert tokenizer.encode("the name of the class") == learnt("bpe").encode("the name of the class")


def test_slow_patterns_load_on_trust_only(learnt: Learnt, tmp_path: Path) -> None:
    broken(tmp_path, WRONG["exponential pattern"], learnt)
    with pytest.raises(UserError, match="very long") as caught:
        Tokenizer.load(tmp_path)
    assert "trust=True" in caught.value.mend
    assert Tokenizer.load(tmp_path, trust=True).decode(Tokenizer.load(tmp_path, trust=True).encode("aab")) == "aab"


def test_a_configuration_must_name_known_tokens(learnt: Learnt, tmp_path: Path) -> None:
    learnt("bpe").save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    for config in ({"eos_token": "<gone>"}, {"pad_token": {"content": "<gone>"}}, {"idiolect": {"loses": 7}}, [1]):
        path.write_text(json.dumps(config))
        with pytest.raises(UserError):
            Tokenizer.load(tmp_path)
    path.write_text(json.dumps({"eos_token": {"content": "<|pad|>"}, "idiolect": [], "auto_map": {"x": "y.py"}}))
    assert Tokenizer.load(tmp_path).end_id == 1


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_an_error_or_harmless(
    learnt: Learnt, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bytes changed, cut off or put in: UserError, or a tokenizer that still gives text back."""
    folder = tmp_path_factory.mktemp("damaged")
    learnt("char").save(folder)
    path = folder / "tokenizer.json"
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    end = min(len(content), at + data.draw(st.integers(0, 9)))
    path.write_bytes(content[:at] + data.draw(st.binary(max_size=9)) + content[end:])
    try:
        tokenizer = Tokenizer.load(folder)
    except UserError:
        return
    tokenizer.decode(tokenizer.encode("some text <|pad|> 漢"))
    assert sorted({tokenizer.end_id, tokenizer.pad_id})[1] < tokenizer.size
