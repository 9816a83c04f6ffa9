"""LM10: what a recurrent network saw long ago is forgotten, unless it has gates that learn what to keep."""

import pytest
import torch
import torch.nn.functional as F

from idiolect.models.build import build
from idiolect.models.settings import RecurrentSettings

LAG, SYMBOLS, NOISE = 50, 4, 4
QUERY = SYMBOLS + NOISE
VOCABULARY = QUERY + 1
STEPS, ROWS = 400, 64


def draw(rows, generator):
    """A symbol, 49 tokens of noise, a query: ids [rows, 51]; the answer is the symbol, 50 positions back."""
    symbol = torch.randint(0, SYMBOLS, (rows, 1), generator=generator)
    noise = torch.randint(SYMBOLS, QUERY, (rows, LAG - 1), generator=generator)
    return torch.cat((symbol, noise, torch.full((rows, 1), QUERY)), dim=1), symbol[:, 0]


def recall(kind, width, seed):
    """Accuracy on 1,000 new sequences after training on STEPS x ROWS, and the number of parameters."""
    # e^4 = 55: cells that hold their content over the lag from the start (Tallec and Ollivier 2018, section 3)
    settings = RecurrentSettings(kind=kind, width=width, context=LAG + 1, forget_bias=4.0)
    model = build(settings, VOCABULARY, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        ids, answers = draw(ROWS, generator)
        F.cross_entropy(model.head(model.body(ids)[:, -1]), answers).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    ids, answers = draw(1000, torch.Generator().manual_seed(1000 + seed))
    with torch.no_grad():
        guesses = model.head(model.body(ids)[:, -1]).argmax(-1)
    return float((guesses == answers).float().mean()), sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_LM10_lstm_recalls_over_50_tokens_and_elman_does_not(seed):
    lstm, lstm_size = recall("lstm", 32, seed)
    elman, elman_size = recall("rnn", 62, seed)
    assert abs(elman_size / lstm_size - 1) <= 0.02
    assert lstm >= 0.95
    assert elman <= 1 / SYMBOLS + 0.10
