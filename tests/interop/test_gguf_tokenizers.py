"""Tokenizers in GGUF files: read back by the package `gguf`, by transformers and by sentencepiece."""

import json

import pytest
import sentencepiece
from transformers import AutoTokenizer

from idiolect.errors import UserError
from idiolect.interop.gguf_file import write_gguf
from idiolect.interop.gguf_vocabularies import NO_MERGE
from idiolect.tokens import patterns
from idiolect.tokens.learn import train
from idiolect.tokens.roles import Roles
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer

from .test_gguf import TEXT, TOKENIZER, model_of, read, tokenizer_of

UNUSUAL = ["the cat's 1234 mats", " two  spaces\n\n\tand\u00a0more ", "naïve 日本 😀", "<|endoftext|>"]
LEARNT = {
    "gpt-2": {},
    "qwen2": {"pattern": patterns.QWEN},
    "dbrx": {"pattern": patterns.CL100K},
    "bytes": {"kind": "byte"},
}


@pytest.mark.parametrize("name", LEARNT)
def test_transformers_reads_the_tokenizer_of_the_file(name, tmp_path):
    tokenizer = tokenizer_of(**LEARNT[name])
    write_gguf(model_of("qwen2", tokenizer.size), tokenizer, tmp_path / "m.gguf")
    fields, _ = read(tmp_path / "m.gguf")
    assert fields["tokenizer.ggml.pre"] == {"bytes": "gpt-2"}.get(name, name)
    if name == "bytes":
        assert fields["tokenizer.ggml.merges"] == [NO_MERGE]
        return  # transformers takes all it reads for GPT-2's pattern and asks that all merges can happen
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in UNUSUAL[:1] if name == "dbrx" else UNUSUAL[:3]:
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)


def of_smollm():
    """Each digit is cut off, then GPT-2's pattern cuts the rest."""
    digits = {"type": "Digits", "individual_digits": True}
    before = {"type": "Sequence", "pretokenizers": [digits, TOKENIZER.spec["pre_tokenizer"]]}
    return Tokenizer(TOKENIZER.spec | {"pre_tokenizer": before}, Roles())


def test_digits_alone_are_smollms_pattern(tmp_path):
    write_gguf(model_of("qwen2"), of_smollm(), tmp_path / "m.gguf")
    assert read(tmp_path / "m.gguf")[0]["tokenizer.ggml.pre"] == "smollm"


def test_chat_templates_go_along_word_for_word(tmp_path):
    tokenizer = tokenizer_of()
    tokenizer.templates = {"default": "{{ messages }}\r\n é", "tool_use": "{{ tools }}", "empty": ""}
    write_gguf(model_of("qwen2"), tokenizer, tmp_path / "m.gguf")
    fields, _ = read(tmp_path / "m.gguf")
    assert fields["tokenizer.chat_template"] == "{{ messages }}\r\n é"
    assert fields["tokenizer.chat_template.tool_use"] == "{{ tools }}"
    assert fields["tokenizer.chat_templates"] == ["tool_use"] and "tokenizer.chat_template.empty" not in fields


def test_ids_beyond_the_tokenizer_are_unused_and_padding_past_the_model_is_left_out(tmp_path):
    write_gguf(model_of("qwen2", TOKENIZER.size + 3), TOKENIZER, tmp_path / "m.gguf")
    fields, found = read(tmp_path / "m.gguf")
    assert len(fields["tokenizer.ggml.tokens"]) == TOKENIZER.size + 3 == found["token_embd.weight"].shape[1]
    assert fields["tokenizer.ggml.token_type"][-3:] == [5, 5, 5]
    spec = json.loads(json.dumps(TOKENIZER.spec))
    spec["added_tokens"][1]["id"] = 282  # GPT-2 has no padding: the one we add lies past the end
    spec["model"]["vocab"] = {name: i - (i > 1) for name, i in spec["model"]["vocab"].items() if i != 1}
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    other = Tokenizer.load(folder)
    assert other.pad_id == 282
    write_gguf(model_of("qwen2", 282), other, tmp_path / "m.gguf")
    fields, _ = read(tmp_path / "m.gguf")
    assert "tokenizer.ggml.padding_token_id" not in fields and len(fields["tokenizer.ggml.tokens"]) == 282


def sentencepieces(folder, prefix=True, size=360, change=lambda spec: None):
    """A BPE that SentencePiece learns, and the tokenizer.json that says the same."""
    folder.mkdir()
    (folder / "text.txt").write_text(TEXT * 3)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "m"),
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        minloglevel=2,
    )
    native = sentencepiece.SentencePieceProcessor(model_file=str(folder / "m.model"))
    pieces = [native.id_to_piece(i) for i in range(native.get_piece_size())]
    own = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for i, piece in enumerate(pieces)
        if not (native.is_byte(i) or native.is_control(i) or native.is_unknown(i))
        for cut in range(1, len(piece))
        if piece[:cut] in own and piece[cut:] in own
    ]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    before = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    controls = [(i, piece) for i, piece in enumerate(pieces) if native.is_control(i) or native.is_unknown(i)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec = {
        "added_tokens": [{"id": i, "content": piece, **flags} for i, piece in controls],
        "normalizer": before if prefix else replace,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []),
            ],
        },
        "model": {"type": "BPE", "vocab": own, "merges": merges, "unk_token": "<unk>", "byte_fallback": True},
    }
    change(spec)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return native, Tokenizer.load(folder)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepieces_order_is_that_of_its_scores(prefix, tmp_path):
    native, tokenizer = sentencepieces(tmp_path / "tok", prefix)
    for text in UNUSUAL:
        assert tokenizer.encode(text) == native.encode(text)
    write_gguf(model_of("llama", tokenizer.size), tokenizer, tmp_path / "m.gguf")
    fields, _ = read(tmp_path / "m.gguf")
    assert fields["tokenizer.ggml.model"] == "llama"
    assert fields["tokenizer.ggml.add_space_prefix"] is prefix
    assert fields["tokenizer.ggml.tokens"][:360] == [native.id_to_piece(i) for i in range(360)]
    types = fields["tokenizer.ggml.token_type"]
    assert types[:3] == [2, 3, 3] and types[3:259] == [6] * 256 and set(types[259:360]) == {1}
    merged = [i for i in range(259, 360) if len(native.id_to_piece(i)) > 1]
    scores = fields["tokenizer.ggml.scores"]
    assert sorted(merged, key=native.get_score) == sorted(merged, key=scores.__getitem__)


def drop_a_merge(spec):
    """As BPE learnt elsewhere may have it: two tokens make a third, but not by merging them."""
    at = next(i for i, (a, b) in enumerate(spec["model"]["merges"]) if len(a + b) > 2)
    del spec["model"]["merges"][at]


def test_merges_that_scores_cannot_tell_are_refused(tmp_path):
    _, tokenizer = sentencepieces(tmp_path / "tok", change=drop_a_merge)
    with pytest.raises(UserError, match="does not merge"):
        write_gguf(model_of("llama", tokenizer.size), tokenizer, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_a_char_tokenizer_is_sentencepiece_without_merges(tmp_path):
    tokenizer = tokenizer_of(kind="char", size=300)
    write_gguf(model_of("llama", tokenizer.size), tokenizer, tmp_path / "m.gguf")
    fields, _ = read(tmp_path / "m.gguf")
    assert fields["tokenizer.ggml.model"] == "llama" and fields["tokenizer.ggml.add_space_prefix"] is False
    tokens = fields["tokenizer.ggml.tokens"]
    assert tokens[tokenizer.encode(" ")[0]] == "▁" and tokens[tokenizer.encode("é")[0]] == "é"
    spaced = train([TEXT + "▁"], TokenizerSettings(kind="char", size=300))
    with pytest.raises(UserError, match="spelled alike"):
        write_gguf(model_of("llama", spaced.size), spaced, tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "word", "size": 20},
        {"kind": "wordpiece", "size": 60},
        {"kind": "unigram", "size": 270},
        {"pattern": r"\w+|[^\w\s]+|\s+"},
        {"lowercase": True},
    ],
)
def test_other_tokenizers_are_refused(settings, tmp_path):
    tokenizer = tokenizer_of(**settings)
    with pytest.raises(UserError, match="cuts text in another way") as error:
        write_gguf(model_of("llama", tokenizer.size), tokenizer, tmp_path / "m.gguf")
    assert "pattern of GPT-2" in error.value.mend and not (tmp_path / "m.gguf").exists()
