"""Every decoder family: transformers' random weights here, and back, to the bit.

Every parameter, biases and norms included, is redrawn from N(0, 0.3) around its default. In batches of unequal length
transformers pads at the left and we at the right.
"""

import copy
import json

import pytest
import torch
from decoder_models import THEIRS, T, V, loud
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from idiolect.errors import UserError
from idiolect.interop.folder import load, save
from idiolect.models.build import build

NEW = 64


def drawn(*shape):
    return torch.randint(1, V, shape, generator=torch.Generator().manual_seed(7))


def near(ours, expected):
    """Within 1e-4, and within 1e-5 of the largest number."""
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=0, atol=min(1e-4, 1e-5 * float(expected.abs().max())))


def greedy(model, ids, lengths, count):
    """The most probable next ids, `count` times: int64 [B, count]."""
    logits, state = model.step(ids, model.init_state(len(ids), ids.shape[1] + count), lengths, last=True)
    out = [logits[:, -1].argmax(-1)]
    for _ in range(count - 1):
        logits, state = model.step(out[-1][:, None], state, last=True)
        out.append(logits[:, -1].argmax(-1))
    return torch.stack(out, 1)


def same_files(one, other):
    a, b = ({n: t for p in folder.glob("*.safetensors") for n, t in load_file(p).items()} for folder in (one, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_weights_of_transformers_compute_the_same_here_and_come_back_to_the_bit(name, tmp_path):
    config = THEIRS[name]
    config._experts_implementation = "eager"  # the others want widths that 4 divides
    theirs = loud(AutoModelForCausalLM.from_config(config))
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    ours, ids, lengths = loaded.model, drawn(3, T), torch.tensor([T, 20, 21])
    near(ours.head(ours.body(ids)), theirs(ids).logits)
    # unequal lengths: transformers pads at the left, we at the right
    real = torch.arange(T) < lengths[:, None]
    right = torch.where(real, ids, 0)
    left = torch.stack([row.roll(T - n) for row, n in zip(right, lengths.tolist(), strict=True)])
    mask = real.flip(1).long()
    shifted = theirs(left, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_min(0)).logits
    stepped, _ = ours.step(right, ours.init_state(3, T), lengths, last=True)
    near(stepped[:, -1], shifted[:, -1])
    written = theirs.generate(
        left, attention_mask=mask, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(greedy(ours, right, lengths, NEW), written[:, T:])
    # and back
    save(tmp_path / "again", ours, None, {})
    assert json.loads((tmp_path / "again/config.json").read_text())["model_type"] == config.model_type
    same_files(tmp_path / "theirs", tmp_path / "again")
    back, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "again", output_loading_info=True, experts_implementation="eager"
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    # to the last digit but for where its tensors lie in memory, which sums of odd lengths depend on
    torch.testing.assert_close(back.eval()(ids).logits, theirs(ids).logits, rtol=0, atol=2e-6)
    assert load(tmp_path / "again").settings == loaded.settings


@torch.no_grad()
def test_a_text_that_outgrows_phi_3s_first_context_is_read_anew_as_transformers_does(tmp_path):
    theirs = loud(AutoModelForCausalLM.from_config(THEIRS["phi3"]))
    theirs.save_pretrained(tmp_path)
    ours, ids = load(tmp_path).model, drawn(2, 11)
    assert ours.bound == 19
    written = theirs.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(greedy(ours, ids, None, NEW), written[:, 11:])
    steady = greedy(ours, ids, None, 8)  # up to the bound
    assert torch.equal(steady, written[:, 11:19])
    assert not torch.equal(*(ours.head(ours.body(written[:, :n]))[:, 18] for n in (19, 20)))


@pytest.mark.parametrize("name", ["phi3", "gemma2", "qwen2_moe"])
@torch.no_grad()
def test_shards_in_bf16_come_back_to_the_bit(name, tmp_path):
    theirs = loud(AutoModelForCausalLM.from_config(copy.deepcopy(THEIRS[name]))).bfloat16()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="9KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    ours = load(tmp_path / "theirs").model
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    save(tmp_path / "again", ours, None, {})
    same_files(tmp_path / "theirs", tmp_path / "again")
    # computed in fp32, as bf16 is rounded differently at every turn
    wide, ids = load(tmp_path / "theirs", dtype=torch.float32).model, drawn(2, T)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "theirs", dtype=torch.float32, experts_implementation="eager"
    )
    near(wide.head(wide.body(ids)), theirs.eval()(ids).logits)


@torch.no_grad()
def test_a_body_saved_alone_is_a_model_where_its_head_is_its_embedding(tmp_path):
    theirs = loud(AutoModelForCausalLM.from_config(THEIRS["llama-llama3"]))
    theirs.model.save_pretrained(tmp_path)
    assert all(not name.startswith("model.") for name in load_file(tmp_path / "model.safetensors"))
    ours, ids = load(tmp_path).model, drawn(2, T)
    near(ours.head(ours.body(ids)), theirs(ids).logits)


@pytest.mark.parametrize("change", [{"num_experts": 10**9}, {"num_experts": 900}, {"num_hidden_layers": 10**4}])
def test_experts_that_are_not_there_are_refused_before_any_is_made(change, tmp_path):
    AutoModelForCausalLM.from_config(THEIRS["qwen2_moe"]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    config.pop("layer_types")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="speaks of more weights than there are"):
        load(tmp_path)


def test_a_model_made_here_is_saved_as_the_first_type_that_expresses_it(tmp_path):
    """And one that was loaded as what it was, until it is something that type cannot express."""
    settings = load_as("phi3-plain", tmp_path).settings
    save(tmp_path / "made", build(settings, V), None, {})
    assert json.loads((tmp_path / "made/config.json").read_text())["model_type"] == "llama"
    loaded = load_as("mistral-full", tmp_path).model
    save(tmp_path / "again", loaded, None, {})
    assert json.loads((tmp_path / "again/config.json").read_text())["model_type"] == "mistral"
    loaded.settings = loaded.settings.model_copy(update={"mlp_bias": True})
    for block in loaded.blocks:
        for name in ("gate", "up", "down"):
            layer = getattr(block.mlp, name)
            layer.bias = torch.nn.Parameter(torch.zeros(layer.out_features))
    save(tmp_path / "other", loaded, None, {})
    assert json.loads((tmp_path / "other/config.json").read_text())["model_type"] == "llama"


def load_as(name, folder):
    """What we make of a model of transformers."""
    AutoModelForCausalLM.from_config(THEIRS[name]).save_pretrained(folder / name)
    return load(folder / name)
