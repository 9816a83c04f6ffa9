"""Heads for labels on the bodies of several families."""

import pytest
import torch

from idiolect.adapt.heads import Labelled, attach, pooled
from idiolect.adapt.settings import LabelledSettings
from idiolect.data.batch import Batch
from idiolect.interop import folder
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, EncoderDecoderSettings, EncoderSettings, RecurrentSettings
from idiolect.plan.parameters import count
from idiolect.train import objectives

V, D, C = 31, 14, 3
BASES = {
    "gpt": DecoderSettings(layers=2, heads=7, width=D, context=13),
    "untied": DecoderSettings(layers=1, heads=2, width=D, context=13, tied=False, norm="layer", position="learned"),
    "lstm": RecurrentSettings(kind="lstm", layers=2, width=D, tied=True),
    "bert": EncoderSettings(
        layers=2,
        heads=2,
        width=D,
        context=13,
        norm="layer",
        norm_place="residual",
        position="learned",
        head="transform",
    ),
    "rotary encoder": EncoderSettings(layers=1, heads=7, width=D, context=13, tied=False),
    "gru": RecurrentSettings(kind="gru", width=D),
    "t5": EncoderDecoderSettings(layers=1, encoder_layers=2, heads=7, width=D, context=13),
    "two embeddings": EncoderDecoderSettings(layers=1, heads=2, width=D, context=13, shared_embedding=False),
    "other encoder": EncoderDecoderSettings(
        layers=1, heads=2, width=D, context=5, encoder=EncoderSettings(layers=2, heads=7, width=D, context=13)
    ),
    "mixture": DecoderSettings(layers=2, heads=7, width=D, context=13, experts={"count": 3, "width": 5}),
    "longrope": DecoderSettings(
        layers=2,
        heads=7,
        width=D,
        context=13,
        rope_scaling={"kind": "longrope", "short": [1.0], "long": [4.0], "original_context": 7},
    ),
}
HEADS = {
    "text": {"pool": "last"},
    "first": {"pool": "first", "hidden": "tanh"},
    "mean": {"pool": "mean", "hidden": "relu"},
    "word": {"each": "word", "pool": "last"},
}
LABELS = ("good", "bad", "none of both")


def labelled(base, head, seed=5):
    settings = LabelledSettings(base=BASES[base], labels=LABELS, dropout=0.2, **HEADS[head])
    return attach(build(BASES[base], V, seed=seed), settings, seed=seed)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("base", BASES)
def test_a_row_alone_and_among_longer_ones_has_the_same_logits(base, head):
    model = labelled(base, head)[0].eval()
    lengths = torch.tensor([7, 1, 11])
    ids = torch.randint(V, (3, 11), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        together = model.logits(model.body(ids, lengths), lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = model.logits(model.body(ids[row : row + 1, :length]))[0]
            found = together[row, :length] if head == "word" else together[row]
            assert alone.shape == ((length, C) if head == "word" else (C,))
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("base", BASES)
def test_the_body_is_the_bases_own(base):
    model, report = labelled(base, "text")
    ids = torch.randint(V, (2, 9), generator=torch.Generator().manual_seed(3))
    theirs = build(BASES[base], V, seed=5).eval()
    with torch.no_grad():
        read = theirs.encode if theirs.settings.kind == "encoder-decoder" else theirs.body
        assert torch.equal(model.eval().body(ids), read(ids))
    gone = {"encoder": ["base.transform"], "encoder-decoder": ["base.decoder"]}.get(theirs.settings.kind, [])
    gone = [*gone, "base.head", *["base.embedding"] * (base in ("two embeddings", "other encoder"))]
    assert report.touched == (*gone, "head.weight", "head.bias")
    assert not [name for name, _ in model.named_parameters() if name.startswith(tuple(gone))]
    assert report.trainable == report.total == sum(p.numel() for p in model.parameters())
    assert report.bytes == 4 * report.total == 4 * count(model.settings, V).total


def test_new_weights_depend_on_the_seed_and_their_names_alone():
    weights = [labelled("gpt", "text", seed)[0].head.weight for seed in (5, 5, 6)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(weights[0], labelled("lstm", "text")[0].head.weight)  # another body changes nothing
    assert 0.01 < float(weights[0].detach().std()) < 0.03


def test_pooling_takes_the_first_the_last_or_the_mean_of_what_is_real():
    hidden = torch.tensor([[[1.0], [2.0], [6.0], [100.0]], [[3.0], [torch.nan], [torch.nan], [torch.nan]]])
    lengths = torch.tensor([3, 1])
    found = {pool: pooled(hidden, lengths, pool).flatten().tolist() for pool in ("first", "last", "mean")}
    assert found == {"first": [1, 3], "last": [6, 3], "mean": [3, 3]}
    assert pooled(hidden[:1], None, "mean").tolist() == [[27.25]]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("base", BASES)
def test_a_folder_gives_the_same_model_back(base, head, tmp_path):
    model = labelled(base, head)[0].eval()
    folder.save(tmp_path / "model", model, None, {})
    back = folder.load(tmp_path / "model")
    assert isinstance(back.model, Labelled) and back.settings == model.settings
    assert back.model.settings.labels == LABELS
    ours, theirs = model.state_dict(), back.model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_labels_need_names_of_their_own_and_words_no_mean():
    for wrong in ({"labels": ("a", "a")}, {"labels": ("a",)}, {"each": "word", "pool": "mean"}):
        with pytest.raises(ValueError):
            LabelledSettings(**{"base": BASES["gpt"], "labels": LABELS, **wrong})


def test_the_balance_of_experts_is_part_of_the_loss_and_padding_is_not():
    model, _ = labelled("mixture", "text")
    ids, lengths = torch.randint(V, (2, 11), generator=torch.Generator().manual_seed(3)), torch.tensor([7, 5])
    found = objectives.labels(model, Batch(ids, torch.tensor([0, 2]), lengths=lengths))
    assert found.logs["auxiliary"].item() == pytest.approx(2 * model.base.auxiliary.item())
    assert found.logs["auxiliary"] > 0 and "right" in found.logs
    other = ids.masked_fill(torch.arange(11) >= lengths[:, None], 1)
    again = objectives.labels(model, Batch(other, torch.tensor([0, 2]), lengths=lengths))
    assert again.logs["auxiliary"].item() == pytest.approx(found.logs["auxiliary"].item(), rel=1e-6)
