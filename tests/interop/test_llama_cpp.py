"""GGUF files as llama.cpp itself reads them; runs where llama-cpp-python is installed (see docs/guide.md)."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from idiolect import api
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import Exit, UserError
from idiolect.interop import families, gguf_vocabularies, parity, parity_gguf
from idiolect.interop.folder import save
from idiolect.interop.gguf_architectures import ARCHITECTURES
from idiolect.interop.gguf_file import write_gguf
from idiolect.models.build import build
from idiolect.tokens import patterns
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

from .test_gguf import FAMILIES, loud, tokenizer_of
from .test_gguf_tokenizers import LEARNT, of_smollm, sentencepieces

llama_cpp = pytest.importorskip("llama_cpp")

TOKENIZER = tokenizer_of()
PROMPTS = ["", "the cat sat on", "  naïve 日本 1234\n"]


def model_of(name, vocabulary=TOKENIZER.size):
    return loud(build(FAMILIES[name], vocabulary, seed=1))


def opened(path):
    f32 = llama_cpp.GGML_TYPE_F32
    return llama_cpp.Llama(str(path), n_ctx=131, logits_all=True, verbose=False, type_k=f32, type_v=f32)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_continues_identically(name, tmp_path):
    """64 greedy tokens after each prompt, an end of text among them or not."""
    model = model_of(name)
    assert families.match(model.settings) == name.partition("-")[0]
    write_gguf(model, TOKENIZER, tmp_path / "m.gguf")
    theirs = opened(tmp_path / "m.gguf")
    for prompt in PROMPTS:
        ids = [TOKENIZER.begin_id, *TOKENIZER.encode(prompt)]
        assert theirs.tokenize(prompt.encode()) == ids
        ours = ids
        found, theirs_ids = [], []
        theirs.reset()
        theirs.eval(ids)
        for _ in range(64):
            with torch.no_grad():
                logits = model.head(model.body(torch.tensor([ours])))[0, -1]
            found.append(int(logits.argmax()))
            ours = [*ours, found[-1]]
            theirs_ids.append(int(np.argmax(theirs.scores[theirs.n_tokens - 1])))
            theirs.eval(theirs_ids[-1:])
        assert theirs_ids == found


def test_our_decoder_and_theirs_write_the_same_text(tmp_path):
    model = model_of("llama")
    write_gguf(model, TOKENIZER, tmp_path / "m.gguf")
    (ours,) = complete(model, TOKENIZER, ["the cat"], DecodeSettings(temperature=0, max_tokens=64))
    theirs = opened(tmp_path / "m.gguf")("the cat", max_tokens=64, temperature=0.0, repeat_penalty=1.0)
    # an id may stand for a part of a character, which each shows in its own way
    assert theirs["choices"][0]["text"].replace("\ufffd", "") == ours.text.replace("\ufffd", "")


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_gate_opens(name, kind, tmp_path):
    _, found = gated(model_of(name), TOKENIZER, tmp_path / "m.gguf", kind)
    assert "llama.cpp" in found["checked_by"] and "not_checked" not in found
    assert {"metadata", "token ids of 11 texts", "BOS, EOS and PAD"} <= set(found["compared"])
    assert 0 < found["difference"] <= found["tolerance"] / (5 if kind == "f32" and "gpt2" not in name else 1)


@pytest.mark.parametrize("name", LEARNT)
def test_the_ids_of_texts_are_ours(name, tmp_path):
    tokenizer = tokenizer_of(**LEARNT[name])
    write_gguf(model_of("qwen2", tokenizer.size), tokenizer, tmp_path / "m.gguf")
    theirs = opened(tmp_path / "m.gguf")
    for text in parity.golden(model_of("qwen2", tokenizer.size), tokenizer).texts:
        assert theirs.tokenize(text.encode(), add_bos=False) == tokenizer.encode(text), text


def test_the_ids_of_texts_with_digits_alone_are_ours(tmp_path):
    tokenizer = of_smollm()
    write_gguf(model_of("qwen2"), tokenizer, tmp_path / "m.gguf")
    theirs = opened(tmp_path / "m.gguf")
    for text in parity.TEXTS:
        assert theirs.tokenize(text.encode(), add_bos=False) == tokenizer.encode(text), text


def test_a_chat_template_is_there(tmp_path):
    tokenizer = tokenizer_of()
    tokenizer.templates = {"default": "{{ messages }} é"}
    gated(model_of("qwen2"), tokenizer, tmp_path / "m.gguf")
    found = opened(tmp_path / "m.gguf")
    assert llama_cpp.llama_model_chat_template(found.model, None).decode() == "{{ messages }} é"


@pytest.mark.parametrize("prefix", [True, False])
def test_the_ids_of_sentencepiece_are_sentencepieces(prefix, tmp_path):
    native, tokenizer = sentencepieces(tmp_path / "tok", prefix)
    write_gguf(model_of("llama", tokenizer.size), tokenizer, tmp_path / "m.gguf")
    theirs = opened(tmp_path / "m.gguf")
    for text in parity.TEXTS[:-1]:  # SentencePiece itself knows no text of control tokens
        assert theirs.tokenize(text.encode(), add_bos=False) == native.encode(text) == tokenizer.encode(text), text


def test_a_char_tokenizers_ids_are_ours(tmp_path):
    tokenizer = tokenizer_of(kind="char", size=300)
    write_gguf(model_of("llama", tokenizer.size), tokenizer, tmp_path / "m.gguf")
    theirs = opened(tmp_path / "m.gguf")
    for text in parity.TEXTS[:-1]:  # whose ▁ is a space to SentencePiece
        assert theirs.tokenize(text.encode(), add_bos=False) == tokenizer.encode(text), text


def gated(model, tokenizer, path, kind="f32"):
    return write_gguf(model, tokenizer, path, kind, lambda new: parity_gguf.check_gguf(new, model, tokenizer, kind))


def test_a_pattern_under_the_name_of_another_is_told_apart(tmp_path, monkeypatch):
    tokenizer = train([Path(argparse.__file__).read_text()], TokenizerSettings(size=1500, pattern=patterns.QWEN))
    monkeypatch.setitem(gguf_vocabularies.PATTERNS, (patterns.QWEN, False), "gpt-2")
    with pytest.raises(UserError, match="from token") as error:
        gated(model_of("qwen2", tokenizer.size), tokenizer, tmp_path / "m.gguf")
    assert error.value.code == Exit.CHECK_FAILED and not any(tmp_path.iterdir())


def test_a_table_that_is_wrong_in_writing_and_reading_is_caught(tmp_path, monkeypatch):
    """Rotary positions in the other order: what the package `gguf` cannot know, llama.cpp's logits tell."""
    wrong = replace(ARCHITECTURES["llama"], neighbours=False)
    monkeypatch.setitem(ARCHITECTURES, "llama", wrong)
    with pytest.raises(UserError, match="the logit at row"):
        gated(model_of("llama"), TOKENIZER, tmp_path / "m.gguf")


def test_a_file_that_llama_cpp_does_not_load_shuts_the_gate(tmp_path, monkeypatch):
    monkeypatch.setattr(parity_gguf, "_by_reader", lambda *arguments: [])
    wrong = replace(ARCHITECTURES["qwen3"], name="qwen2")  # which has no norms of queries and keys
    monkeypatch.setitem(ARCHITECTURES, "qwen3", wrong)
    with pytest.raises(UserError, match=r"llama\.cpp ended with 1: .*load") as error:
        gated(model_of("qwen3"), TOKENIZER, tmp_path / "m.gguf")
    assert error.value.code == Exit.CHECK_FAILED and not any(tmp_path.iterdir())


def test_a_file_at_which_llama_cpp_ends_its_process_does_not_end_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(parity_gguf, "_by_reader", lambda *arguments: [])
    wrong = replace(ARCHITECTURES["qwen3"], more=lambda s: {"rope.dimension_count": s.d_head - 2})  # an assertion there
    monkeypatch.setitem(ARCHITECTURES, "qwen3", wrong)
    with pytest.raises(UserError, match=r"llama\.cpp ended with -6"):
        gated(model_of("qwen3"), TOKENIZER, tmp_path / "m.gguf")


def test_the_verb_says_so(tmp_path):
    save(tmp_path / "model", model_of("qwen2"), TOKENIZER, {})
    found = api.export_model(tmp_path / "model", tmp_path / "m.gguf", to="gguf", type_="f16")
    assert found["type"] == "f16" and "llama.cpp" in found["checked_by"]


def test_merges_of_merges_as_a_larger_vocabulary_has_them(tmp_path):
    text = Path(argparse.__file__).read_text()
    tokenizer = train([text], TokenizerSettings(size=1500))
    write_gguf(model_of("qwen2", tokenizer.size), tokenizer, tmp_path / "m.gguf")
    assert opened(tmp_path / "m.gguf").tokenize(text[:20_000].encode(), add_bos=False) == tokenizer.encode(
        text[:20_000]
    )
