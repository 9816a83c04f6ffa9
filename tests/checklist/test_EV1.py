"""EV1: perplexity is P^(-1/n), from 1 to infinity, and lower is better."""

import math

import pytest
import torch
from torch import nn

from idiolect.data.batches import held_out
from idiolect.data.shards import encode
from idiolect.evaluate.baselines import uniform
from idiolect.evaluate.score import evaluate, score_text
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, NGramSettings, RecurrentSettings
from idiolect.testing import ByteTokenizer, TinyModel
from idiolect.text.corpus import Corpus
from idiolect.train.objectives import next_token

IDS = {"begin_id": 0, "end_id": 0, "pad_id": 1}
TOKENIZER = ByteTokenizer()
NETWORKS = {
    "decoder": DecoderSettings(layers=1, heads=2, width=12, context=17),
    "gru": RecurrentSettings(kind="gru", layers=1, width=11, context=17),
}


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "text.txt").write_text("perplexity\nis how many ways\nthe next word could go\n")
    return encode(Corpus([tmp_path / "text.txt"], "line"), TOKENIZER, cache=tmp_path / "cache")


def held(shards, rows=3):
    return held_out(shards, context=17, rows=rows, **IDS)


def test_EV1_uniform_over_V_is_V_exactly(shards):
    assert uniform(shards, TOKENIZER).perplexity == 258.0
    assert uniform(shards, TOKENIZER).loss == pytest.approx(math.log(258), rel=1e-15)


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
def test_EV1_a_network_that_knows_nothing_has_perplexity_V(settings, shards):
    model = build(settings, 258)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    found = evaluate(model, TOKENIZER, held(shards), bytes_=shards.bytes)
    assert found.perplexity == pytest.approx(258, rel=1e-6)


def test_EV1_an_ngram_that_knows_nothing_has_perplexity_of_what_can_come(shards):
    """Add-k with a huge k: as good as uniform over all ids but padding."""
    model = build(NGramSettings(order=1, smoothing="add-k", k=1e12), 258).fit(shards)
    found = evaluate(model, TOKENIZER, held(shards), bytes_=shards.bytes)
    assert found.perplexity == pytest.approx(257, rel=1e-6)


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
def test_EV1_perplexity_is_exp_of_the_mean_cross_entropy(settings, shards):
    """The same number from torch's cross-entropy, from the training loss, and from P^(-1/n) of the definition."""
    model = build(settings, 258, seed=5).eval()
    found = evaluate(model, TOKENIZER, held(shards), bytes_=shards.bytes)
    with torch.no_grad():
        losses = [next_token(model, batch) for batch in held(shards, rows=1)]
        ce = [
            nn.functional.cross_entropy(
                model.head(model.body(b.ids)).flatten(0, 1), b.labels.flatten(), reduction="sum"
            )
            for b in held(shards)
        ]
    trained = sum(loss.total.item() for loss in losses) / sum(loss.count for loss in losses)
    assert found.perplexity == pytest.approx(math.exp(trained), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(sum(ce).item() / found.tokens), rel=1e-5)

    score = score_text(model, TOKENIZER, "per")
    P = math.prod(math.exp(logprob) for logprob in score.logprobs)
    assert score.perplexity == pytest.approx(P ** (-1 / 3), rel=1e-9)


def certain(sure):
    """A model that puts `sure` logits more on the byte after its input, a after b and so on, than on any other."""
    model = TinyModel(258, 258)
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(258))
        model.head.weight.copy_(sure * torch.eye(258).roll(1, 0))
        model.head.bias.zero_()
        model.embedding.weight[0] = model.embedding.weight[98]  # a text begins with a
    return model


def test_EV1_the_range_is_from_one_to_infinity():
    assert score_text(certain(1e4), TOKENIZER, "abcd").perplexity == 1.0
    assert score_text(certain(1e4), TOKENIZER, "abxd").perplexity == math.inf
    perplexities = [score_text(certain(sure), TOKENIZER, "abcd").perplexity for sure in (0.0, 1.0, 3.0, 9.0, 27.0)]
    assert perplexities[0] == pytest.approx(258, rel=1e-6)
    assert perplexities == sorted(perplexities, reverse=True) and perplexities[-1] >= 1.0


def test_EV1_the_lowest_perplexity_is_the_highest_probability():
    """Over texts of one length, and over models of one text: the same order, turned round."""
    model = TinyModel(seed=7)
    scores = [score_text(model, TOKENIZER, text) for text in ("abc", "xyz", "the", "cat", "q q", "...")]
    by_probability = sorted(scores, key=lambda score: -score.logprob)
    assert by_probability == sorted(scores, key=lambda score: score.perplexity)
    models = [score_text(TinyModel(seed=seed), TOKENIZER, "the cat") for seed in range(7)]
    assert max(models, key=lambda score: score.logprob) is min(models, key=lambda score: score.perplexity)
