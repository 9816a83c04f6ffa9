"""GGUF files: read back by the package `gguf` and by transformers, and what is refused.

llama.cpp itself reads them in test_llama_cpp.py, where it is installed.
"""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from idiolect.errors import Exit, UserError
from idiolect.interop import gguf_file
from idiolect.interop.folder import save
from idiolect.interop.gguf_architectures import ARCHITECTURES, neighbours
from idiolect.interop.gguf_file import write_gguf
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, RecurrentSettings
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

TEXT = "the cat sat on the mat; it didn't move 1234 times\n" * 3 + "naïve café: 日本語 and the dog's log\n" * 2
GPT2 = {"norm": "layer", "position": "learned", "mlp": "gelu", "attention_bias": "all", "mlp_bias": True}
SHAPES = {
    "gpt2": DecoderSettings(layers=2, heads=3, width=33, context=61, norm_epsilon=3e-3, **GPT2),
    "llama": DecoderSettings(
        layers=3, heads=6, kv_heads=2, width=66, head_width=10, context=61, rope_theta=777.0, attention_bias="all"
    ),
    "llama-untied": DecoderSettings(layers=1, heads=2, width=64, mlp_width=96, context=61, tied=False, mlp_bias=True),
    "qwen2": DecoderSettings(layers=2, heads=4, kv_heads=2, width=64, context=61, attention_bias="qkv"),
    "qwen3": DecoderSettings(layers=2, heads=4, kv_heads=2, width=64, head_width=22, context=61, qk_norm=True),
}


# all families: long enough for 64 new tokens after a prompt, with grouped heads, heads of another width, odd numbers
SMALL = {"layers": 3, "heads": 4, "kv_heads": 2, "width": 64, "context": 131, "norm_epsilon": 7e-4}
WIDE = SMALL | {"head_width": 22}
EXPERTS = {"count": 5, "per_token": 2, "width": 32}
CAPPED = WIDE | {
    "norm": "rms-offset",
    "norm_place": "both",
    "mlp": "geglu",
    "scaled_embedding": True,
    "window": 17,
    "global_layers": (1,),
}
SCALED = {"kind": "yarn", "factor": 5.0, "original_context": 29}
FAMILIES = {
    "gpt2": DecoderSettings(layers=2, heads=3, width=33, context=131, norm_epsilon=3e-3, **GPT2),
    "llama": DecoderSettings(**WIDE, rope_theta=777.0, attention_bias="all", mlp_bias=True, tied=False),
    "llama-llama3": DecoderSettings(
        **WIDE, rope_theta=777.0, rope_scaling={"kind": "llama3", "factor": 3.0, "original_context": 29}
    ),
    "llama-linear": DecoderSettings(**WIDE, rope_scaling={"kind": "linear", "factor": 2.5}),
    "llama-yarn": DecoderSettings(**WIDE, rope_theta=777.0, rope_scaling=SCALED | {"attention_factor": 1.3}),
    "mixtral": DecoderSettings(**WIDE, mlp_width=32, experts=EXPERTS | {"width": None}),
    "qwen2": DecoderSettings(**SMALL, attention_bias="qkv"),
    "qwen2-yarn": DecoderSettings(**SMALL, attention_bias="qkv", rope_scaling=SCALED),
    "qwen3": DecoderSettings(**WIDE, qk_norm=True),
    "qwen2_moe": DecoderSettings(
        **SMALL, attention_bias="qkv", experts=EXPERTS | {"shared_width": 64, "normalised": False}
    ),
    "qwen3_moe": DecoderSettings(**WIDE, qk_norm=True, experts=EXPERTS),
    "gemma2": DecoderSettings(**CAPPED, attention_softcap=2.5, logit_softcap=5.0),
    "gemma3_text": DecoderSettings(
        **CAPPED,
        qk_norm=True,
        rope_theta=777.0,
        rope_local_theta=33.0,
        rope_scaling={"kind": "linear", "factor": 2.5},
        logit_softcap=5.0,
    ),
    "gemma3_text-whole": DecoderSettings(**CAPPED | {"window": None, "global_layers": ()}, qk_norm=True),
    "phi3": DecoderSettings(**SMALL, rope_share=0.5, tied=False),
    "olmo2": DecoderSettings(**SMALL, norm_place="after", qk_norm=True, qk_norm_joint=True),
    "smollm3": DecoderSettings(**WIDE | {"layers": 5}, unrotated_layers=(3,)),
}


def loud(model):
    """Weights large enough that no term hides: biases, norms and all."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(sorted(model.named_parameters())):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
            parameter.copy_(0.3 * noise + ("norm" in name and name.endswith("weight")))
    return model.eval()


def tokenizer_of(**settings):
    return train([TEXT], TokenizerSettings(**{"size": 283} | settings))


TOKENIZER = tokenizer_of()


def model_of(name, vocabulary=TOKENIZER.size):
    return loud(build(SHAPES[name], vocabulary, seed=1))


def read(path):
    reader = gguf.GGUFReader(path)
    return {key: field.contents() for key, field in reader.fields.items()}, {t.name: t for t in reader.tensors}


def values(tensor):
    return torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type)))


# --- what is in a file ---


def test_the_keys_of_a_llama_by_hand(tmp_path):
    write_gguf(model_of("llama"), TOKENIZER, tmp_path / "m.gguf")
    fields, _ = read(tmp_path / "m.gguf")
    expected = {
        "general.architecture": "llama",
        "general.file_type": 0,
        "llama.vocab_size": 283,
        "llama.context_length": 61,
        "llama.embedding_length": 66,
        "llama.block_count": 3,
        "llama.feed_forward_length": 176,
        "llama.attention.head_count": 6,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 10,
        "llama.attention.value_length": 10,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "llama.rope.dimension_count": 10,
        "llama.rope.freq_base": 777.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }
    assert {key: fields.get(key) for key in expected} == expected
    assert fields["tokenizer.ggml.tokens"] == TOKENIZER.vocabulary
    assert fields["tokenizer.ggml.token_type"] == [3, 3] + [1] * 281  # two control tokens, the others normal


# the names that llama.cpp's src/llama-arch.cpp gives them
PLACES = {
    "llama": {
        "token_embd.weight": "embedding.weight",
        "output_norm.weight": "norm.weight",
        "blk.2.attn_norm.weight": "blocks.2.attention_norm.weight",
        "blk.1.attn_v.weight": "blocks.1.attention.value.weight",
        "blk.1.attn_v.bias": "blocks.1.attention.value.bias",
        "blk.0.attn_output.bias": "blocks.0.attention.out.bias",
        "blk.0.ffn_norm.weight": "blocks.0.mlp_norm.weight",
        "blk.0.ffn_gate.weight": "blocks.0.mlp.gate.weight",
        "blk.2.ffn_up.weight": "blocks.2.mlp.up.weight",
        "blk.2.ffn_down.weight": "blocks.2.mlp.down.weight",
    },
    "llama-untied": {"output.weight": "head.weight", "blk.0.ffn_down.bias": "blocks.0.mlp.down.bias"},
    "qwen2": {
        "blk.1.attn_q.weight": "blocks.1.attention.query.weight",
        "blk.1.attn_k.bias": "blocks.1.attention.key.bias",
    },
    "qwen3": {
        "blk.1.attn_q_norm.weight": "blocks.1.attention.query_norm.weight",
        "blk.0.attn_k_norm.weight": "blocks.0.attention.key_norm.weight",
    },
    "gpt2": {
        "position_embd.weight": "position.weight",
        "output_norm.bias": "norm.bias",
        "blk.0.ffn_up.bias": "blocks.0.mlp.up.bias",
        "blk.1.ffn_down.weight": "blocks.1.mlp.down.weight",
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_tensor_is_there_as_it_is(name, tmp_path):
    model = model_of(name)
    write_gguf(model, TOKENIZER, tmp_path / "m.gguf")
    _, found = read(tmp_path / "m.gguf")
    state = model.state_dict()
    for theirs, ours in PLACES[name].items():
        assert torch.equal(values(found[theirs]), state[ours]), theirs
    own = {name for name in state if name not in model.shared()}
    assert sum(tensor.n_elements for tensor in found.values()) == sum(state[name].numel() for name in own)


def test_gpt2_has_queries_keys_and_values_in_one(tmp_path):
    model = model_of("gpt2")
    write_gguf(model, TOKENIZER, tmp_path / "m.gguf")
    _, found = read(tmp_path / "m.gguf")
    attention = model.blocks[1].attention
    parts = [attention.query, attention.key, attention.value]
    assert torch.equal(values(found["blk.1.attn_qkv.weight"]), torch.cat([part.weight for part in parts]))
    assert torch.equal(values(found["blk.1.attn_qkv.bias"]), torch.cat([part.bias for part in parts]))


def test_llamas_rotations_pair_neighbours():
    # two heads of width 6: ours pairs component i with i + 3, theirs 2i with 2i + 1
    rows = torch.arange(12)[:, None]
    assert neighbours(rows, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert neighbours(rows[:, 0], 2).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_kinds_are_as_the_library_makes_them(kind, tmp_path):
    model = model_of("llama-untied")
    write_gguf(model, TOKENIZER, tmp_path / "m.gguf", kind)
    fields, found = read(tmp_path / "m.gguf")
    assert fields["general.file_type"] == {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}[kind]
    up, raw = model.blocks[0].mlp.up.weight.detach().numpy(), gguf.GGMLQuantizationType[kind.upper()]
    assert found["blk.0.ffn_up.weight"].tensor_type == raw
    assert np.array_equal(found["blk.0.ffn_up.weight"].data, gguf.quantize(up, raw))
    if kind == "q8_0":  # a block of 32 shares a scale: half of its 127th part is the most that a number moves
        moved = np.abs(values(found["blk.0.ffn_up.weight"]).numpy() - up).reshape(-1, 32).max(1)
        assert (moved <= np.abs(up).reshape(-1, 32).max(1) * (0.5 / 127 + 1e-3)).all() and moved.max() > 0
        assert found["blk.0.ffn_down.weight"].tensor_type.name == "Q8_0"
    assert found["blk.0.ffn_norm.weight"].tensor_type.name == "F32"


def test_rows_that_q8_0_cannot_cut_are_f16(tmp_path):
    write_gguf(model_of("llama"), TOKENIZER, tmp_path / "m.gguf", "q8_0")  # rows of 66
    assert read(tmp_path / "m.gguf")[1]["token_embd.weight"].tensor_type.name == "F16"


def test_positions_are_exact_whatever_the_rest_is(tmp_path):
    write_gguf(model_of("gpt2"), TOKENIZER, tmp_path / "m.gguf", "f16")
    assert read(tmp_path / "m.gguf")[1]["position_embd.weight"].tensor_type.name == "F32"


def test_unasked_the_weights_stay_as_they_are(tmp_path):
    model = model_of("qwen3").to(torch.bfloat16)
    write_gguf(model, TOKENIZER, tmp_path / "m.gguf")
    found = read(tmp_path / "m.gguf")[1]["blk.0.attn_output.weight"]
    assert found.tensor_type.name == "BF16"
    assert torch.equal(values(found), model.blocks[0].attention.out.weight.float())


# --- what is refused ---

ROPE = {"layers": 4, "heads": 2, "width": 8, "context": 61}
GEMMA = ROPE | {
    "norm": "rms-offset",
    "norm_place": "both",
    "mlp": "geglu",
    "scaled_embedding": True,
    "window": 17,
    "global_layers": (1, 3),
}
YARN = {"kind": "yarn", "factor": 4.0, "original_context": 17}
LLAMA3 = {"kind": "llama3", "original_context": 17}
LONG = {"kind": "longrope", "short": (1.0, 1.0), "long": (2.0, 3.0), "original_context": 17}
CAPS = {"attention_softcap": 5.0, "logit_softcap": 7.0}
WRONG = {
    "rnn": (RecurrentSettings(kind="rnn", width=8), "does not compute this model of kind rnn"),
    "own": (DecoderSettings(layers=1, heads=1, width=8, norm="layer"), "does not compute this model of kind decoder"),
    "relu": (DecoderSettings(layers=1, heads=1, width=8, **(GPT2 | {"mlp": "relu"})), "an MLP of relu"),
    "mistral": (DecoderSettings(**ROPE, window=60), r"a sliding window \(60\)"),
    "qwen2": (DecoderSettings(**ROPE, head_width=6, attention_bias="qkv"), "widths do not sum"),
    "qwen2-window": (DecoderSettings(**ROPE, attention_bias="qkv", window=7), "a sliding window"),
    "qwen2-llama3": (DecoderSettings(**ROPE, attention_bias="qkv", rope_scaling=LLAMA3), "positions of kind llama3"),
    "qwen3": (DecoderSettings(**ROPE, qk_norm=True, attention_bias="all"), "a bias after attention"),
    "yarn": (DecoderSettings(**ROPE, rope_scaling=YARN | {"fast": 8.0}), "yarn with other bounds"),
    "longrope": (DecoderSettings(**ROPE, rope_scaling=LONG), "positions of kind longrope"),
    "shared": (
        DecoderSettings(**ROPE, attention_bias="qkv", experts={"shared_width": 3, "width": 5}),
        "experts whose weights are divided by their sum",
    ),
    "dense": (
        DecoderSettings(**ROPE, qk_norm=True, experts={"width": 5, "dense_layers": (0,)}),
        "layers without experts",
    ),
    "uncapped": (DecoderSettings(**GEMMA), "scores or logits without a cap"),
    "capped": (DecoderSettings(**GEMMA, qk_norm=True, attention_softcap=5.0), "capped scores"),
    "scale": (DecoderSettings(**GEMMA, **CAPS, attention_scale=7**-0.5), "scores of attention multiplied by"),
    "local": (
        DecoderSettings(**GEMMA, qk_norm=True, rope_scaling={"kind": "linear", "factor": 2.0}),
        "scaled rotary positions in layers with a window",
    ),
    "unrotated": (DecoderSettings(**ROPE, unrotated_layers=(2,)), r"the layers \[2\] and no others"),
    "smollm3": (DecoderSettings(**ROPE, unrotated_layers=(3,), mlp_bias=True), "a bias in the MLP"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_llama_cpp_does_not_compute_is_refused(name, tmp_path):
    settings, message = WRONG[name]
    with pytest.raises(UserError, match=message) as error:
        write_gguf(build(settings, TOKENIZER.size), TOKENIZER, tmp_path / "m.gguf")
    assert error.value.code == Exit.BAD_INPUT and not (tmp_path / "m.gguf").exists()


def test_gemmas_norms_are_above_one_and_its_layers_take_turns(tmp_path):
    model = loud(build(DecoderSettings(**GEMMA, **CAPS), TOKENIZER.size))
    write_gguf(model, TOKENIZER, tmp_path / "m.gguf")
    fields, found = read(tmp_path / "m.gguf")
    assert torch.equal(values(found["blk.2.post_ffw_norm.weight"]), 1 + model.blocks[2].mlp_norm_after.weight)
    assert torch.equal(values(found["output_norm.weight"]), 1 + model.norm.weight)
    assert torch.equal(values(found["blk.2.ffn_up.weight"]), model.blocks[2].mlp.up.weight)
    assert fields["gemma2.attention.sliding_window"] == 17
    assert fields["gemma2.attention.sliding_window_pattern"] == [True, False, True, False]
    assert fields["gemma2.attn_logit_softcapping"] == 5.0 and fields["gemma2.final_logit_softcapping"] == 7.0


def test_experts_of_a_layer_are_one_tensor(tmp_path):
    experts = {"count": 3, "per_token": 2, "width": 5, "shared_width": 7, "normalised": False}
    model = loud(build(DecoderSettings(**ROPE, attention_bias="qkv", experts=experts), TOKENIZER.size))
    write_gguf(model, TOKENIZER, tmp_path / "m.gguf", "f16")
    fields, found = read(tmp_path / "m.gguf")
    mlp = model.blocks[2].mlp
    stacked = torch.stack([expert.gate.weight for expert in mlp.experts])
    assert torch.equal(values(found["blk.2.ffn_gate_exps.weight"]), stacked.half().float())
    assert found["blk.2.ffn_gate_inp.weight"].tensor_type.name == "F32"
    assert torch.equal(values(found["blk.2.ffn_gate_inp_shexp.weight"]), mlp.shared_gate.weight[0])
    assert torch.equal(values(found["output.weight"]), model.embedding.weight.half().float())  # it wants both
    expected = {"expert_count": 3, "expert_used_count": 2, "expert_feed_forward_length": 5}
    expected["expert_shared_feed_forward_length"] = 7
    assert {key: fields[f"qwen2moe.{key}"] for key in expected} == expected


def test_llama3s_factors_are_transformers(tmp_path):
    settings = DecoderSettings(
        **ROPE | {"width": 48}, rope_theta=500.0, rope_scaling=LLAMA3 | {"factor": 8.0, "original_context": 29}
    )
    write_gguf(build(settings, TOKENIZER.size), TOKENIZER, tmp_path / "m.gguf")
    table = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig(head_dim=24, rope_parameters=table | {"original_max_position_embeddings": 29})
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    plain = 500.0 ** -(torch.arange(0, 24, 2) / 24)
    torch.testing.assert_close(values(read(tmp_path / "m.gguf")[1]["rope_freqs.weight"]), plain / scaled)
    assert (plain / scaled).unique().numel() > 3


def test_a_window_as_long_as_the_context_is_none(tmp_path):
    settings = DecoderSettings(layers=1, heads=1, width=8, context=61, window=61)
    write_gguf(build(settings, TOKENIZER.size), TOKENIZER, tmp_path / "m.gguf")
    assert read(tmp_path / "m.gguf")[0]["general.architecture"] == "llama"


def test_every_architecture_is_of_a_family_we_know():
    from idiolect.interop.families import FAMILIES

    assert ARCHITECTURES.keys() <= FAMILIES.keys()


def test_numbers_too_large_for_f16(tmp_path):
    model = model_of("llama")
    with torch.no_grad():
        model.blocks[1].mlp.up.weight[3, 4] = 7e4
    with pytest.raises(UserError, match=r"blk\.1\.ffn_up\.weight has numbers too large for f16"):
        write_gguf(model, TOKENIZER, tmp_path / "m.gguf", "f16")
    assert not any(tmp_path.iterdir())


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"needs the package gguf.*\n.*idiolect\[hf\]"):
        write_gguf(model_of("llama"), TOKENIZER, tmp_path / "m.gguf")


def test_a_tensor_at_a_time(tmp_path, monkeypatch):
    """Between two tensors written, no more than one array is alive."""
    import weakref

    made, most = [], []
    real = gguf_file.to_array

    class Watched(np.ndarray):
        pass

    def watched(*arguments):
        array = real(*arguments).view(Watched)
        made.append(weakref.ref(array))
        most.append(sum(one() is not None for one in made))
        return array

    monkeypatch.setattr(gguf_file, "to_array", watched)
    write_gguf(model_of("llama"), TOKENIZER, tmp_path / "m.gguf", "q8_0")
    assert len(most) > 30 and max(most) <= 2  # the last one goes when the next takes its name


def test_an_old_file_stays_when_the_disk_refuses(tmp_path, monkeypatch):
    write_gguf(model_of("llama"), TOKENIZER, tmp_path / "m.gguf")
    before = (tmp_path / "m.gguf").read_bytes()

    def full(*arguments, **options):
        raise OSError("5 requested and 0 written")  # what numpy says

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(UserError, match="cannot write") as error:
        write_gguf(model_of("qwen2"), TOKENIZER, tmp_path / "m.gguf")
    assert error.value.code == Exit.CANNOT_WRITE
    assert (tmp_path / "m.gguf").read_bytes() == before and [*tmp_path.iterdir()] == [Path(tmp_path / "m.gguf")]


def test_a_file_larger_than_the_limit_ends_with_exit_4_and_leaves_nothing(tmp_path):
    """By the system, not by a patch: what the libraries write is refused half-way."""
    save(tmp_path / "model", model_of("llama"), TOKENIZER, {})
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
        "from idiolect.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "export", "model", "m.gguf", "--to", "gguf"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == Exit.CANNOT_WRITE and "cannot write m.gguf" in ended.stderr, ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
