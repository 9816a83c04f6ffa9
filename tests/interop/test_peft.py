"""Adapter folders: what is adapted here opens in `peft` with equal logits, and what `peft` writes opens here."""

import copy
import json
import shutil

import peft
import pytest
import torch
from decoder_models import CONTEXT, THEIRS, T, V
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DistilBertConfig,
    RobertaConfig,
    T5Config,
)

from idiolect.adapt import lora
from idiolect.adapt.edits import Origin, edit, whole
from idiolect.adapt.heads import Labelled, attach
from idiolect.adapt.settings import AdapterSettings, LabelledSettings, LoraSettings, SoftPromptSettings
from idiolect.adapt.vocabulary import grow
from idiolect.errors import UserError
from idiolect.interop import folder, peft_lora
from idiolect.interop import peft as ours
from idiolect.interop.labels import hidden_of
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings

BERT = {
    "vocab_size": V,
    "hidden_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 37,
    "max_position_embeddings": 41,
}
T5 = T5Config(
    vocab_size=V,
    d_model=22,
    d_kv=6,
    d_ff=37,
    num_layers=2,
    num_heads=3,
    feed_forward_proj="gated-gelu",
    decoder_start_token_id=0,
)
DECODERS = ("gpt2", "llama", "phi3", "qwen2", "gemma2")
BASES = {name: (AutoModelForCausalLM, THEIRS[name]) for name in DECODERS} | {
    "bert": (AutoModelForMaskedLM, BertConfig(**BERT)),
    "t5": (AutoModelForSeq2SeqLM, T5),
}
WAYS = {
    "lora": LoraSettings(rank=3, alpha=5.0),
    "rslora": LoraSettings(rank=5, alpha=3.0, rslora=True, targets=("attention.query", "attention.value")),
    "dora": LoraSettings(rank=2, alpha=7.0, dora=True),
    "dora of values": LoraSettings(rank=2, alpha=7.0, dora=True, targets=("attention.value", "mlp.down")),
    "embedding": LoraSettings(rank=3, alpha=5.0, targets=("embedding", "head", "attention.query")),
}
ADAPTER = AdapterSettings(width=3)
PROMPT = SoftPromptSettings(tokens=5)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A folder of each base, in transformers' own hand."""
    found = {}
    for seed, (name, (kind, config)) in enumerate(BASES.items()):
        torch.manual_seed(seed)
        found[name] = tmp_path_factory.mktemp("base") / name
        loud(kind.from_config(copy.deepcopy(config))).save_pretrained(found[name])
    return found


def loud(model):
    """Every parameter redrawn, so that no bias or norm is idle."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(sorted(model.named_parameters())):
            around = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.normal_(around, 0.15, generator=torch.Generator().manual_seed(i))
    return model.eval()


def adapted(base, settings):
    """The base with something added that is not 0."""
    model = folder.load(base).model
    edit(model, settings, seed=3, origin=Origin(base, folder.fingerprint(base)))
    stir(model)
    return model.eval()


def stir(model):
    with torch.no_grad():
        for i, (name, parameter) in enumerate(model.named_parameters()):
            if parameter.requires_grad:
                move = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.2
                parameter.copy_(parameter * (1 + move) if name.endswith("magnitude") else move)


@pytest.fixture
def ids():
    return torch.randint(4, V, (2, T), generator=torch.Generator().manual_seed(11))


@torch.no_grad()
def ours_on(model, ids):
    if hasattr(model, "encode"):
        return model.head(model.body(ids[:, :7], ids))
    hidden = model.body(ids)
    if isinstance(model, Labelled):
        return model.logits(hidden)
    return model.head(model.transform(hidden) if hasattr(model, "transform") else hidden)


@torch.no_grad()
def theirs_on(model, ids):
    given = {"decoder_input_ids": ids[:, :7]} if getattr(model.config, "is_encoder_decoder", False) else {}
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **given).logits
    return logits[:, -ids.shape[1] :] if logits.dim() == 3 else logits


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


OURS = [(name, way) for name in BASES for way in WAYS if name == "gpt2" or way == "dora"]
OURS += [(name, "embedding") for name in DECODERS if name != "gpt2"]


@pytest.mark.parametrize(("name", "way"), OURS)
def test_peft_makes_the_same_of_what_we_wrote_and_we_read_it_back(name, way, bases, tmp_path, ids):
    model = adapted(bases[name], WAYS[way])
    folder.save(tmp_path / "adapter", model, None, {"results": 1})
    kind, _ = BASES[name]
    theirs = peft.PeftModel.from_pretrained(kind.from_pretrained(bases[name]), tmp_path / "adapter").eval()
    close(ours_on(model, ids), theirs_on(theirs, ids))
    assert (ours_on(model, ids) - ours_on(folder.load(bases[name]).model, ids)).abs().max() > 1e-2
    back = folder.load(tmp_path / "adapter")
    assert back.model.edit.settings == WAYS[way] and back.lineage == {"results": 1}
    assert torch.equal(ours_on(back.model, ids), ours_on(model, ids))
    mine, other = model.state_dict(), back.model.state_dict()
    assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


THEIR_WAYS = {
    "all": {"r": 3, "lora_alpha": 5},
    "patterns": {"r": 3, "lora_alpha": 5, "rank": 2, "alpha": 11},
    "rslora": {"r": 5, "lora_alpha": 3, "use_rslora": True},
    "dora": {"r": 2, "lora_alpha": 7, "use_dora": True},
}
THEIR_TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "v_proj", "down_proj"],
    "phi3": ["qkv_proj", "gate_up_proj", "o_proj"],
    "bert": ["query", "value", "attention.output.dense"],
    "t5": ["q", "v", "wi_1", "wo"],
}


FROM_THEM = [(name, way) for name in THEIR_TARGETS for way in THEIR_WAYS if name == "gpt2" or way == "patterns"]


@pytest.mark.parametrize(("name", "way"), FROM_THEM)
def test_we_make_the_same_of_what_peft_wrote(name, way, bases, tmp_path, ids):
    said, targets = dict(THEIR_WAYS[way]), THEIR_TARGETS[name]
    patterns = {}
    if "rank" in said:
        patterns = {"rank_pattern": {targets[0]: said.pop("rank")}, "alpha_pattern": {targets[1]: said.pop("alpha")}}
    kind, _ = BASES[name]
    config = peft.LoraConfig(
        **said, **patterns, target_modules=targets, lora_dropout=0.1, fan_in_fan_out=name == "gpt2"
    )
    theirs = peft.get_peft_model(kind.from_pretrained(bases[name]), config).eval()
    with torch.no_grad():
        for i, (key, parameter) in enumerate(theirs.named_parameters()):
            if "lora_B" in key or "magnitude" in key:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.2)
    theirs.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    loaded = folder.load(tmp_path / "adapter")
    close(ours_on(loaded.model, ids), theirs_on(theirs, ids))
    whole(loaded.model)
    close(ours_on(loaded.model, ids), theirs_on(theirs, ids))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "t5"])
def test_soft_prompts_go_to_peft_and_come_from_it(name, bases, tmp_path, ids):
    kind, _ = BASES[name]
    model = adapted(bases[name], PROMPT)
    folder.save(tmp_path / "ours", model, None, {})
    theirs = peft.PeftModel.from_pretrained(kind.from_pretrained(bases[name]), tmp_path / "ours").eval()
    close(ours_on(model, ids), theirs_on(theirs, ids))
    config = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM" if name == "t5" else "CAUSAL_LM", num_virtual_tokens=7)
    theirs = peft.get_peft_model(kind.from_pretrained(bases[name]), config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = folder.load(tmp_path / "theirs").model
    assert loaded.prompt.shape == (7, loaded.settings.width)
    assert name == "t5" or loaded.context == CONTEXT - 7
    close(ours_on(loaded, ids), theirs_on(theirs, ids))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_rows_for_new_tokens_train_and_are_saved_beside(name, bases, tmp_path, ids):
    """With the head tied to the embedding, and with one of its own."""
    kind, _ = BASES[name]
    model, _ = grow(folder.load(bases[name]).model, V + 3)
    origin = Origin(bases[name], folder.fingerprint(bases[name]))
    report = edit(model, LoraSettings(rank=3), origin=origin)
    assert "embedding.weight" in report.touched and ("head.weight" in report.touched) == (name == "llama")
    stir(model)
    model.eval()
    folder.save(tmp_path / "adapter", model, None, {})
    kept = kind.from_pretrained(bases[name])
    kept.resize_token_embeddings(V + 3)
    theirs = peft.PeftModel.from_pretrained(kept, tmp_path / "adapter").eval()
    close(ours_on(model, ids + 2), theirs_on(theirs, ids + 2))
    back = folder.load(tmp_path / "adapter").model
    assert back.vocabulary == V + 3 and torch.equal(ours_on(back, ids + 2), ours_on(model, ids + 2))
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    path = tmp_path / "theirs" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(bases[name])}))
    close(ours_on(folder.load(tmp_path / "theirs").model, ids + 2), ours_on(model, ids + 2))
    whole(back)
    close(ours_on(back, ids + 2), ours_on(model, ids + 2))
    prompted, _ = grow(folder.load(bases[name]).model, V + 3)
    edit(prompted, PROMPT, origin=origin)
    folder.save(tmp_path / "prompt", prompted.eval(), None, {})
    assert not (tmp_path / "prompt" / "adapter_config.json").exists()
    assert torch.equal(ours_on(folder.load(tmp_path / "prompt").model, ids), ours_on(prompted, ids))


CLASSIFIERS = {
    "bert": BertConfig(**BERT),
    "roberta": RobertaConfig(**BERT),
    "distilbert": DistilBertConfig(
        vocab_size=V, dim=30, n_layers=2, n_heads=5, hidden_dim=37, max_position_embeddings=41
    ),
}


@pytest.mark.parametrize("each", ["text", "word"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_head_for_labels_lies_beside_as_a_module_to_save(name, each, tmp_path, ids):
    torch.manual_seed(5)
    loud(AutoModel.from_config(CLASSIFIERS[name])).save_pretrained(tmp_path / "base")
    base = folder.load(tmp_path / "base").model
    hidden = hidden_of(base.settings) if each == "text" else "none"
    settings = LabelledSettings(base=base.settings, labels=("a", "b", "c"), each=each, hidden=hidden)
    model, _ = attach(base, settings, seed=1)
    origin = Origin(tmp_path / "base", folder.fingerprint(tmp_path / "base"))
    report = edit(model, LoraSettings(rank=3), origin=origin)
    assert {"head.weight", "head.bias"} <= set(report.touched)
    stir(model)
    model.eval()
    folder.save(tmp_path / "adapter", model, None, {})
    classes = {"text": AutoModelForSequenceClassification, "word": AutoModelForTokenClassification}
    kept = classes[each].from_pretrained(tmp_path / "base", num_labels=3)
    theirs = peft.PeftModel.from_pretrained(kept, tmp_path / "adapter").eval()
    close(ours_on(model, ids), theirs_on(theirs, ids))
    back = folder.load(tmp_path / "adapter")
    assert back.settings == model.settings and back.model.settings.labels == ("a", "b", "c")
    assert torch.equal(ours_on(back.model, ids), ours_on(model, ids))
    assert not (tmp_path / "adapter" / "config.json").exists()


@pytest.mark.parametrize("settings", [ADAPTER, LoraSettings(rank=3), PROMPT], ids=lambda s: s.kind)
def test_what_peft_has_no_form_for_has_one_of_our_own(settings, tmp_path, ids):
    """Bottleneck adapters always; everything on a model that is no Hugging Face family."""
    shape = DecoderSettings(layers=2, heads=2, width=14, context=41, norm="layer", position="none")
    folder.save(tmp_path / "base", build(shape, V, seed=2), None, {})
    model = adapted(tmp_path / "base", settings)
    folder.save(tmp_path / "adapter", model, None, {})
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert names == {"idiolect_adapter.json", "idiolect_adapter.safetensors", "lineage.json", "manifest.json"}
    back = folder.load(tmp_path / "adapter").model
    assert torch.equal(ours_on(back, ids), ours_on(model, ids))
    assert load_file(tmp_path / "adapter" / "idiolect_adapter.safetensors").keys() == set(model.edit.report.touched)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_an_embedding_that_is_several_modules_there_has_a_form_of_our_own(name, bases, tmp_path, ids):
    model = adapted(bases[name], WAYS["embedding"])
    folder.save(tmp_path / "adapter", model, None, {})
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()
    back = folder.load(tmp_path / "adapter").model
    assert torch.equal(ours_on(back, ids), ours_on(model, ids))


@pytest.mark.parametrize("name", ["gemma2", "llama"])
def test_updates_of_embedding_and_head_come_from_peft(name, bases, tmp_path, ids):
    """Of one matrix, when they are the same; of two, each its own."""
    tied = name == "gemma2"
    kept = AutoModelForCausalLM.from_pretrained(bases[name])
    targets = ["embed_tokens", "q_proj", *([] if tied else ["lm_head"])]
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, ensure_weight_tying=tied)
    theirs = peft.get_peft_model(kept, config).eval()
    with torch.no_grad():
        for i, (key, parameter) in enumerate(theirs.named_parameters()):
            if "lora_" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.2)
    theirs.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    model = folder.load(tmp_path / "adapter").model
    close(ours_on(model, ids), theirs_on(theirs, ids))
    if tied:
        path = tmp_path / "adapter" / "adapter_model.safetensors"
        tensors = load_file(path)
        tensors["base_model.model.lm_head.lora_B.weight"][0, 0] += 1
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(UserError, match="updates model.embed_tokens and lm_head apart"):
            folder.load(tmp_path / "adapter")


def test_a_base_that_is_gone_or_another_is_refused(bases, tmp_path, ids):
    base = tmp_path / "base"
    shutil.copytree(bases["llama"], base)
    model = adapted(base, LoraSettings())
    folder.save(tmp_path / "adapter", model, None, {})
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="its base .*base is not there") as error:
        folder.load(tmp_path / "adapter")
    assert "--adapter" in error.value.mend
    moved = folder.with_adapter(folder.load(tmp_path / "elsewhere"), tmp_path / "elsewhere", tmp_path / "adapter")
    assert torch.equal(ours_on(moved.model, ids), ours_on(model, ids))
    shutil.copytree(bases["llama"], base)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="is not the model that .* was made from"):
        folder.load(tmp_path / "adapter")
    with pytest.raises(UserError, match="is no model that an adapter can be put on"):
        folder.with_adapter(moved, tmp_path / "adapter", tmp_path / "adapter")
    with pytest.raises(UserError, match="is no adapter folder"):
        folder.with_adapter(folder.load(base), base, base)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "nowhere"])
def test_a_base_that_no_system_can_name_is_not_there(name, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": name}))
    with pytest.raises(UserError, match="its base .* is not there"):
        folder.load(tmp_path)


WRONG = {
    "peft_type": ("IA3", "peft_type 'IA3' is not known"),
    "bias": ("all", "bias = 'all' is not supported"),
    "init_lora_weights": ("pissa", "init_lora_weights = 'pissa' is not supported"),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({r".*\.q_proj": 3}, "which is a regular expression"),
    "lora_alpha": ("many", "alpha"),
    "use_dora": (True, "does not fit its layer"),
    "base_model_name_or_path": (None, "names no base model"),
    "target_parameters": (["mlp.experts"], "target_parameters = .* is not supported"),
}


@pytest.mark.parametrize("key", WRONG)
def test_what_a_configuration_asks_for_is_done_or_refused(key, bases, tmp_path):
    theirs = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(bases["llama"]), peft.LoraConfig(target_modules=["q_proj"])
    )
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    value, problem = WRONG[key]
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    if problem is None:
        assert lora.names(folder.load(tmp_path).model) == ["default"]
        return
    with pytest.raises(UserError, match=problem):
        folder.load(tmp_path)


def test_tensors_that_are_damaged_or_unknown_are_refused(bases, tmp_path):
    theirs = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(bases["llama"]), peft.LoraConfig(target_modules=["q_proj"])
    )
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    for other in (
        {**tensors, "base_model.model.model.layers.0.strange.lora_A.weight": torch.zeros(2, 2)},
        {**tensors, name: tensors[name][:, 1:].contiguous()},
        {**tensors, name: tensors[name][1:].contiguous()},
    ):
        save_file(other, path)
        with pytest.raises(UserError):
            folder.load(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="is damaged"):
        folder.load(tmp_path)
    path.unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="is a pickle"):
        folder.load(tmp_path)


def test_modules_are_found_through_the_familys_own_table(bases):
    found = peft_lora.places(folder.load(bases["gpt2"]).model, "gpt2")
    parts = [(part.name, part.rows) for part in found["transformer.h.1.attn.c_attn"]]
    assert parts == [(f"blocks.1.attention.{name}", 33) for name in ("query", "key", "value")]
    found = peft_lora.places(folder.load(bases["phi3"]).model, "phi3")
    assert [part.name for part in found["model.layers.0.mlp.gate_up_proj"]] == ["blocks.0.mlp.gate", "blocks.0.mlp.up"]


def test_what_is_damaged_is_refused_before_anything_of_its_size_is_made(bases, tmp_path):
    model = adapted(bases["llama"], ADAPTER)
    folder.save(tmp_path / "adapter", model, None, {})
    for name in ("manifest.json", "lineage.json"):
        (tmp_path / "adapter" / name).unlink()
    path = tmp_path / "adapter" / ours.OWN
    whole_ = json.loads(path.read_text())
    assert folder.load(tmp_path / "adapter").settings == model.settings
    huge = 1 << 40
    head = LabelledSettings(base=model.settings.model_copy(update={"width": huge}), labels=("a", "b"))
    for key, value in {
        "settings": whole_["settings"] | {"width": huge},
        "vocabulary": huge,
        "head": head.model_dump(mode="json"),
        "format": 2,
        "base": {"path": 3},
    }.items():
        path.write_text(json.dumps(whole_ | {key: value}))
        with pytest.raises(UserError):
            folder.load(tmp_path / "adapter")
    for wrong in (
        [],
        {"kind": []},
        {"kind": "selective"},
        {"kind": "lora", "rank": huge},
        {"kind": "soft-prompt", "tokens": huge},
    ):
        path.write_text(json.dumps(whole_ | {"settings": wrong}))
        with pytest.raises(UserError):
            folder.load(tmp_path / "adapter")
