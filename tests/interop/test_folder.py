"""Model folders: what transformers opens, what we open of theirs, what comes back, and what is refused."""

import json
import os
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from idiolect import files
from idiolect.errors import UserError
from idiolect.interop.families import match
from idiolect.interop.folder import load, save
from idiolect.models.build import build
from idiolect.models.ngram import NGram
from idiolect.models.settings import CbowSettings, DecoderSettings, NGramSettings, RecurrentSettings
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

V, T = 43, 13

GPT2 = {"norm": "layer", "position": "learned", "mlp": "gelu", "attention_bias": "all", "mlp_bias": True}
SHAPES = {
    "llama": DecoderSettings(layers=3, heads=3, width=21, head_width=10, context=29, dropout=0.1),
    "llama-wide": DecoderSettings(layers=1, heads=2, width=28, kv_heads=1, context=17, rope_theta=500.0, mlp_bias=True),
    "llama-biased": DecoderSettings(layers=1, heads=2, width=14, head_width=2, tied=False, attention_bias="all"),
    "gpt2": DecoderSettings(layers=2, heads=3, width=33, context=29, dropout=0.2, **GPT2),
    "gpt2-relu": DecoderSettings(layers=1, heads=1, width=7, mlp_width=23, tied=False, **(GPT2 | {"mlp": "relu"})),
    "mistral": DecoderSettings(layers=2, heads=5, kv_heads=1, width=23, head_width=6, window=3, context=31),
    "mistral-head": DecoderSettings(layers=1, heads=3, width=13, head_width=4, mlp_width=17, tied=False),
    "qwen2": DecoderSettings(layers=2, heads=6, kv_heads=3, width=36, attention_bias="qkv", norm_epsilon=1e-6),
    "qwen2-window": DecoderSettings(layers=2, heads=3, width=18, head_width=4, attention_bias="qkv", window=5),
    "qwen3": DecoderSettings(layers=2, heads=4, kv_heads=2, width=19, head_width=6, qk_norm=True),
    "qwen3-window": DecoderSettings(layers=1, heads=3, width=17, head_width=2, qk_norm=True, window=2, tied=False),
}


@pytest.fixture
def ids():
    return torch.randint(0, V, (3, T), generator=torch.Generator().manual_seed(2))


def loud(model):
    """Weights large enough that no term hides: biases, norms and all."""
    with torch.no_grad():
        for i, (_, parameter) in enumerate(sorted(model.named_parameters())):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
            parameter.copy_(0.2 * noise + (parameter if parameter.dim() == 1 else 0))
    return model.eval()


def same_logits(theirs, ours, ids):
    with torch.no_grad():
        expected = theirs(ids).logits
        torch.testing.assert_close(ours.head(ours.body(ids)), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_opens_what_we_save(name, ids, tmp_path):
    settings = SHAPES[name]
    model = loud(build(settings, V, seed=1))
    save(tmp_path / "model", model, None, {"recipe": "made"})
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == name.partition("-")[0]
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    same_logits(theirs.eval(), model, ids)
    back = load(tmp_path / "model")
    assert back.settings == settings
    assert back.lineage == {"recipe": "made"}
    assert torch.equal(back.model.head(back.model.body(ids)), model.head(model.body(ids)))


THEIRS = {
    "gpt2": GPT2Config(vocab_size=V, n_layer=2, n_head=3, n_embd=33, n_positions=29, initializer_range=0.2),
    "llama": LlamaConfig(
        vocab_size=V,
        hidden_size=28,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=31,
        rope_parameters={"rope_type": "default", "rope_theta": 1234.5},
        attention_bias=True,
        tie_word_embeddings=True,
        initializer_range=0.2,
    ),
    "mistral": MistralConfig(
        vocab_size=V,
        hidden_size=23,
        head_dim=6,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=5,
        num_key_value_heads=1,
        max_position_embeddings=31,
        sliding_window=3,
        initializer_range=0.2,
    ),
    "qwen2": Qwen2Config(
        vocab_size=V,
        hidden_size=30,
        intermediate_size=41,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=31,
        initializer_range=0.2,
    ),
    "qwen3": Qwen3Config(
        vocab_size=V,
        hidden_size=19,
        head_dim=6,
        intermediate_size=41,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=31,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=0,
        initializer_range=0.2,
    ),
}


@pytest.mark.parametrize("name", THEIRS)
def test_we_open_what_transformers_saves(name, ids, tmp_path):
    theirs = loud(AutoModelForCausalLM.from_config(THEIRS[name]))
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert ours.tokenizer is None and ours.lineage == {}
    assert match(ours.settings) == name
    same_logits(theirs, ours.model, ids)
    # what they wrote, read by us and written by us, they open again
    save(tmp_path / "again", ours.model, None, {})
    same_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval(), ours.model, ids)


def test_sharded_weights_and_openais_names_are_read(ids, tmp_path):
    theirs = loud(AutoModelForCausalLM.from_config(THEIRS["gpt2"]))
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    same_logits(theirs, load(tmp_path).model, ids)
    tensors = {}
    for shard in tmp_path.glob("*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 29, 29, dtype=torch.uint8)  # the causal mask, as in the 2019 files
    save_file(tensors, tmp_path / "model.safetensors")
    same_logits(theirs, load(tmp_path).model, ids)


OTHERS = {
    "idiolect-lstm": RecurrentSettings(kind="lstm", layers=2, width=11, dropout=0.3),
    "idiolect-gru": RecurrentSettings(kind="gru", width=11, tied=True),
    "idiolect-rnn": RecurrentSettings(kind="rnn", width=11, nonlinearity="logistic"),
    "idiolect-cbow": CbowSettings(width=11, window=3),
    "idiolect-decoder": DecoderSettings(layers=1, heads=1, width=6, norm="layer", window=5),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_no_family_expresses_has_a_type_of_its_own(name, ids, tmp_path):
    model = loud(build(OTHERS[name], V, seed=1))
    save(tmp_path / "model", model, None, {})
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == name
    back = load(tmp_path / "model")
    assert back.settings == OTHERS[name]
    assert torch.equal(back.model.body(ids), model.body(ids))


class Documents:
    """Three documents in ids."""

    ids = torch.tensor([5, 7, 5, 7, 11, 5, 7, 13, 11, 5]).numpy()
    offsets = torch.tensor([0, 4, 8, 10]).numpy()


@pytest.mark.parametrize("smoothing", ["mle", "kneser-ney", "infinite"])
def test_ngram_comes_back_equal(smoothing, tmp_path):
    model = NGram(NGramSettings(order=3, smoothing=smoothing), 17, begin_id=0, end_id=0, pad_id=1).fit(Documents)
    save(tmp_path / "model", model, None, {"tokens": 10})
    back = load(tmp_path / "model")
    assert back.settings == model.settings and back.lineage == {"tokens": 10}
    ids = torch.tensor([[0, 5, 7, 11, 13, 0], [0, 3, 5, 5, 7, 5]])
    assert torch.equal(back.model.score(ids), model.score(ids))


def test_dtype_is_kept_or_chosen_and_weights_can_be_trained(ids, tmp_path):
    model = build(SHAPES["llama"], V).to(torch.bfloat16)
    save(tmp_path / "model", model, None, {})
    assert json.loads((tmp_path / "model/config.json").read_text())["dtype"] == "bfloat16"
    assert load(tmp_path / "model").model.head.weight.dtype == torch.bfloat16
    back = load(tmp_path / "model", dtype=torch.float32).model
    assert back.head.weight.dtype == torch.float32
    assert back.head.weight is back.embedding.weight and not back.training
    back.head(back.body(ids)).sum().backward()
    assert all(parameter.grad is not None for parameter in back.parameters())


def test_no_pickle_and_every_file_in_the_manifest(tmp_path):
    save(tmp_path / "model", build(SHAPES["gpt2"], V), None, {})
    names = {path.name for path in (tmp_path / "model").iterdir()}
    expected = {"config.json", "generation_config.json", "lineage.json", "model.safetensors"}
    assert names == expected | {"manifest.json"}
    assert set(files.verify(tmp_path / "model")["files"]) == expected


# --- what is refused ---


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "model", build(SHAPES["llama"], V), None, {})
    return tmp_path / "model"


@pytest.fixture
def foreign(folder):
    """The same model as another tool would leave it: no manifest, no lineage."""
    (folder / "manifest.json").unlink()
    (folder / "lineage.json").unlink()
    return folder


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (config | changes).items() if v != "gone"}))


def test_missing_folders_and_files(folder, tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json does not exist"):
        load(tmp_path / "empty")
    for name in ("config.json", "model.safetensors", "manifest.json"):
        copy = tmp_path / f"without-{name}"
        shutil.copytree(folder, copy)
        (copy / name).unlink()
        with pytest.raises(UserError, match=name):
            load(copy)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "lineage.json"])
def test_one_flipped_bit_is_noticed(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=name):
        load(folder)


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_truncated_weights_of_another_tool(foreign, keep):
    data = (foreign / "model.safetensors").read_bytes()
    (foreign / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load(foreign)


def test_headers_that_lie(foreign):
    huge = {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}
    for header, length in ((huge, None), ({}, 2**62)):
        text = json.dumps(header).encode()
        (foreign / "model.safetensors").write_bytes(struct.pack("<Q", length or len(text)) + text + bytes(4))
        with pytest.raises(UserError):
            load(foreign)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 2**40}, "speaks of more weights than there are"),
        ({"hidden_size": 2**40}, "speaks of more weights than there are"),
        ({"num_hidden_layers": 10**4}, "speaks of more weights than there are"),
        ({"num_hidden_layers": 10**9}, "more than any model has"),
        ({"num_hidden_layers": 2}, "unknown tensor"),
        ({"num_hidden_layers": 4}, "lacks model.layers.3"),
        ({"vocab_size": V + 1}, "shape"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"vocab_size": "gone"}, "vocab_size"),
        ({"hidden_size": "gone"}, "hidden_size"),
        ({"hidden_size": None}, "damaged"),
        ({"num_attention_heads": 0}, "heads: must be"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "lacks the key 'factor'"),
        ({"model_type": "lama"}, 'did you mean "llama"'),
        ({"model_type": "idiolect-lstm"}, "settings"),
        ({"intermediate_size": 17}, "shape"),
        ({"tie_word_embeddings": False}, "lacks lm_head.weight"),
        ({"rms_norm_eps": -1}, "norm_epsilon"),
    ],
)
def test_configs_that_do_not_fit(foreign, change, message):
    edit(foreign, **change)
    with pytest.raises(UserError, match=message):
        load(foreign)


def test_nothing_points_outside(foreign, tmp_path):
    outside = tmp_path / "outside.safetensors"
    os.rename(foreign / "model.safetensors", outside)
    os.symlink(outside, foreign / "model.safetensors")
    with pytest.raises(UserError, match="points outside the folder"):
        load(foreign)
    os.unlink(foreign / "model.safetensors")
    index = {"weight_map": {"model.norm.weight": "../outside.safetensors"}}
    (foreign / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="points outside the folder"):
        load(foreign)


@pytest.mark.parametrize("name", ["x" * 9999, "a\0b"])
def test_names_that_no_file_can_have(foreign, name):
    os.unlink(foreign / "model.safetensors")
    (foreign / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(UserError, match="no name of a file"):
        load(foreign)


@pytest.mark.parametrize("ids", [[0, 1, "2"], [0, 1, 2**70], [-1, 1, 2], [0, True, 2], [0, 1], 7, None])
def test_special_ids_that_are_none(tmp_path, ids):
    documents = type("Documents", (), {"ids": torch.arange(2, 9).numpy(), "offsets": torch.tensor([0, 7]).numpy()})
    model = NGram(NGramSettings(order=2), 11, begin_id=0, end_id=0, pad_id=1).fit(documents)
    save(tmp_path / "model", model, None, {})
    for name in (files.MANIFEST, "lineage.json"):
        os.unlink(tmp_path / "model" / name)
    assert load(tmp_path / "model").model.symbols.end == 0
    edit(tmp_path / "model", special_ids=ids)
    with pytest.raises(UserError, match="holds no whole n-gram model"):
        load(tmp_path / "model")


def test_pickles_integers_and_code_are_left_alone(foreign):
    edit(foreign, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (foreign / "evil.py").write_text("raise SystemExit('this must never run')")
    load(foreign)
    tensors = load_file(foreign / "model.safetensors")
    name = "model.norm.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, foreign / "model.safetensors")
    with pytest.raises(UserError, match="I8"):
        load(foreign)
    os.rename(foreign / "model.safetensors", foreign / "pytorch_model.bin")
    with pytest.raises(UserError, match="is a pickle"):
        load(foreign)


def test_a_failed_save_leaves_the_old_folder(folder):
    before = files.verify(folder)["files"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(folder, build(SHAPES["gpt2"], V), None, {"loss": float("nan")})
    assert files.verify(folder)["files"] == before


TEXT = "the cat sat on the mat\nthe dog sat on the log\n" * 7


def test_tokenizer_and_special_ids_travel_along(tmp_path):
    tokenizer = train([TEXT], TokenizerSettings(kind="bpe", size=270))
    model = build(SHAPES["llama"], tokenizer.size)
    save(tmp_path / "model", model, tokenizer, {})
    expected = {"bos_token_id": tokenizer.begin_id, "eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.pad_id}
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / "model" / name).read_text())
        assert {key: written[key] for key in expected} == expected
    back = load(tmp_path / "model").tokenizer
    assert back.fingerprint == tokenizer.fingerprint
    ids = tokenizer.encode("the cat sat")
    assert back.encode("the cat sat") == ids
    theirs = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert theirs.encode("the cat sat", add_special_tokens=False) == ids
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "model").generation_config
    assert written.eos_token_id == tokenizer.end_id and written.pad_token_id == tokenizer.pad_id


def test_a_tokenizer_of_another_model_is_refused_but_for_padding(tmp_path):
    tokenizer = train([TEXT], TokenizerSettings(kind="bpe", size=270))
    save(tmp_path / "model", build(SHAPES["llama"], tokenizer.size - 2), tokenizer, {})
    with pytest.raises(UserError, match=f"the tokenizer has {tokenizer.size} ids, the model only {tokenizer.size - 2}"):
        load(tmp_path / "model")
