"""LM7: CBOW has one vector for "stick to it" and "throw the stick"; a transformer's hidden state knows which it is."""

import random

import pytest
import torch
import torch.nn.functional as F

from idiolect import api
from idiolect.interop.folder import load

SENSES = ("glue tape paper wall poster stamp label wax", "dog throw branch tree park wood fetch leaf")
"""The company that the word keeps in each sense."""


def sentences(count, seed):
    """(sentence, sense) pairs, as many of each: four words of a sense, the planted word, and three more."""
    draw = random.Random(seed)
    out = []
    for i in range(count):
        words = draw.choices(SENSES[i % 2].split(), k=7)
        out.append((" ".join([*words[:4], "stick", *words[4:]]), i % 2))
    return out


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm7")
    (folder / "text.txt").write_text("\n".join(text for text, _ in sentences(1600, 1)))
    shared = [f"data.train={folder / 'text.txt'}", "data.document=line", "tokenizer.kind=word", "tokenizer.size=30"]
    shared += ["train.batch_tokens=1024", "train.precision=fp32", "train.threads=1", "train.compile=no"]
    shared += ["sample.every=0"]
    cbow = ["model.width=16", "model.window=4", "model.subsample=0", "train.steps=300", "train.learning_rate=1e-2"]
    api.train("cbow", [*shared, *cbow], folder / "cbow")
    gpt = ["model.layers=2", "model.heads=2", "model.width=32", "model.context=16", "train.steps=150"]
    api.train("gpt", [*shared, *gpt, "train.learning_rate=5e-3"], folder / "gpt")
    return {name: load(folder / name / "model") for name in ("cbow", "gpt")}


def uses(loaded, examples):
    """What the model has for "stick" in each sentence, [N, D], and the sense there."""
    tokenizer, model = loaded.tokenizer, loaded.model
    (stick,) = tokenizer.encode("stick")
    out = []
    with torch.no_grad():
        for text, _ in examples:
            ids = torch.tensor([[tokenizer.begin_id, *tokenizer.encode(text)]])
            hidden = model.embedding(ids) if loaded.settings.kind == "cbow" else model.body(ids)
            out.append(hidden[0, ids[0].tolist().index(stick)])
    return torch.stack(out), torch.tensor([sense for _, sense in examples])


def probe(loaded):
    """The accuracy of a linear classifier of the senses on sentences that it was not fitted on."""
    x, sense = uses(loaded, sentences(200, 2))
    design = torch.cat((x, torch.ones(len(x), 1)), dim=1)
    weights = torch.linalg.lstsq(design.double(), 2.0 * sense.double()[:, None] - 1, driver="gelsd").solution
    x, sense = uses(loaded, sentences(200, 3))
    found = torch.cat((x, torch.ones(len(x), 1)), dim=1).double() @ weights > 0
    return float((found[:, 0] == sense.bool()).double().mean())


def test_LM7_a_linear_probe_finds_the_sense_in_the_transformer_only(models):
    assert probe(models["cbow"]) == pytest.approx(0.5, abs=0.05)
    assert probe(models["gpt"]) >= 0.9


def test_LM7_the_two_uses_have_one_vector_in_cbow_only(models):
    def cosine(name):
        found, sense = uses(models[name], sentences(2, 4))
        assert sense.tolist() == [0, 1]
        return float(F.cosine_similarity(found[0], found[1], dim=0))

    assert cosine("cbow") == pytest.approx(1, abs=1e-6)
    assert cosine("gpt") < 0.9


def test_LM7_the_words_around_it_are_told_apart_by_cbow_too(models):
    """So the vectors are learnt: the nearest word to each is one of its own sense."""
    loaded = models["cbow"]
    vectors = F.normalize(loaded.model.embedding.weight.detach(), dim=1)
    ids = {word: loaded.tokenizer.encode(word)[0] for words in SENSES for word in words.split()}
    for words in SENSES:
        for word in words.split():
            others = [other for other in ids if other != word]
            near = max(others, key=lambda other: float(vectors[ids[word]] @ vectors[ids[other]]))
            assert near in words.split()
