"""LM12: a recurrent encoder and decoder with a single vector between them, which long sequences do not fit into.

BLEU by source length on real pairs: `benchmarks/translation.py`.
"""

import pytest
import torch

from idiolect.models.build import build
from idiolect.models.settings import Seq2SeqSettings


@torch.no_grad()
def test_LM12_all_that_the_decoder_knows_of_a_source_is_one_vector():
    """Whatever the source's length, what is remembered of it is 2 D numbers; equal ones mean equal answers."""
    model = build(Seq2SeqSettings(width=7, attention="none"), 23).eval()
    memories = [model.encode(torch.arange(n)[None] % 23) for n in (1, 11, 41)]
    assert {memory.annotations.shape for memory in memories} == {(1, 1, 2 * 7)}
    ids = torch.arange(5)[None]
    answers = []
    for memory in memories:
        state = model.init_state(1, 5, torch.arange(3)[None])
        state.memory.annotations = memories[0].annotations
        state.vectors, state.trail = memories[0].start, memories[0].start[:, None]
        answers.append(model.step(ids, state)[0])
        assert not torch.equal(memory.annotations, memories[0].annotations) or memory is memories[0]
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_LM12_exact_answers_fall_with_the_length_of_the_source(reversal):
    _, shares = reversal(
        "seq2seq",
        *("model.attention=none", "model.width=128", "train.batch_tokens=3000"),
        *("train.steps=500", "train.learning_rate=5e-3"),
    )
    print(shares)
    assert shares[0] - shares[-1] >= 0.4
    assert shares == sorted(shares, reverse=True)
