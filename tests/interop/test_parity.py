"""The parity gate: it opens for what is right, stays shut for all that is broken, and says what it cannot try."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from idiolect import api, files
from idiolect.adapt.heads import KINDS
from idiolect.adapt.settings import LabelledSettings
from idiolect.errors import Exit, UserError
from idiolect.interop import arpa, families, folder, gguf_file, parity, parity_gguf
from idiolect.interop.folder import load, save
from idiolect.models.build import build
from idiolect.models.ngram import NGram
from idiolect.models.settings import (
    DecoderSettings,
    EncoderDecoderSettings,
    EncoderSettings,
    NGramSettings,
    RecurrentSettings,
)
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer

from .test_gguf import FAMILIES, GPT2, TEXT, loud, tokenizer_of

TOKENIZER = tokenizer_of()
BERT = {
    "norm": "layer",
    "norm_place": "residual",
    "embedding_norm": True,
    "position": "learned",
    "mlp": "gelu-exact",
    "attention_bias": "all",
    "mlp_bias": True,
    "token_types": 2,
    "tied": True,
}
BODY = EncoderSettings(layers=1, heads=3, width=33, context=61, head="transform", **BERT)
SHAPES = {
    "gpt2": DecoderSettings(layers=2, heads=3, width=33, context=61, **GPT2),
    "llama": DecoderSettings(layers=2, heads=2, width=28, context=61, norm_epsilon=2e-3, attention_bias="all"),
    "mistral": DecoderSettings(layers=2, heads=5, kv_heads=1, width=23, head_width=6, window=7, context=61),
    "qwen2": DecoderSettings(layers=1, heads=3, width=21, head_width=8, context=61, attention_bias="qkv"),
    "bert": EncoderSettings(layers=2, heads=3, width=33, context=61, head="transform", pooler=True, **BERT),
    "t5": EncoderDecoderSettings(layers=2, encoder_layers=1, heads=3, width=33, context=61, source_context=43),
    "bert-text": LabelledSettings(base=BODY, labels=("no", "yes", "maybe"), each="text", hidden="tanh"),
    "bert-word": LabelledSettings(base=BODY, labels=("B", "I", "O"), each="word"),
    "bert-body": EncoderSettings(layers=1, heads=3, width=33, context=61, head="none", **BERT),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(name, tokenizer=TOKENIZER, kind=torch.float32):
    """A model folder called `model`."""
    save(
        Path("model"),
        loud(build((FAMILIES | SHAPES)[name], tokenizer.size, seed=1, kinds=KINDS)).to(kind),
        tokenizer,
        {},
    )
    return load("model").model


def shut(message, target="out", **options):
    """The gate says so, with its exit code, and nothing is left."""
    before = {path.name for path in Path().iterdir()}
    with pytest.raises(UserError, match=message) as error:
        api.export_model("model", target, **options)
    assert error.value.code == Exit.CHECK_FAILED
    assert {path.name for path in Path().iterdir()} == before


# --- Hugging Face folders ---


@pytest.mark.parametrize("name", SHAPES | FAMILIES)
def test_a_folder_passes(name, here):
    saved(name)
    found = api.export_model("model", "out")
    assert found["checked_by"].startswith("transformers 5.")
    assert found["compared"][:2] == ["token ids of 11 texts", "BOS, EOS and PAD"]
    assert found["difference"] < found["tolerance"] / 5 and found["largest_difference"] < 1e-4


def test_what_is_kept_in_bf16_is_compared_in_float32_and_stays_bf16(here):
    model = saved("llama", kind=torch.bfloat16)
    assert parity.check_hf(here / "model", model, TOKENIZER)["difference"] < 1e-6
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.head.weight is model.embedding.weight
    api.export_model("model", "out")
    stored = [load(name).model.state_dict() for name in ("model", "out")]
    assert all(torch.equal(value, stored[1][key]) for key, value in stored[0].items())


def test_a_model_without_a_tokenizer_passes_by_its_logits(here):
    save(Path("model"), loud(build(SHAPES["llama"], 43, seed=1)), None, {})
    assert api.export_model("model", "out")["compared"] == ["logits at 61 positions"]


def test_no_line_is_opened(here, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    saved("gpt2")
    assert "checked_by" in api.export_model("model", "out")


def written(monkeypatch, change):
    """The folder's config.json and tensors are written otherwise than they are."""
    real = folder._describe

    def describe(model):
        config, tensors = real(model)
        change(config, tensors)
        return config, tensors

    monkeypatch.setattr(folder, "_describe", describe)


ONE, OTHER = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight"


def swap_queries_and_keys(config, tensors):
    tensors[ONE], tensors[OTHER] = tensors[OTHER], tensors[ONE]


def drop_biases(config, tensors):
    config["attention_bias"] = False
    for name in [name for name in tensors if name.endswith(".bias")]:
        del tensors[name]


FOLDERS = {
    "swapped q and k": (swap_queries_and_keys, "the logit at row .* to transformers .*, not"),
    "wrong epsilon": (lambda config, tensors: config.update(rms_norm_eps=2e-4), "the logit at row"),
    "dropped bias": (drop_biases, "the logit at row"),
    "dropped tensor": (
        lambda config, tensors: tensors.pop("model.norm.weight"),
        "missing keys to .*: model.norm.weight",
    ),
    "a tensor too many": (
        lambda config, tensors: tensors.update({"model.layers.0.odd.weight": torch.ones(2)}),
        "unexpected keys to .*odd",
    ),
    "another shape": (lambda config, tensors: config.update(intermediate_size=7), "cannot open it|mismatched keys"),
    "a number that is none": (lambda config, tensors: tensors[ONE].__setitem__((3, 5), torch.nan), "the logit at row"),
}


@pytest.mark.parametrize("mutant", FOLDERS)
def test_a_broken_folder(mutant, here, monkeypatch):
    saved("llama")
    change, message = FOLDERS[mutant]
    written(monkeypatch, change)
    shut(message)


def after_saving(monkeypatch, name, change):
    """A file of the tokenizer is written otherwise than it is."""
    real = Tokenizer.save

    def save_and_break(self, path):
        real(self, path)
        text = (path / name).read_text()
        assert change(text) != text
        (path / name).write_text(change(text))

    monkeypatch.setattr(Tokenizer, "save", save_and_break)


def other_begin(text):
    return text.replace('"bos_token": "<|endoftext|>"', '"bos_token": "<|pad|>"')


def other_merge(text):
    spec = json.loads(text)
    spec["model"]["merges"][:2] = reversed(spec["model"]["merges"][:2])
    del spec["model"]["merges"][2]
    return json.dumps(spec)


BROKEN = {
    "begin": ("tokenizer_config.json", other_begin, "the id of BOS is 1 to transformers .*, not 0"),
    "merge": ("tokenizer.json", other_merge, "from token .* on to transformers"),
    "template": ("chat_template.jinja", lambda text: text + " ", "the chat templates are"),
    "nonsense": ("tokenizer.json", lambda text: text[:50], "cannot open it"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_tokenizer(name, here, monkeypatch):
    file, change, message = BROKEN[name]
    tokenizer = tokenizer_of()
    tokenizer.templates = {"default": "{{ messages }}"}
    saved("llama", tokenizer)
    after_saving(monkeypatch, file, change)
    shut(message)


def test_an_old_folder_stays_when_the_gate_is_shut(here, monkeypatch):
    saved("llama")
    api.export_model("model", "out")
    before = files.verify(here / "out")
    written(monkeypatch, swap_queries_and_keys)
    shut("the logit at row")
    assert files.verify(here / "out") == before


def test_what_nobody_reads_is_said_not_to_be_checked(here, monkeypatch):
    save(Path("model"), build(RecurrentSettings(kind="lstm", width=7), TOKENIZER.size), TOKENIZER, {})
    assert "no other program" in api.export_model("model", "out")["not_checked"]
    monkeypatch.setattr(parity, "missing", lambda package: package == "transformers")
    saved("llama")
    found = api.export_model("model", "out")
    assert found["not_checked"].startswith("transformers is not installed") and "checked_by" not in found


def test_a_class_that_reads_a_tokenizer_its_own_way_is_told_of(here):
    """transformers takes Qwen2Tokenizer for every folder of that type, whatever its tokenizer.json says."""
    saved("qwen2")
    (note,) = api.export_model("model", "out")["notes"]
    assert "Qwen2Tokenizer" in note and "PreTrainedTokenizerFast" in note
    saved("gpt2")
    assert "notes" not in api.export_model("model", "other")


def test_import_compares_on_request(here, monkeypatch):
    saved("gpt2")
    assert "checked_by" not in api.import_model("model", "plain")
    assert api.import_model("model", "checked", check=True)["difference"] < 1e-6
    assert files.verify(here / "plain")["files"] == files.verify(here / "checked")["files"]
    row = families.FAMILIES["gpt2"]  # now a table that reads a key wrongly
    monkeypatch.setitem(families.FAMILIES, "gpt2", replace(row, read=lambda c: row.read(c) | {"norm_epsilon": 0.1}))
    with pytest.raises(UserError, match="the logit at row") as error:
        api.import_model("plain", "wrong", check=True)
    assert error.value.code == Exit.CHECK_FAILED and not (here / "wrong").exists()


# --- GGUF files ---


@pytest.fixture(params=["the library", "llama.cpp"])
def reader(request, monkeypatch):
    """Who reads: the package `gguf` alone, or both."""
    if request.param == "llama.cpp":
        pytest.importorskip("llama_cpp")
    else:
        monkeypatch.setattr(parity_gguf, "missing", lambda package: package == "llama_cpp")


def changed(real, **changes):
    return lambda *arguments: real(*arguments) | changes


def with_vocabulary(monkeypatch, change):
    real = gguf_file.vocabulary

    def other(*arguments):
        about, notes = real(*arguments)
        change(about)
        return about, notes

    monkeypatch.setattr(gguf_file, "vocabulary", other)


def with_tensors(monkeypatch, change):
    real = gguf_file.tensors
    monkeypatch.setattr(gguf_file, "tensors", lambda *arguments: change(list(real(*arguments))))


def swap(parts):
    names = {"blk.1.attn_q.weight": "blk.1.attn_k.weight", "blk.1.attn_k.weight": "blk.1.attn_q.weight"}
    return [replace(part, name=names.get(part.name, part.name)) for part in parts]


def nudge(name, tensor, kind, real=gguf_file.to_array):
    array = real(name, tensor, kind)
    return array * 1.001 if name == "blk.0.attn_v.weight" else array


MUTANTS = {
    "swapped q and k": (lambda p: with_tensors(p, swap), "blk.1.attn_. *"),
    "dropped bias": (
        lambda p: with_tensors(p, lambda parts: [part for part in parts if part.name != "blk.0.attn_v.bias"]),
        "blk.0.attn_v.bias is missing",
    ),
    "wrong epsilon": (
        lambda p: p.setattr(
            gguf_file, "metadata", changed(gguf_file.metadata, **{"llama.attention.layer_norm_rms_epsilon": 1e-5})
        ),
        "layer_norm_rms_epsilon is .* to gguf, not 0.002",
    ),
    "wrong base": (
        lambda p: p.setattr(gguf_file, "metadata", changed(gguf_file.metadata, **{"llama.rope.freq_base": 5e5})),
        "rope.freq_base is 500000.0",
    ),
    "wrong BOS": (
        lambda p: with_vocabulary(p, lambda about: about.update({"tokenizer.ggml.bos_token_id": 1})),
        "bos_token_id is 1 to gguf, not 0",
    ),
    "no BOS": (
        lambda p: with_vocabulary(p, lambda about: about.update({"tokenizer.ggml.add_bos_token": False})),
        "add_bos_token is False",
    ),
    "changed merge": (
        lambda p: with_vocabulary(p, lambda about: about["tokenizer.ggml.merges"].reverse()),
        r"merges\[0\] is",
    ),
    "a control token that is none": (
        lambda p: with_vocabulary(p, lambda about: about["tokenizer.ggml.token_type"].__setitem__(1, 1)),
        r"token_type\[1\] is 1",
    ),
    "a matrix a little off": (lambda p: p.setattr(gguf_file, "to_array", nudge), "number 0 of blk.0.attn_v.weight"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_file(mutant, here, reader, monkeypatch):
    saved("llama")
    mutate, message = MUTANTS[mutant]
    mutate(monkeypatch)
    shut(message, "out.gguf", to="gguf")


def test_a_whole_file_passes_and_says_who_did_not_try(here, monkeypatch):
    saved("gpt2")
    monkeypatch.setattr(parity_gguf, "missing", lambda package: package == "llama_cpp")
    found = api.export_model("model", "out.gguf", to="gguf", type_="q8_0")
    assert found["checked_by"].startswith("gguf ") and found["compared"] == ["metadata", "28 tensors"]
    assert "llama-cpp-python is not installed" in found["not_checked"]


# --- ARPA files ---


def counted(tokenizer):
    ids = {"begin_id": tokenizer.begin_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
    texts = [tokenizer.encode(line) for line in TEXT.splitlines()]
    every = torch.tensor([id_ for text in texts for id_ in text]).numpy()
    offsets = torch.tensor([0, *(len(text) for text in texts)]).cumsum(0).numpy()
    documents = type("Documents", (), {"ids": every, "offsets": offsets})
    return NGram(NGramSettings(order=3), tokenizer.size, **ids).fit(documents)


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_an_arpa_file_passes(kind, here):
    tokenizer = tokenizer_of(kind=kind)
    save(Path("model"), counted(tokenizer), tokenizer, {})
    found = api.export_model("model", "out.arpa", to="arpa")
    assert found["checked_by"] == "the file read by its words" and 0 < found["largest_difference"] < 1e-7


ARPA = {
    "a score": lambda line: line.replace("-", "-1", 1) if "\tthe\t" in line else line,
    "no backoff": lambda line: line.rpartition("\t")[0] + "\t0" if line.count("\t") == 2 else line,
    "another word": lambda line: line.replace("\tthe\t", "\ttha\t"),
}


@pytest.mark.parametrize("name", ARPA)
def test_a_broken_arpa_file(name, here, monkeypatch):
    tokenizer = tokenizer_of(kind="word")
    save(Path("model"), counted(tokenizer), tokenizer, {})
    real = arpa._lines
    monkeypatch.setattr(arpa, "_lines", lambda *arguments: map(ARPA[name], real(*arguments)))
    with monkeypatch.context() as patch:
        patch.setattr(arpa, "read_arpa", lambda path: None)  # it sees n-grams that stand twice by itself
        shut("has log-probability .* to the file read by its words", "out.arpa", to="arpa")


def test_texts_are_the_same_for_everyone():
    """They are drawn from nothing: the same model is asked the same."""
    model = build(SHAPES["llama"], TOKENIZER.size)
    assert parity.golden(model, TOKENIZER) == parity.golden(model, train([TEXT], TokenizerSettings(size=283)))
