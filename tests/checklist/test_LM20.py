"""LM20: an encoder that was trained before, put under a new decoder by the recipe, frozen or not."""

import json
import random

import pytest
import torch
from safetensors.torch import load_file

from idiolect import api, files
from idiolect.errors import UserError
from idiolect.interop.folder import load
from idiolect.recipes import load as recipes
from idiolect.recipes import parent, pretrain
from idiolect.runs import Run

NOUNS = {"dog": "hund", "cat": "katze", "house": "haus", "book": "buch", "car": "wagen", "boy": "junge"}
ADJECTIVES = {"red": "rot", "small": "klein", "old": "alt", "new": "neu", "loud": "laut", "slow": "lahm"}
VERBS = {"sees": "sieht", "likes": "mag", "finds": "findet", "has": "hat"}
SMALL = [
    *("tokenizer.kind=word", "model.width=48", "model.layers=2", "train.precision=fp32", "train.compile=no"),
    *("validation.every=0", "sample.every=0", "checkpoint.every=1000"),
]


def pairs(n, seed):
    """Sentences of a toy language and their translations: other words, and adjectives after their nouns."""
    draw = random.Random(seed)
    for _ in range(n):
        (a, b), (m, o), v = *(draw.choices(list(kind), k=2) for kind in (ADJECTIVES, NOUNS)), draw.choice(list(VERBS))
        yield (
            f"the {a} {m} {v} a {b} {o}",
            f"der {NOUNS[m]} {ADJECTIVES[a]} {VERBS[v]} ein {NOUNS[o]} {ADJECTIVES[b]}",
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Where an encoder has learnt words hidden in both languages, and pairs of sentences lie."""
    folder = tmp_path_factory.mktemp("lm20")
    for name, n, seed in (("train", 2000, 1), ("held", 100, 2)):
        rows = [json.dumps({"source": source, "target": target}) for source, target in pairs(n, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "text.txt").write_text("\n".join(line for pair in pairs(1500, 3) for line in pair))
    about = [f"data.train={folder / 'text.txt'}", "data.document=line", "model.context=32", "model.heads=3"]
    api.train(
        "bert",
        [*SMALL, *about, "train.steps=150", "train.batch_tokens=2048", "train.learning_rate=3e-3"],
        folder / "bert",
    )
    return folder


def said(folder, *more, encoder=None):
    """What a recipe of pairs says to have the encoder, bert's unless another is given, under a decoder."""
    small = [text for text in SMALL if not text.startswith("tokenizer.")]
    data = [f"data.train={folder / 'train.jsonl'}", f"data.validation={folder / 'held.jsonl'}", "task.kind=pairs"]
    return [*small, *data, f"model.encoder.from={encoder or folder / 'bert'}", "model.context=16", *more]


def encoder_tensors(model):
    return {name: x.clone() for name, x in model.encoder.state_dict().items()}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "unfrozen"])
def test_LM20_a_trained_encoder_learns_to_translate_under_a_new_decoder(trained, frozen, tmp_path):
    steps = ["train.steps=150", "train.batch_tokens=1500", "train.learning_rate=5e-3"]
    run = tmp_path / "run"
    result = api.train("t5", said(trained, *steps, f"model.freeze_encoder={str(frozen).lower()}"), run)
    print(result["validation"]["exact_match"])
    assert result["validation"]["exact_match"] >= 0.9
    theirs, ours = load(trained / "bert/model"), load(run / "model")
    assert ours.tokenizer.fingerprint == theirs.tokenizer.fingerprint
    before, after = parent.encoder_tensors(theirs.model), encoder_tensors(ours.model)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert not moved if frozen else moved == after.keys()
    state = load_file(max((run / "checkpoints").glob("step-*")) / "optimizer.safetensors")
    kept = {name.rpartition("/")[0] for name in state}
    trains = {name for name, _ in ours.model.named_parameters() if not (frozen and name.startswith("encoder."))}
    assert kept == trains


@pytest.mark.slow
def test_LM20_who_moved(trained, tmp_path):
    """After one step of training: exactly what is not frozen."""
    for frozen in ("true", "false"):
        run = tmp_path / frozen
        api.train("t5", said(trained, "train.steps=1", "train.warmup_steps=0", f"model.freeze_encoder={frozen}"), run)
        recipe = recipes.load("t5", said(trained, f"model.freeze_encoder={frozen}"))[0]
        stage = pretrain.tasks.prepare(recipe, tmp_path / f"stage-{frozen}")
        before, after = stage.model(), load(run / "model").model
        moved = {n for n, p in after.named_parameters() if not torch.equal(p, before.get_parameter(n))}
        unused = {"embedding.weight"} if not recipe.model.tied else set()
        expected = {n for n, p in before.named_parameters() if p.requires_grad} - unused
        assert moved == expected and ("encoder.embedding.weight" in moved) == (frozen == "false")


@pytest.mark.slow
def test_LM20_a_resumed_run_is_the_uninterrupted_one_and_a_changed_encoder_is_refused(trained, tmp_path):
    overrides = said(trained, "train.steps=8", "checkpoint.every=4", "train.batch_tokens=300", "model.dropout=0.1")
    api.train("t5", overrides, tmp_path / "whole")
    recipe, _ = recipes.load("t5", overrides)
    files.write_text(Run.create(tmp_path / "part").recipe, pretrain.config.dump(recipe))
    pretrain.resume_with(Run.open(tmp_path / "part"), [lambda step: "stopped" if step.step == 5 else None])
    weights = trained / "bert/model/model.safetensors"
    kept = weights.read_bytes()
    try:
        api.train(
            "bert", [*SMALL, f"data.train={trained / 'text.txt'}", "model.heads=3", "train.steps=1"], tmp_path / "b"
        )
        weights.write_bytes((tmp_path / "b/model/model.safetensors").read_bytes())
        with pytest.raises(UserError, match="not what the run began with: model.encoder.from"):
            api.resume(tmp_path / "part")
    finally:
        weights.write_bytes(kept)
    api.resume(tmp_path / "part")
    whole, resumed = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "part"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.slow
def test_LM20_the_encoder_of_an_encoder_decoder_goes_under_another_decoder(trained, tmp_path):
    about = [f"data.train={trained / 'text.txt'}", "data.document=line", "model.heads=2", "task.sentinels=20"]
    api.train("t5", [*SMALL, *about, "train.steps=3", "train.batch_tokens=600", "model.context=32"], tmp_path / "t5")
    more = ["train.steps=2", "model.position=rope", "model.layers=1", "model.freeze_encoder=true", "model.heads=4"]
    api.train("t5", said(trained, *more, encoder=tmp_path / "t5"), tmp_path / "run")
    theirs, ours = load(tmp_path / "t5/model").model, load(tmp_path / "run/model")
    before, after = parent.encoder_tensors(theirs), encoder_tensors(ours.model)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in after)
    assert ours.settings.encoder.kind == "encoder-side" and ours.settings.encoder.layers == 2
    source = torch.arange(3, 9)[None]
    torch.testing.assert_close(ours.model.encode(source), theirs.encode(source))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("model.width=40", r"the encoder's width \(48\) must be the decoder's \(40\)"),
        ("model.encoder.layers=3", "model.encoder.layers = 3, but that of .* is 2"),
        ("tokenizer.size=999", "tokenizer.size = 999, but that of .* is"),
    ],
)
def test_LM20_what_the_encoder_decides_cannot_be_said_otherwise(trained, wrong, problem):
    with pytest.raises(UserError, match=problem):
        recipes.load("t5", [*said(trained), wrong])


@pytest.mark.slow
def test_LM20_a_model_without_an_encoder_is_refused(trained, tmp_path):
    api.train("gpt", [*SMALL, f"data.train={trained / 'text.txt'}", "model.heads=2", "train.steps=1"], tmp_path / "gpt")
    with pytest.raises(UserError, match="is a model of the kind decoder, which has no encoder"):
        recipes.load("t5", said(trained, encoder=tmp_path / "gpt"))
