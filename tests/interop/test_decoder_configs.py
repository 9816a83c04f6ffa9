"""What each key of a decoder's config.json does here: transformers' own reading is the measure."""

import pytest
from decoder_models import LINEAR, LLAMA3, LONG, THEIRS, YARN
from transformers import AutoConfig

from idiolect.errors import UserError
from idiolect.interop.families import FAMILIES, match, settings_of
from idiolect.models.settings import DecoderSettings

DECODERS = sorted({config.model_type for config in THEIRS.values()})
HARMLESS = {
    *("_name_or_path", "architectures", "transformers_version", "dtype", "vocab_size"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "pretraining_tp", "use_cache"),
    *("return_dict", "output_attentions", "output_hidden_states", "output_router_logits", "chunk_size_feed_forward"),
    *("is_encoder_decoder", "problem_type", "id2label", "label2id"),
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
    "reorder_and_upcast_attn",  # how scores are rounded in fp16
    "_sliding_window_pattern",  # which transformers writes and does not read
}
"""Keys of transformers' configurations that change no number a decoder computes."""


def variants(model_type):
    """The configurations of a family, with and without the lists of what each layer is."""
    for config in THEIRS.values():
        if config.model_type == model_type:
            whole = config.to_dict()
            yield whole
            yield {key: value for key, value in whole.items() if key not in ("layer_types", "no_rope_layers")}


def read(config):
    """Our settings, or the refusal."""
    try:
        return settings_of(config, config["model_type"], "config.json")
    except UserError as error:
        return error.what


def others(value):
    """What could stand in the place of a value."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 1]
    if isinstance(value, float):
        return [value * 1.5 + 0.25]
    if isinstance(value, list):
        return [value[::-1], [0], [*value, *value]]
    if isinstance(value, dict):
        return [value | {"rope_type": "dynamic", "factor": 2.0}]
    return ["other"] if isinstance(value, str) else [True, 3, 0.7, "other", [1], {"a": 1}]


@pytest.mark.parametrize("model_type", DECODERS)
def test_every_key_is_honoured_or_refused_unless_it_changes_nothing(model_type):
    known, heard = set(), set()
    for config in variants(model_type):
        plain = read(config)
        assert not isinstance(plain, str), plain
        known |= config.keys() - {"model_type"}
        for key in known & config.keys():
            if any(read({**config, key: other}) != plain for other in others(config[key])):
                heard.add(key)
    assert known - heard <= HARMLESS


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_key_that_is_not_there_has_transformers_default_or_is_asked_for(model_type):
    for config in variants(model_type):
        for key in config.keys() - {"model_type"}:
            less = {name: value for name, value in config.items() if name != key}
            ours = read(less)
            if not isinstance(ours, str):  # else it was asked for, or its default did not go with the others
                assert ours == read(AutoConfig.for_model(**less).to_dict()), key


FACTORS = {"short_factor": [1.0, 1.5, 2.0, 2.5, 3.0], "long_factor": [4.0] * 5, "original_max_position_embeddings": 19}
ROPES = {"linear": LINEAR, "llama3": LLAMA3, "yarn": YARN, "longrope": LONG | FACTORS}
PHI3 = {"original_max_position_embeddings": 19}
OLD = {
    **{
        f"{model_type} {kind}": (model_type, {"rope_theta": 77.0, "rope_scaling": rope | {"type": kind}})
        for model_type in ("llama", "qwen2", "gemma2", "olmo2")
        for kind, rope in ROPES.items()
    },
    "gemma3_text": ("gemma3_text", {"rope_theta": 500.0, "rope_local_base_freq": 20.0, "sliding_window_pattern": 2}),
    "gemma3_text scaled": ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    "phi3": (
        "phi3",
        {
            "rope_scaling": LONG | {"type": "longrope", **PHI3},
            "partial_rotary_factor": 0.5,
            "original_max_position_embeddings": 19,
        },
    ),
    "phi3 in part": ("phi3", {"partial_rotary_factor": 0.5, "rope_theta": 99.0}),
    "qwen3_moe": ("qwen3_moe", {"num_experts": 7, "num_local_experts": None}),
}
"""How config.json files were written for transformers 4."""


@pytest.mark.parametrize("name", OLD)
def test_older_spellings_are_read_as_transformers_reads_them(name):
    model_type, keys = OLD[name]
    whole = next(variants(model_type))
    for key in ("rope_parameters", "layer_types"):
        whole.pop(key, None)
    rope = keys.get("rope_scaling")
    if rope:
        keys = {**keys, "rope_scaling": {key: value for key, value in rope.items() if key != "rope_theta"}}
        if "type" in rope:
            del keys["rope_scaling"]["rope_type"]
    old = {key: value for key, value in {**whole, **keys}.items() if value is not None}
    ours = read(old)
    assert not isinstance(ours, str), ours
    assert ours == read(AutoConfig.for_model(**old).to_dict())


def test_the_first_name_of_longrope():
    config = next(variants("phi3"))
    assert read(config | {"rope_parameters": config["rope_parameters"] | {"rope_type": "su"}}) == read(config)


REFUSED = [
    ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "how a text was fed"),
    ("llama", {"rope_scaling": {"rope_type": "mrope"}}, "'mrope' are not supported"),
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "strength": 3}}, "with strength"),
    ("llama", {"rope_scaling": {"rope_type": "linear"}}, "lacks the key 'factor'"),
    ("llama", {"rope_scaling": YARN, "original_max_position_embeddings": 23}, "in one place"),
    ("llama", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "a part of each head"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act"),
    ("llama", {"sliding_window": 7}, "sliding_window"),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ("llama", {"num_hidden_layers": 10**12}, "more than any model has"),
    ("gemma2", {"num_hidden_layers": 10**12, "layer_types": None}, "more than any model has"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "each layer"),
    ("qwen3", {"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "each layer"),
    ("qwen3", {"use_sliding_window": False}, "each layer"),
    ("mistral", {"layer_types": ["full_attention"] * 3}, "layer_types"),
    ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise"),
    ("mixtral", {"num_experts_per_tok": 99}, "per_token"),
    ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("gemma2", {"query_pre_attn_scalar": 0}, "damaged"),
    ("gemma3_text", {"rope_parameters": {"other": {}}}, "two kinds of layer"),
    ("phi3", {"rope_parameters": LINEAR}, "Phi-3 with rotary positions"),
    ("phi3", {"resid_pdrop": 0.3}, "one dropout"),
    ("gpt2", {"attn_pdrop": 0.3}, "one dropout"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("olmo2", {"clip_qkv": 8.0}, "clip_qkv"),
    ("smollm3", {"no_rope_layers": [1]}, "damaged"),
]


@pytest.mark.parametrize(("model_type", "change", "message"), REFUSED)
def test_what_a_family_does_not_do_is_refused(model_type, change, message):
    refusal = read(next(variants(model_type)) | change)
    assert isinstance(refusal, str)
    assert message in refusal


def test_every_family_is_tested_here_and_says_itself_what_it_can_express():
    assert {name for name, row in FAMILIES.items() if row.settings is DecoderSettings} == set(DECODERS)
    for name, config in THEIRS.items():
        settings = settings_of(config.to_dict(), config.model_type, name)
        assert FAMILIES[config.model_type].fits(settings)
        again = FAMILIES[config.model_type].write(settings) | {"model_type": config.model_type}
        assert settings_of(again, config.model_type, name) == settings
        assert match(settings, config.model_type) == config.model_type
