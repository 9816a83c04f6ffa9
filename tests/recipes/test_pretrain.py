import json
import os
import warnings

import pytest
import torch
from safetensors.torch import load_file

from idiolect import api, config, devices, files
from idiolect.errors import Exit, UserError
from idiolect.recipes import load, pretrain
from idiolect.runs import Run

NEURAL = ["rnn", "lstm", "gru", "gpt"]


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory):
    """Each family, trained; folder → result."""
    base = tmp_path_factory.mktemp("runs")
    counting = [override for override in small if not override.startswith("model.")]
    return {
        name: (
            base / name,
            api.train("gpt", [*(counting if name == "ngram" else small), f"model.kind={kind}"], base / name),
        )
        for name, kind in {"ngram": "ngram", "rnn": "rnn", "lstm": "lstm", "gru": "gru", "gpt": "decoder"}.items()
    }


def stop_at(step):
    return lambda done: "stopped" if done.step == step else None


def begun(folder, overrides):
    """A run that has written its recipe and not begun its first step."""
    recipe, _ = load.load("gpt", overrides)
    files.write_text(Run.create(folder).recipe, config.dump(recipe))
    return Run.open(folder)


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["ngram", *NEURAL])
def test_a_run_leaves_all_that_the_design_promises(runs, name):
    folder, result = runs[name]
    for path in ("recipe.toml", "plan.json", "metrics.jsonl", "report.html", "model/lineage.json"):
        assert (folder / path).is_file()
    files.verify(folder / "model")
    assert result["validation"]["bits_per_byte"] > 0
    assert result["steps"] == (0 if name == "ngram" else 12)
    lineage = json.loads((folder / "model" / "lineage.json").read_text())
    assert lineage["results"]["validation"] == result["validation"]
    if name != "ngram":
        assert result["parameters"] == json.loads((folder / "plan.json").read_text())["parameters"]


@pytest.mark.parametrize("name", ["ngram", *NEURAL])
def test_what_the_run_printed_is_what_its_saved_model_scores(runs, name, text):
    folder, result = runs[name]
    # the same held-out documents, as files of their own: the last tenth of the forty
    held = folder.parent / "held"
    held.mkdir(exist_ok=True)
    for path in sorted(text.iterdir())[-4:]:
        (held / path.name).write_bytes(path.read_bytes())
    again = api.evaluate([folder], held)
    assert again["bits_per_byte"] == pytest.approx(result["validation"]["bits_per_byte"], rel=1e-6)


def test_the_table_has_every_family_and_the_baselines_over_the_same_bytes(runs):
    table = api.compare_runs([folder for folder, _ in runs.values()])
    names = {row["model"] for row in table["rows"]}
    assert names == {"ngram", *NEURAL, "uniform", "unigram", "gzip"}
    bits = [row["bits_per_byte"] for row in table["rows"]]
    assert bits == sorted(bits)
    # a dozen steps teach a network too little to beat gzip, and the table says so
    assert any("lstm" in line for line in table["failed"])


def test_runs_on_other_text_are_not_compared(runs, small, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("the quick brown fox jumps over the lazy dog\n" * 400)
    api.train("ngram", [f"data.train={other}", "tokenizer.kind=byte"], tmp_path / "run")
    with pytest.raises(UserError, match="different texts"):
        api.compare_runs([runs["gpt"][0], tmp_path / "run"])


HARD = ["model.dropout=0.2", "train.micro_batches=4", "data.packing=documents"]


@pytest.mark.parametrize("extra", [[], ["train.optimizer=muon"], ["train.precision=bf16"], ["data.packing=stream"]])
def test_a_run_stopped_anywhere_and_resumed_is_the_uninterrupted_run(small, tmp_path, extra):
    overrides = [*small, *HARD, *extra]
    api.train("gpt", overrides, tmp_path / "whole")
    run = begun(tmp_path / "cut", overrides)
    for step in (3, 7, 10):
        assert pretrain.resume_with(run, [stop_at(step)])["stopped"] == "stopped"
    result = api.resume(tmp_path / "cut")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    kept = [line for line in run.read_metrics() if "loss" in line]
    whole = [line for line in Run.open(tmp_path / "whole").read_metrics() if "loss" in line]
    assert [line["loss"] for line in kept] == [line["loss"] for line in whole]
    assert result["tokens"] == 12 * 256 or extra != ["data.packing=stream"]


def test_resuming_a_finished_run_changes_nothing(runs, tmp_path):
    folder, result = runs["gpt"]
    before = weights(folder)
    assert api.resume(folder)["validation"] == result["validation"]
    assert same(before, weights(folder))


def test_changed_text_is_refused_unless_accepted_and_then_recorded(small, text, tmp_path):
    own = tmp_path / "text"
    own.mkdir()
    for path in text.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    overrides = [f"data.train={own}", *small[1:]]
    run = begun(tmp_path / "run", overrides)
    pretrain.resume_with(run, [stop_at(6)])
    (own / "00.txt").write_text((own / "00.txt").read_text() + " and more")
    with pytest.raises(UserError, match=r"data\.train") as error:
        api.resume(run.folder)
    assert "--accept-change" in error.value.mend
    api.resume(run.folder, accept_change=True)
    lineage = json.loads((run.folder / "model" / "lineage.json").read_text())
    assert any("data.train" in change for change in lineage["accepted_changes"])


def test_a_changed_recipe_is_refused_unless_accepted(small, tmp_path):
    run = begun(tmp_path / "run", small)
    pretrain.resume_with(run, [stop_at(6)])
    with pytest.raises(UserError, match="recipe"):
        api.resume(run.folder, ["train.steps=9"])
    assert api.resume(run.folder, ["train.steps=9"], accept_change=True)["steps"] == 9


def test_a_damaged_checkpoint_is_passed_over_and_the_end_is_the_same(small, tmp_path):
    api.train("gpt", small, tmp_path / "whole")
    run = begun(tmp_path / "run", small)
    pretrain.resume_with(run, [stop_at(11)])
    assert run.steps() == [4, 10, 11] or run.steps()[-2:] == [10, 11]
    newest = run.checkpoint(11) / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[500] ^= 1
    newest.write_bytes(bytes(data))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        api.resume(run.folder)
    assert any("step-11" in str(w.message) and "step-10" in str(w.message) for w in caught)
    assert same(weights(tmp_path / "whole"), weights(run.folder))


def test_early_stopping_keeps_the_best_weights(small, tmp_path):
    stubborn = [*small, "train.steps=60", "train.learning_rate=0.3", "validation.every=2", "validation.patience=2"]
    result = api.train("gpt", stubborn, tmp_path / "run")
    assert result["steps"] < 60
    metrics = Run.open(tmp_path / "run").read_metrics()
    measured = {line["step"]: line["validation.loss"] for line in metrics if "validation.loss" in line}
    best = min(measured, key=measured.__getitem__)
    saved = load_file(tmp_path / "run" / "checkpoints" / f"step-{best}" / "model.safetensors")
    kept = weights(tmp_path / "run")
    assert torch.equal(saved["embedding.weight"], kept["model.embed_tokens.weight"])


def tensors(folder):
    return {
        **{f"model/{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()},
        **{f"optimizer/{name}": tensor for name, tensor in load_file(folder / "optimizer.safetensors").items()},
    }


def test_a_loss_that_is_no_number_stops_the_run_with_the_weights_of_the_step_before_kept_aside(
    small, tmp_path, monkeypatch
):
    monkeypatch.setenv("IDIOLECT_TESTING", "1")
    monkeypatch.setenv("IDIOLECT_FAULT", "nan@step:8")
    with pytest.raises(UserError) as error:
        api.train("gpt", small, tmp_path / "run")
    assert error.value.code is Exit.DIVERGED and "step 8" in error.value.what
    run, good = Run.open(tmp_path / "run"), begun(tmp_path / "good", small)
    pretrain.resume_with(good, [stop_at(7)])
    assert same(tensors(run.checkpoints / "diverged-step-7"), tensors(good.checkpoint(7)))
    assert run.steps() == [5] and not run.model.exists()
    monkeypatch.delenv("IDIOLECT_FAULT")
    api.resume(run.folder), api.resume(good.folder)
    assert same(weights(run.folder), weights(good.folder))


def test_a_step_that_is_no_number_is_skipped_when_asked_and_so_it_is_when_resumed(small, tmp_path, monkeypatch):
    overrides = [*small, "train.on_nan=skip", "track.log_every=1", "validation.every=2"]
    monkeypatch.setenv("IDIOLECT_TESTING", "1")
    monkeypatch.setenv("IDIOLECT_FAULT", "nan@step:7")
    api.train("gpt", overrides, tmp_path / "whole")
    run = begun(tmp_path / "cut", overrides)
    for step in (3, 7, 8):
        pretrain.resume_with(run, [stop_at(step)])
    api.resume(run.folder)
    assert same(weights(tmp_path / "whole"), weights(run.folder))
    whole, cut = (Run.open(tmp_path / name).read_metrics() for name in ("whole", "cut"))
    told = ("loss", "skipped", "validation.loss", "gap")
    assert [[line.get(key) for key in told] for line in whole] == [[line.get(key) for key in told] for line in cut]
    (skipped,) = [line for line in whole if "skipped" in line]
    assert skipped["step"] == 7 and skipped["loss"] is None and "micro-batch 1 of 1 is nan" in skipped["skipped"]


def test_a_diverging_run_is_kept_aside_and_its_best_checkpoint_stays(small, tmp_path):
    wild = ["train.steps=100", "train.learning_rate=50", "train.warmup_steps=30", "checkpoint.every=2"]
    with pytest.raises(UserError, match="3 x its median.*for 20 steps on end") as error:
        api.train("gpt", [*small, *wild, "validation.every=2"], tmp_path / "run")
    assert error.value.code is Exit.DIVERGED
    run = Run.open(tmp_path / "run")
    losses = {line["step"]: line["validation.loss"] for line in run.read_metrics() if "validation.loss" in line}
    best = min(losses, key=losses.__getitem__)
    assert best in run.steps()[:-2]
    (aside,) = run.checkpoints.glob("diverged-*")
    assert all(tensor.isfinite().all() for step in run.steps() for tensor in tensors(run.checkpoint(step)).values())
    assert all(tensor.isfinite().all() for tensor in tensors(aside).values())


def test_a_run_that_could_not_begin_leaves_its_folder_to_the_next(small, text, tmp_path):
    again = [override for override in small if not override.startswith("data.")]
    for bad in (tmp_path / "nowhere.txt", tmp_path / "short.txt"):
        (tmp_path / "short.txt").write_text("a")
        with pytest.raises(UserError) as caught:
            api.train("gpt", [*again, f"data.train={bad}"], tmp_path / "run")
        assert caught.value.code == Exit.BAD_INPUT
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
    assert api.train("gpt", small, tmp_path / "run")["steps"]


def test_too_much_memory_is_said_before_anything_is_made(small, tmp_path):
    with pytest.raises(UserError) as error:
        api.train("gpt", [*small, "model.width=65536", "model.heads=64", "model.layers=80"], tmp_path / "run")
    assert error.value.code is Exit.OUT_OF_MEMORY
    assert "would fit" in error.value.mend
    assert not (tmp_path / "run").exists()


def test_a_stupid_backoff_model_is_trained_and_says_why_it_has_no_bits_per_byte(small, tmp_path):
    result = api.train("ngram", [small[0], small[1], "model.smoothing=stupid-backoff"], tmp_path / "run")
    assert result["validation"]["bits_per_byte"] is None
    assert "stupid-backoff" in result["validation"]["reason"]
    table = api.compare_runs([tmp_path / "run"])
    assert any("stupid-backoff" in note for note in table["notes"])


def test_a_model_without_smoothing_is_infinitely_surprised_and_says_so(small, tmp_path):
    result = api.train("ngram", [small[0], small[1], "model.smoothing=mle"], tmp_path / "run")
    assert result["validation"]["perplexity"] == "Infinity" and result["validation"]["impossible"] > 0
    assert api.compare_runs([tmp_path / "run"])["rows"][-1]["model"] == "run"
    assert api.generate(tmp_path / "run", "zzqx")["finish_reason"] == "unseen_context"


def test_a_lossy_tokenizer_leaves_the_bits_out_with_the_reason(small, tmp_path):
    result = api.train("ngram", [small[0], "tokenizer.kind=word", "tokenizer.lowercase=true"], tmp_path / "run")
    assert result["validation"]["bits_per_byte"] is None and result["validation"]["perplexity"] > 1
    assert "case" in result["validation"]["reason"]


@pytest.mark.slow
def test_verify_resume_kills_and_compares_a_piece_of_the_users_own_run(runs):
    found = api.verify_resume(runs["gpt"][0], steps=6)
    assert found["identical"] and found["steps"] == 6 and found["tensors"] > 20
    assert os.listdir(runs["gpt"][0] / "checkpoints")  # the run itself is as it was


@pytest.mark.slow
@pytest.mark.skipif(not devices.can_compile("cpu"), reason="no C++ compiler")
def test_a_compiled_run_is_killed_and_goes_on_bit_for_bit(small, tmp_path):
    run = begun(tmp_path / "run", [*small, *HARD, "model.layers=1", "train.compile=yes"])
    found = api.verify_resume(run.folder, steps=4)
    assert found["identical"], found["differences"]


def test_verify_resume_has_nothing_to_do_for_an_ngram(runs):
    with pytest.raises(UserError, match="counted anew"):
        api.verify_resume(runs["ngram"][0])


def test_verify_resume_notices_one_bit():
    from idiolect.recipes.verify import _compared
    from idiolect.train.checkpoint import Snapshot

    one = Snapshot(3, {"w": torch.tensor([0.0, 1.0])}, {"w/step": torch.tensor(3.0)}, {"loop": {"seconds": 1}}, {})
    other = Snapshot(3, {"w": torch.tensor([-0.0, 1.0])}, {"w/step": torch.tensor(3.0)}, {"loop": {"seconds": 2}}, {})
    assert _compared(one, one)["identical"]
    found = _compared(one, other)
    assert not found["identical"] and found["differences"] == ["model/w"]


def test_transformers_opens_the_run_as_it_lies(runs):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from idiolect.interop import folder as model_folder

    folder = runs["gpt"][0] / "model"
    ours, theirs = model_folder.load(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([ours.tokenizer.encode("Return the first item of the sequence.")])
    with torch.no_grad():
        assert (ours.model.head(ours.model.body(ids)) - theirs(ids).logits).abs().max() <= 1e-5
    assert AutoTokenizer.from_pretrained(folder).encode("Return 漢字 <x>") == ours.tokenizer.encode("Return 漢字 <x>")


def test_LM17_one_recipe_pretrains_and_samples(runs):
    folder, result = runs["gpt"]
    table = api.compare_runs([folder])
    bits = {row["model"]: row["bits_per_byte"] for row in table["rows"]}
    assert bits["gpt"] < bits["uniform"]
    samples = [line["sample"] for line in Run.open(folder).read_metrics() if "sample" in line]
    assert len(samples) == 2
    written = api.generate(folder, "Return", seed_settings(5))
    again = api.generate(folder, "Return", seed_settings(5))
    assert written == again and len(written["ids"]) == 9
    assert written["finish_reason"] == "length"


def seed_settings(seed):
    from idiolect.decode.settings import DecodeSettings

    return DecodeSettings(max_tokens=9, seed=seed)
