"""T5, its version 1.1 (Flan-T5) and mT5: transformers' random weights here, and back, to the bit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, MT5Config, T5Config

from idiolect.errors import UserError
from idiolect.interop.families import match
from idiolect.interop.folder import load, save
from idiolect.models.build import build
from idiolect.models.settings import EncoderDecoderSettings

V, S, T = 43, 47, 31
T5 = {
    "vocab_size": V,
    "d_model": 22,
    "d_kv": 6,
    "d_ff": 37,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,  # sources are longer
    "layer_norm_epsilon": 3e-5,
    "decoder_start_token_id": 0,
}
THEIRS = {
    "t5": T5Config(**T5),
    "t5-gelu": T5Config(**T5, feed_forward_proj="gelu"),
    "t5-gated": T5Config(**{**T5, "feed_forward_proj": "gated-gelu", "num_layers": 3, "decoder_start_token_id": 5}),
    "t5-silu": T5Config(**{**T5, "feed_forward_proj": "gated-silu", "d_model": 18}),
    "flan": T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": MT5Config(**T5),
}
APART = ("flan", "mt5")
"""Those whose released checkpoints have a head of its own, though transformers 5 makes new ones without."""


def theirs_of(name):
    """Every parameter, norm scales included, redrawn from N(0, 0.3) around its default."""
    theirs = AutoModelForSeq2SeqLM.from_config(THEIRS[name])
    if name in APART:
        theirs.lm_head.weight = torch.nn.Parameter(theirs.lm_head.weight.clone())
        theirs.all_tied_weights_keys.pop("lm_head.weight", None)
    with torch.no_grad():
        for i, (key, parameter) in enumerate(sorted(theirs.named_parameters())):
            around = 1.0 if "layer_norm" in key else 0.0
            parameter.normal_(around, 0.3, generator=torch.Generator().manual_seed(i))
    return theirs.eval()


@pytest.fixture
def source():
    return torch.randint(2, V, (3, S), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def ids():
    return torch.randint(2, V, (3, T), generator=torch.Generator().manual_seed(2))


def same(ours, expected):
    """Within 1e-4, and 1e-5 of the largest number."""
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=0, atol=min(1e-4, 1e-5 * float(expected.abs().max())))


def greedy(model, source, lengths, start, n):
    """n ids of each row, the likeliest one by one."""
    state = model.init_state(len(source), n, source, lengths)
    last, written = torch.full((len(source), 1), start), []
    for _ in range(n):
        logits, state = model.step(last, state)
        last = logits[:, -1:].argmax(-1)
        written.append(last)
    return torch.cat(written, dim=1)


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_we_open_what_transformers_saves_and_save_it_to_the_bit(name, source, ids, tmp_path):
    theirs = theirs_of(name)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs").model
    same(ours.head(ours.body(ids, source)), theirs(input_ids=source, decoder_input_ids=ids).logits)

    lengths = torch.tensor([S, 5, 30])
    real = (torch.arange(S) < lengths[:, None]).long()
    padded = torch.where(real.bool(), source, 0)
    expected = theirs(input_ids=padded, attention_mask=real, decoder_input_ids=ids).logits
    same(ours.head(ours.body(ids, padded, lengths)), expected)

    # without its cache, which has as many layers as the encoder
    asked = GenerationConfig(max_new_tokens=64, do_sample=False, pad_token_id=0, eos_token_id=None, use_cache=False)
    asked.decoder_start_token_id = start = THEIRS[name].decoder_start_token_id
    written = theirs.generate(input_ids=padded, attention_mask=real, generation_config=asked)
    assert ours.settings.start_id == start
    assert written[:, 1:].unique().numel() > 3
    assert torch.equal(greedy(ours, padded, lengths, start, 64), written[:, 1:])

    save(tmp_path / "again", ours, None, {})
    a, b = (load_file(tmp_path / folder / "model.safetensors") for folder in ("theirs", "again"))
    assert a.keys() == b.keys() and ("lm_head.weight" in a) == (name in APART)
    assert all(torch.equal(a[key], b[key]) for key in a)
    back, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    again = back.eval()(input_ids=source, decoder_input_ids=ids).logits
    assert torch.equal(again, theirs(input_ids=source, decoder_input_ids=ids).logits)


SHAPES = {
    "default": EncoderDecoderSettings(layers=2, heads=3, width=21, context=29),
    "untied": EncoderDecoderSettings(layers=1, encoder_layers=2, heads=2, width=12, tied=False, mlp="relu", context=40),
    "plain head": EncoderDecoderSettings(layers=1, heads=2, width=12, scaled_head=False, mlp="geglu", context=40),
    "bounded": EncoderDecoderSettings(layers=1, heads=2, width=12, head_width=4, source_context=50, start_id=3),
}


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_transformers_opens_what_we_save(name, source, ids, tmp_path):
    settings = SHAPES[name]
    model = build(settings, V, seed=1).eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    save(tmp_path / "model", model, None, {"recipe": "made"})
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == match(settings) == "t5"
    theirs, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    same(model.head(model.body(ids[:, :29], source)), theirs(input_ids=source, decoder_input_ids=ids[:, :29]).logits)
    back = load(tmp_path / "model")
    assert back.settings == settings
    assert torch.equal(back.model.body(ids[:, :29], source), model.body(ids[:, :29], source))


@pytest.mark.parametrize(
    "changes",
    [
        {"position": "rope"},
        {"norm": "layer"},
        {"norm_place": "residual"},
        {"scaled_scores": True},
        {"scaled_embedding": True},
        {"attention_bias": "all"},
        {"mlp_bias": True},
        {"kv_heads": 2},
        {"qk_norm": True},
        {"shared_embedding": False},
        {"source_features": 5},
    ],
)
def test_what_t5_cannot_express_is_saved_as_our_own(changes, tmp_path):
    settings = EncoderDecoderSettings(layers=1, heads=4, width=24, context=8, **changes)
    save(tmp_path / "model", build(settings, V, seed=1), None, {})
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == "idiolect-encoder-decoder"
    assert load(tmp_path / "model").settings == settings


def test_old_files_carry_copies_of_the_embedding_and_an_unused_bias(source, ids, tmp_path):
    theirs_of("t5").save_pretrained(tmp_path)
    expected = load(tmp_path).model.body(ids, source)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {f"{side}.embed_tokens.weight": tensors["shared.weight"].clone() for side in ("encoder", "decoder")}
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.zeros(8, 3)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(load(tmp_path).model.body(ids, source), expected)


def test_an_unknown_activation_is_refused(tmp_path):
    theirs_of("t5").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"feed_forward_proj": "gated-tanh"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="feed_forward_proj = 'gated-tanh' is not supported"):
        load(tmp_path)
