"""DC9: padding has the id that was asked for, is never predicted, and changes nothing.

The collator that the sources show takes a pad_idx and forgets to use it.
"""

import pytest
import torch

from idiolect.data.batch import IGNORE, Batch
from idiolect.data.padding import pad, shifted
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, RecurrentSettings
from idiolect.train.objectives import next_token

V, PAD = 23, 5
ROWS = [[7, 2, 9, 11, 3, 8, 1], [4, 6], [12, 13, 14, 15, 16]]
MODELS = {
    "llama": DecoderSettings(layers=2, heads=2, width=14, head_width=6, context=11),
    "gpt2": DecoderSettings(
        layers=2, heads=3, width=15, context=11, norm="layer", position="learned", mlp="gelu", attention_bias="all"
    ),
    "window": DecoderSettings(layers=2, heads=3, width=12, context=11, window=3),
    "rnn": RecurrentSettings(kind="rnn", layers=2, width=13),
    "lstm": RecurrentSettings(kind="lstm", layers=2, width=13),
    "gru": RecurrentSettings(kind="gru", layers=2, width=13),
}


def test_DC9_the_collator_pads_with_the_id_it_is_given():
    for pad_id in (0, PAD, 19):
        ids, lengths = pad(ROWS, pad_id)
        assert [row[:n] for row, n in zip(ids.tolist(), lengths.tolist())] == ROWS
        assert (ids[torch.arange(7) >= lengths[:, None]] == pad_id).all()
    batch = shifted(ROWS, PAD)
    assert batch.ids.tolist() == [[7, 2, 9, 11, 3, 8], [4, PAD, PAD, PAD, PAD, PAD], [12, 13, 14, 15, PAD, PAD]]
    assert batch.count == 6 + 1 + 4 and batch.labels[1].tolist() == [6] + [IGNORE] * 5


@pytest.fixture(params=MODELS)
def model(request):
    return build(MODELS[request.param], V, seed=3).eval()


@torch.no_grad()
def test_DC9_logits_of_a_batch_are_those_of_single_rows(model):
    ids, lengths = pad(ROWS, PAD)
    whole = model.head(model.body(ids))
    stepped, _ = model.step(ids, model.init_state(3, 7), lengths)
    for row, length, logits, cached in zip(ROWS, lengths.tolist(), whole, stepped):
        alone = model.head(model.body(torch.tensor([row])))[0]
        assert (logits[:length] - alone).abs().max() <= 1e-5
        assert (cached[:length] - alone).abs().max() <= 1e-5


@torch.no_grad()
def test_DC9_attention_never_reads_padding(model):
    """Whatever stands at the padded places, and however many there are, real positions do not notice."""
    ids, lengths = pad(ROWS, PAD)
    real = torch.arange(7) < lengths[:, None]
    first = model.body(ids)[real]
    assert torch.equal(model.body(ids.where(real, torch.tensor(17)))[real], first)
    wider = torch.cat([ids, torch.full((3, 4), PAD)], dim=1)
    assert (model.body(wider)[:, :7][real] - first).abs().max() <= 1e-5


def test_DC9_loss_and_gradient_leave_padding_out(model):
    loss = next_token(model, shifted(ROWS, PAD))
    loss.total.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    singles = [next_token(model, shifted([row], PAD)) for row in ROWS]
    total = sum(single.total for single in singles)
    total.backward()
    assert loss.count == sum(single.count for single in singles) == 11
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-5)
    for name, p in model.named_parameters():
        assert (gradients[name] - p.grad).abs().max() <= 1e-5, name


def test_DC9_packed_rows_are_single_rows_too(model):
    """Padding behind several documents in one row, as training packs them."""
    ids = torch.tensor([[7, 2, 9, 4, 12, 13, PAD, PAD]])
    labels = torch.tensor([[2, 9, 11, 6, 13, 14, IGNORE, IGNORE]])
    segments = torch.tensor([[0, 0, 0, 1, 2, 2, -1, -1]])
    with torch.no_grad():
        packed = next_token(model, Batch(ids, labels, segments))
        singles = [next_token(model, shifted([row], PAD)) for row in ([7, 2, 9, 11], [4, 6], [12, 13, 14])]
    assert packed.count == 6
    assert packed.total.item() == pytest.approx(sum(single.total.item() for single in singles), rel=1e-5)
