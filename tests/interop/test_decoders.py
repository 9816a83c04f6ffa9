"""Every decoder family: transformers' random weights here, and back, to the bit.

Every parameter, biases and norms included, is redrawn from N(0, 0.3) around its default. In batches of unequal length
transformers pads at the left and we at the right.
"""

import json

import pytest
import torch
from decoder_models import THEIRS, T, V, loud
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from idiolect.interop.folder import load, save

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
