"""BERT, RoBERTa, DistilBERT and XLM-RoBERTa: transformers' random weights here, and back, to the bit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertForPreTraining,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
)

from idiolect.errors import UserError
from idiolect.interop.families import match
from idiolect.interop.folder import load, save
from idiolect.models.build import build
from idiolect.models.encoder import attention_maps
from idiolect.models.settings import EncoderSettings

V, T = 43, 13

BERT = {
    "vocab_size": V,
    "hidden_size": 30,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "intermediate_size": 37,
    "max_position_embeddings": 19,
    "layer_norm_eps": 3e-7,
}
THEIRS = {
    "bert": BertConfig(**BERT, type_vocab_size=3),
    "bert-tanh": BertConfig(**{**BERT, "intermediate_size": 120}, hidden_act="gelu_new"),
    "bert-relu": BertConfig(**BERT, hidden_act="relu"),
    "roberta": RobertaConfig(**BERT, type_vocab_size=1),
    "roberta-pad": RobertaConfig(**BERT, pad_token_id=3),
    "xlm-roberta": XLMRobertaConfig(**BERT),
    "distilbert": DistilBertConfig(
        vocab_size=V, dim=30, n_layers=3, n_heads=5, hidden_dim=37, max_position_embeddings=19
    ),
    "distilbert-relu": DistilBertConfig(
        vocab_size=V, dim=28, n_layers=1, n_heads=7, hidden_dim=112, max_position_embeddings=19, activation="relu"
    ),
}


def loud(model):
    """Every parameter, biases and norms included, redrawn from N(0, 0.3) around its default."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(sorted(model.named_parameters())):
            around = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.normal_(around, 0.3, generator=torch.Generator().manual_seed(i))
    model.tie_weights()
    return model.eval()


@pytest.fixture
def ids():
    return torch.randint(5, V, (3, T), generator=torch.Generator().manual_seed(2))


def same(ours, expected):
    """Within 1e-4, and 1e-5 of the largest number."""
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=0, atol=min(1e-4, 1e-5 * float(expected.abs().max())))


def same_files(one, other):
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_we_open_what_transformers_saves_and_save_it_to_the_bit(name, ids, tmp_path):
    config = THEIRS[name]
    theirs = loud(AutoModelForMaskedLM.from_config(config))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs").model
    lengths = torch.tensor([13, 7, 11])
    real = torch.arange(T) < lengths[:, None]
    padded = torch.where(real, ids, config.pad_token_id)

    def logits(hidden):
        return ours.head(ours.transform(hidden))

    same(logits(ours.body(ids)), theirs(ids).logits)
    right = theirs(padded, attention_mask=real.long()).logits
    same(logits(ours.body(padded, lengths))[real], right[real])
    if config.model_type != "distilbert":  # which takes no positions
        left = torch.stack([row.roll(T - n) for row, n in zip(padded, lengths.tolist(), strict=True)])
        mask = real.flip(1).long()
        positions = {"position_ids": (mask.cumsum(1) - 1).clamp_min(0)} if config.model_type == "bert" else {}
        shifted = theirs(left, attention_mask=mask, **positions).logits  # RoBERTa finds the positions itself
        for row, n in enumerate(lengths.tolist()):
            same(logits(ours.body(padded, lengths))[row, :n], shifted[row, T - n :])
    if getattr(config, "type_vocab_size", 0) > 1:
        types = torch.randint(0, config.type_vocab_size, (3, T), generator=torch.Generator().manual_seed(3))
        same(logits(ours.body(ids, types=types)), theirs(ids, token_type_ids=types).logits)
    save(tmp_path / "again", ours, None, {})
    same_files(tmp_path / "theirs", tmp_path / "again")
    back, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert torch.equal(back.eval()(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize(
    "theirs",
    [
        lambda: BertModel(THEIRS["bert"]),
        lambda: BertModel(THEIRS["bert"], add_pooling_layer=False),
        lambda: RobertaModel(THEIRS["roberta"]),
        lambda: DistilBertModel(THEIRS["distilbert"]),
    ],
    ids=["bert", "bert without pooler", "roberta", "distilbert"],
)
@torch.no_grad()
def test_a_body_without_a_head_stays_one(theirs, ids, tmp_path):
    theirs = loud(theirs())
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    assert loaded.settings.head == "none"
    same(loaded.model.body(ids), theirs(ids).last_hidden_state)
    save(tmp_path / "again", loaded.model, None, {})
    same_files(tmp_path / "theirs", tmp_path / "again")
    config = json.loads((tmp_path / "again/config.json").read_text())
    assert config["architectures"] == [type(theirs).__name__]
    assert torch.equal(AutoModel.from_pretrained(tmp_path / "again").eval()(ids)[0], theirs(ids)[0])


@torch.no_grad()
def test_attention_is_theirs_head_by_head(ids, tmp_path):
    theirs = loud(BertModel._from_config(THEIRS["bert"], attn_implementation="eager"))
    theirs.save_pretrained(tmp_path)
    maps = attention_maps(load(tmp_path).model, ids[0])
    expected = torch.cat(theirs(ids[:1], output_attentions=True).attentions)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-5)
    assert maps.shape == (3, 5, T, T) and (maps[:, :, 0, -1] > 0).all()


@torch.no_grad()
def test_old_files_of_bert(ids, tmp_path):
    """As Google's were converted: gamma and beta, the pooler, the head for the next sentence, a tied decoder twice."""
    theirs = loud(BertForPreTraining(THEIRS["bert"]))
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()
    tensors["bert.embeddings.position_ids"] = torch.arange(19)[None]
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in old.items():
        tensors = {key.replace(new, name): tensor for key, tensor in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    loaded = load(tmp_path)
    model = loaded.model
    assert loaded.settings.pooler and loaded.settings.head == "transform"
    same(model.head(model.transform(model.body(ids))), theirs(ids).prediction_logits)
    assert torch.equal(model.pooler.weight, theirs.bert.pooler.dense.weight)


OURS = {
    "bert": {},
    "roberta": {"position_offset": 2},
    "distilbert": {"token_types": 0, "norm_epsilon": 1e-12},
    "idiolect-encoder": {"norm_place": "before"},
}


@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_transformers_opens_what_we_make(name, ids, tmp_path):
    style = {
        "norm": "layer",
        "norm_place": "residual",
        "position": "learned",
        "mlp": "gelu-exact",
        "attention_bias": "all",
        "mlp_bias": True,
        "token_types": 2,
        "embedding_norm": True,
        "head": "transform",
    }
    settings = EncoderSettings(layers=2, heads=3, width=21, context=17, **{**style, **OURS[name]})
    model = build(settings, V, seed=1).eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    save(tmp_path / "model", model, None, {})
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == name
    back = load(tmp_path / "model")
    assert back.settings == settings and torch.equal(back.model.body(ids), model.body(ids))
    if match(settings):
        theirs, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "model", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        same(model.head(model.transform(model.body(ids))), theirs.eval()(ids).logits)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_act": "silu"}, "hidden_act"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"is_decoder": True}, "is_decoder"),
        ({"num_hidden_layers": 4}, r"lacks bert.encoder.layer.3"),
        ({"hidden_size": 31}, r"heads \(5\) must divide width"),
        ({"max_position_embeddings": 0}, "context"),
    ],
)
def test_what_we_do_not_do_is_refused(changes, what, tmp_path):
    AutoModelForMaskedLM.from_config(THEIRS["bert"]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=what):
        load(tmp_path)
