"""OT1: CE = -log p(true next word). Equals -log ŷ[w] by hand; at the start about ln V."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from idiolect.config import Settings
from idiolect.data.batch import IGNORE, Batch
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, RecurrentSettings
from idiolect.train import crossentropy, objectives

VOCABULARY = 101
FAMILIES = [
    RecurrentSettings(kind="rnn", width=13),
    RecurrentSettings(kind="lstm", width=13),
    RecurrentSettings(kind="gru", width=13),
    DecoderSettings(layers=1, heads=2, width=12, context=17),
]


def batch() -> Batch:
    ids = torch.randint(0, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))
    labels = ids[:, 1:].clone()
    labels[0, 5:] = IGNORE
    return Batch(ids[:, :-1], labels)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("settings", FAMILIES, ids=lambda settings: settings.kind)
def test_OT1_the_loss_is_minus_log_of_the_true_next_tokens_probability(
    settings: Settings, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunked:
        monkeypatch.setitem(crossentropy.CHUNK, "cpu", 7 * VOCABULARY)
        monkeypatch.setattr(crossentropy, "FEWEST_ROWS", 1)
    model = build(settings, VOCABULARY, seed=1)
    given = batch()
    loss = objectives.next_token(model, given)
    logits, _ = model.step(given.ids, model.init_state(3, 11))  # another path through the model than the body's
    by_hand = 0.0
    for row in range(3):
        for t in range(11):
            word = int(given.labels[row, t])
            if word == IGNORE:
                continue
            weights = np.exp(logits[row, t].detach().numpy().astype(np.float64))
            predicted = weights / weights.sum()  # ŷ
            by_hand += -math.log(predicted[word])
    assert loss.count == 3 * 11 - 6
    assert loss.total.item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("settings", FAMILIES, ids=lambda settings: settings.kind)
def test_OT1_a_fresh_model_costs_about_ln_V(settings: Settings) -> None:
    losses = []
    for seed in range(3):
        loss = objectives.next_token(build(settings, VOCABULARY, seed=seed), batch())
        losses.append(loss.total.item() / loss.count)
    assert losses == pytest.approx([math.log(VOCABULARY)] * 3, abs=0.15)
