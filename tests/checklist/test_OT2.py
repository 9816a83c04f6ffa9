"""OT2: teacher forcing on a text that labels itself: the label of each word is the word after it."""

import pytest
import torch

from idiolect.data.batch import IGNORE
from idiolect.data.batches import held_out, next_token
from idiolect.data.shards import encode
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, RecurrentSettings
from idiolect.testing import ByteTokenizer
from idiolect.text.corpus import Corpus
from idiolect.train import objectives

IDS = {"begin_id": 0, "end_id": 0, "pad_id": 1}
LINES = ["so long and thanks", "for all", "the fish"]


@pytest.fixture
def shards(tmp_path):
    """A plain text file, and nothing else."""
    (tmp_path / "text.txt").write_text("\n".join(LINES))
    return encode(Corpus([tmp_path / "text.txt"], "line"), ByteTokenizer(), cache=tmp_path / "cache")


def test_OT2_a_text_becomes_shifted_pairs(shards):
    """Each label is the id after the inputs up to it; together they are the text, once, and nothing but the text."""
    batches = next_token(shards, context=17, batch_tokens=17, **IDS)
    pairs = []
    for step in range(batches.n):
        (batch,) = batches(step)
        inside = batch.labels != IGNORE
        first = batch.segments.diff(dim=1, prepend=torch.full((1, 1), -1)) != 0
        follows = inside[:, :-1] & ~first[:, 1:]
        assert torch.equal(batch.labels[:, :-1][follows], batch.ids[:, 1:][follows])
        pairs += batch.labels[inside].tolist()
    text = [i for line in LINES for i in [*ByteTokenizer().encode(line), 0]]
    assert sorted(pairs) == sorted(text)


def test_OT2_the_held_out_text_labels_itself_too(shards):
    labels = [batch.labels[batch.labels != IGNORE] for batch in held_out(shards, context=7, rows=2, **IDS)]
    assert ByteTokenizer().decode(torch.cat(labels).tolist()) == "".join(LINES)


@pytest.mark.parametrize(
    "settings",
    [
        DecoderSettings(layers=2, heads=2, width=14, head_width=6, context=11),
        RecurrentSettings(kind="lstm", layers=1, width=13),
    ],
    ids=["decoder", "lstm"],
)
def test_OT2_the_loss_never_depends_on_own_predictions(settings, shards):
    """The loss at t is that of the true text before t, whatever the model would have said there."""
    model = build(settings, 258, seed=1).eval()
    batch = next(iter(held_out(shards, context=11, rows=1, **IDS)))
    (ids,), (labels,) = batch.ids, batch.labels
    with torch.no_grad():
        logits = model.head(model.body(batch.ids))[0]
        guesses = logits.argmax(-1)
        assert (guesses != labels).any()  # so that feeding them back would change what follows
        expected = 0.0
        for t in range(len(ids)):
            alone = model.head(model.body(ids[None, : t + 1]))[0, -1]
            expected -= alone.log_softmax(-1)[labels[t]].item()
        assert objectives.next_token(model, batch).total.item() == pytest.approx(expected, rel=1e-5)


def test_OT2_a_label_later_in_the_text_does_not_reach_back(shards):
    """No position sees its own label: changing the text from t on changes no logits before t."""
    model = build(DecoderSettings(layers=2, heads=2, width=14, head_width=6, context=11), 258, seed=1).eval()
    (ids,) = next(iter(held_out(shards, context=11, rows=1, **IDS))).ids
    with torch.no_grad():
        whole = model.head(model.body(ids[None]))[0]
        for t in range(1, len(ids)):
            changed = ids.clone()
            changed[t:] = 200
            assert torch.equal(model.head(model.body(changed[None]))[0, :t], whole[:t])
