"""FT2: an extra head on top: a sentiment head on an encoder beats the majority class, its base frozen or not."""

import pytest
import torch

from idiolect import api
from idiolect.interop import folder

FAST = ["train.precision=fp32", "train.compile=no", "train.threads=1", "sample.every=0", "validation.every=0"]
SHAPE = ["tokenizer.kind=word", "model.layers=1", "model.width=32", "model.heads=2", "model.context=16"]
FILMS = ("film", "story", "cast", "ending", "score")
KINDS = {"good": ("warm", "funny", "moving", "clever"), "bad": ("dull", "tired", "clumsy", "empty")}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An encoder that has learnt which words go together, and reviews of which two thirds are good."""
    base = tmp_path_factory.mktemp("FT2")
    texts, rows = [], []
    for i in range(360):
        label = ("good", "bad", "good")[i % 3]
        words = KINDS[label]
        text = f"a {words[i // 3 % 4]} {FILMS[i % 5]} and a {words[i // 12 % 4]} {FILMS[i // 5 % 5]}"
        texts.append(text)
        rows.append(f"{text}\t{label}")
    (base / "text.txt").write_text("\n".join(texts))
    (base / "reviews.tsv").write_text("\n".join(rows) + "\n")
    said = [f"data.train={base / 'text.txt'}", "data.document=line", *SHAPE, *FAST]
    api.train("bert", [*said, "train.steps=150", "train.batch_tokens=512", "train.learning_rate=1e-2"], base / "bert")
    return base


@pytest.mark.parametrize("frozen", [True, False])
def test_FT2_a_sentiment_head_beats_the_majority_and_a_frozen_base_stays_to_the_bit(encoder, frozen, tmp_path):
    said = [f"model.from={encoder / 'bert'}", f"data.train={encoder / 'reviews.tsv'}", "task.text=1", "task.label=2"]
    said += [*FAST, f"task.freeze_base={str(frozen).lower()}", "train.batch_tokens=256", "train.steps=120"]
    found = api.train("classify", [*said, "train.learning_rate=1e-2"], tmp_path / "run")
    majority = found["baselines"]["majority"]
    assert 0.6 < majority["accuracy"] < 0.72
    assert found["validation"]["accuracy"] > 0.9 and found["validation"]["macro_f1"] > 0.9 > majority["macro_f1"]
    before = folder.load(encoder / "bert" / "model").model.state_dict()
    after = folder.load(tmp_path / "run" / "model").model
    weights = after.base.state_dict()
    moved = {name for name, tensor in weights.items() if not torch.equal(tensor, before[name])}
    assert moved == (set() if frozen else set(weights))
    assert api.classify(tmp_path / "run", "a moving story and a clever score")["label"] == "good"
