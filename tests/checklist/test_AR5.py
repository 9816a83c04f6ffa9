"""AR5: the encoder-decoder transformer of 2017, which drops recurrence and still writes from left to right.

BLEU on real pairs beside the recurrent models: `benchmarks/translation.py`.
"""

import pytest
import torch
from torch import nn

from idiolect import api
from idiolect.models.build import build
from idiolect.models.settings import EncoderDecoderSettings

VASWANI = {
    "norm": "layer",
    "norm_place": "residual",
    "position": "sinusoidal",
    "mlp": "relu",
    "attention_bias": "all",
    "mlp_bias": True,
    "scaled_embedding": True,
    "scaled_scores": True,
    "scaled_head": False,
}
V = 29


@pytest.fixture
def model():
    return build(EncoderDecoderSettings(layers=2, heads=3, width=15, context=19, **VASWANI), V, seed=2).eval()


def test_AR5_nothing_in_it_recurs(model):
    assert not any(isinstance(module, (nn.RNNBase, nn.RNNCellBase)) for module in model.modules())
    kinds = {type(module).__name__ for module in model.modules() if list(module.parameters(recurse=False))}
    assert kinds == {"Embedding", "Linear", "LayerNorm"}


@torch.no_grad()
def test_AR5_every_target_position_reads_the_whole_source_and_only_what_was_written(model):
    source, ids = torch.arange(11)[None], torch.arange(13)[None] + 7
    whole = model.head(model.body(ids, source))
    for t in range(13):
        other = ids.clone()
        other[0, t] = 3
        moved = (model.head(model.body(other, source)) - whole).abs().amax(-1)[0] > 1e-6
        assert not moved[:t].any() and moved[t]
    for s in range(11):
        other = source.clone()
        other[0, s] = 28
        assert ((model.head(model.body(ids, other)) - whole).abs().amax(-1)[0] > 1e-6).all()


@torch.no_grad()
def test_AR5_what_it_writes_token_by_token_is_what_one_pass_over_all_gives(model):
    source, start = torch.arange(11)[None], torch.tensor([[0]])
    state, last, written = model.init_state(1, 12, source), start, []
    for _ in range(12):
        logits, state = model.step(last, state)
        last = logits[:, -1:].argmax(-1)
        written.append(last)
    target = torch.cat(written, dim=1)
    read = torch.cat((start, target[:, :-1]), dim=1)
    assert torch.equal(model.head(model.body(read, source)).argmax(-1), target)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_AR5_it_trains_on_what_the_recurrent_models_do_and_stands_in_one_table_with_them(reversal, tmp_path):
    """A few steps of each: the table is what is shown here, not which of them is best."""
    short = ("model.width=32", "train.batch_tokens=1500", "train.learning_rate=3e-3", "train.steps=60")
    cross = ("model.position=sinusoidal", "model.scaled_scores=true", "model.layers=2", "train.precision=auto")
    runs = {}
    for name, recipe, more in (
        ("vector", "seq2seq", ("model.attention=none",)),
        ("attention", "seq2seq", ()),
        ("transformer", "translate", cross),
    ):
        run, _ = reversal(recipe, *short, *more)
        runs[name] = run.rename(tmp_path / name)
    table = api.compare_runs(list(runs.values()))
    rows = {row["model"]: row for row in table["rows"]}
    assert {"vector", "attention", "transformer"} <= rows.keys()
    measured = [rows[name]["perplexity"] for name in runs]
    assert all(
        value is not None and value < 11 for value in measured
    )  # less than a guess among ten symbols and the end
