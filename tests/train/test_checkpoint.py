import json
import os
import shutil
import warnings

import pytest
import torch
from safetensors import safe_open
from torch import nn

from idiolect import files
from idiolect.errors import Exit, UserError
from idiolect.runs import Run
from idiolect.train import checkpoint
from idiolect.train.checkpoint import Snapshot


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path / "run")
    with run.lock():
        yield run


def snapshot(step, loss=None):
    draw = torch.Generator().manual_seed(step)
    model = {
        "w": torch.randn(3, 5, generator=draw),
        "half": torch.randn(7, generator=draw).to(torch.bfloat16),
        "count": torch.tensor(step),
        "none": torch.zeros(0, 2),
    }
    optimizer = {"w.moment": torch.randn(5, 3, generator=draw).double().t(), "on": torch.tensor([True, False])}
    about = {"data": "sha-1"} if loss is None else {"data": "sha-1", "validation_loss": loss}
    return Snapshot(step, model, optimizer, {"best": 0.1 + 0.2, "list": [1, None, "x"]}, about)


def save(run, step, loss=None, keep=2, reason="interval"):
    return checkpoint.save(run, snapshot(step, loss), reason=reason, keep=keep)


def equal(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def assert_is(found, step):
    expected = snapshot(step)
    assert found.step == step and found.memory == expected.memory and found.about["data"] == "sha-1"
    assert equal(found.model, expected.model) and equal(found.optimizer, expected.optimizer)


def damage(run, step, name="model.safetensors"):
    path = run.checkpoint(step) / name
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


# Exact


def test_what_is_saved_comes_back_to_the_bit(run):
    save(run, 40)
    assert_is(checkpoint.newest(run), 40)
    assert_is(checkpoint.peek(run, 40), 40)


def test_the_layout_is_readable_by_others(run):
    folder = save(run, 40, reason="SIGTERM")
    assert sorted(os.listdir(folder)) == ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["count", "half", "none", "w"]
    manifest, state = (json.loads((folder / name).read_text()) for name in ("manifest.json", "state.json"))
    assert (manifest["step"], manifest["reason"]) == (state["step"], state["reason"]) == (40, "SIGTERM")
    assert state["environment"]["torch"] == torch.__version__


def test_tied_weights_are_saved_under_both_names(run):
    tied = torch.arange(6.0).reshape(2, 3)
    checkpoint.save(run, Snapshot(1, {"a": tied, "b": tied, "c": tied[1]}, {}, {}, {}), reason="x", keep=1)
    found = checkpoint.newest(run).model
    assert torch.equal(found["a"], tied) and torch.equal(found["b"], tied) and torch.equal(found["c"], tied[1])


def test_numbers_that_json_cannot_hold_are_our_bug_and_leave_nothing(run):
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.save(run, Snapshot(1, {}, {}, {"best": float("inf")}, {}), reason="x", keep=1)
    assert os.listdir(run.checkpoints) == []


def test_nothing_saved_is_none(run):
    assert checkpoint.newest(run) is None


def test_metrics_reach_the_disk_before_the_checkpoint_that_counts_on_them(run, monkeypatch):
    run.append_metrics({"step": 40})
    order = []
    monkeypatch.setattr(files, "sync_file", lambda path: order.append(path.name))
    save(run, 40)
    assert order[0] == "metrics.jsonl" and "model.safetensors" in order


# Which stay


def test_the_newest_and_the_best_stay(run):
    for step, loss in ((10, 3.0), (20, 1.5), (30, 2.0), (40, None), (50, 1.9), (60, 1.8)):
        save(run, step, loss)
    assert run.steps() == [20, 50, 60]


@pytest.mark.parametrize("part", ["model", "optimizer"])
@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@pytest.mark.parametrize("how", [save, lambda run, step: checkpoint.save_aside(run, snapshot(step), reason="diverged")])
def test_a_number_that_is_not_finite_is_never_saved(run, monkeypatch, part, bad, how):
    save(run, 1)
    made = snapshot(2)
    name = {"model": "half", "optimizer": "w.moment"}[part]
    getattr(made, part)[name][1] = bad
    monkeypatch.setitem(globals(), "snapshot", lambda step, loss=None: made)
    with pytest.raises(UserError, match=f"step 2: {name} holds a number that is not finite") as error:
        how(run, 2)
    assert error.value.code is Exit.DIVERGED
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-1"]


def test_what_is_saved_aside_counts_for_nothing_until_it_is_called_a_step(run):
    for step, loss in ((1, 3.0), (2, 2.0), (3, 2.5)):
        save(run, step, loss)
    aside = checkpoint.save_aside(run, snapshot(4, 1.0), reason="step 5: diverged")
    checkpoint.save_aside(run, snapshot(4, 1.0), reason="step 5: diverged again")
    assert aside.name == "diverged-step-4" and json.loads((aside / "state.json").read_text())["reason"].endswith(
        "again"
    )
    assert_is(checkpoint.newest(run), 3)
    save(run, 5, 2.7)
    assert run.steps() == [2, 3, 5] and aside.is_dir()
    aside.rename(run.checkpoint(4))
    assert_is(checkpoint.load(run, 4), 4)


def test_of_two_equally_good_the_first_stays(run):
    for step in (10, 20, 30, 40):
        save(run, step, 1.0, keep=1)
    assert run.steps() == [10, 40]


def test_older_ones_go_only_after_the_new_one_stands(run, monkeypatch):
    save(run, 10)
    save(run, 20)
    seen, real = [], files.put_in_place

    def watch(temporary, target):
        seen.append(run.steps())
        real(temporary, target)
        seen.append(run.steps())

    monkeypatch.setattr(files, "put_in_place", watch)
    save(run, 30)
    assert seen == [[10, 20], [10, 20, 30]] and run.steps() == [20, 30]


def test_a_checkpoint_just_saved_stays_though_others_have_higher_steps(run):
    for step in (20, 30):
        save(run, step)
    save(run, 10)
    assert run.steps() == [10, 20, 30]


def test_a_step_can_be_saved_again(run):
    save(run, 10, reason="interval")
    save(run, 10, reason="SIGTERM")
    assert json.loads((run.checkpoint(10) / "state.json").read_text())["reason"] == "SIGTERM"
    assert os.listdir(run.checkpoints) == ["step-10"]


# Which is read


def test_the_newest_is_that_of_the_highest_step_whatever_the_clock_says(run):
    for step in (9, 10):
        save(run, step)
    os.utime(run.checkpoint(9), (4e9, 4e9))
    os.utime(run.checkpoint(10), (1, 1))
    assert checkpoint.newest(run).step == 10


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_one_is_named_set_aside_and_the_one_before_is_used(run, name):
    for step in (30, 40):
        save(run, step)
    damage(run, 40, name)
    data = (run.checkpoint(40) / name).read_bytes()
    with pytest.warns(UserWarning, match=rf"step-40.{name} was changed or damaged.*; using step-30"):
        assert_is(checkpoint.newest(run), 30)
    assert (run.checkpoints / "damaged-step-40" / name).read_bytes() == data
    save(run, 40)
    damage(run, 40, name)
    with pytest.warns(UserWarning, match="using step-30"):
        checkpoint.newest(run)
    assert sorted(os.listdir(run.checkpoints)) == ["damaged-step-40", "damaged-step-40-1", "step-30"]


def test_when_all_are_damaged_the_run_starts_anew_and_says_so(run):
    save(run, 30)
    (run.checkpoint(30) / "manifest.json").unlink()
    with pytest.warns(UserWarning, match=r"step-30 has no manifest\.json; starting at step 0"):
        assert checkpoint.newest(run) is None
    assert os.listdir(run.checkpoints) == ["damaged-step-30"]


def test_a_reader_without_the_lock_changes_nothing(tmp_path):
    run = Run.create(tmp_path / "run")
    with run.lock():
        for step in (30, 40):
            save(run, step)
    damage(run, 40)
    (run.checkpoints / ".partial-step-50-1").mkdir()
    before = sorted(os.listdir(run.checkpoints))
    with pytest.warns(UserWarning, match="using step-30"):
        assert_is(checkpoint.newest(Run(run.folder)), 30)
    assert sorted(os.listdir(run.checkpoints)) == before


def test_the_writer_clears_what_a_killed_save_left(run):
    save(run, 30)
    shutil.copytree(run.checkpoint(30), run.checkpoints / ".partial-step-40-1")
    assert_is(checkpoint.newest(run), 30)
    assert os.listdir(run.checkpoints) == ["step-30"]


def test_a_step_asked_for_is_refused_when_damaged_or_absent(run):
    for step in (30, 40):
        save(run, step)
    damage(run, 40)
    for step, message in ((40, r"model\.safetensors was changed or damaged"), (50, "has no checkpoint step-50")):
        with pytest.raises(UserError, match=message) as caught:
            checkpoint.load(run, step)
        assert caught.value.code is Exit.BAD_INPUT
    assert caught.value.mend == "there is: step-30, step-40" and run.steps() == [30, 40]


def test_going_on_from_an_older_one_sets_the_later_ones_aside(run):
    for step in (10, 20, 30):
        save(run, step, keep=3)
    assert_is(checkpoint.load(run, 10), 10)
    assert sorted(os.listdir(run.checkpoints)) == ["later-step-20", "later-step-30", "step-10"]
    assert checkpoint.newest(run).step == 10


def test_a_renamed_checkpoint_is_not_believed(run):
    save(run, 30)
    run.checkpoint(30).rename(run.checkpoint(90))
    with pytest.raises(UserError, match="not a checkpoint of step 90"):
        checkpoint.newest(run)


def test_a_newer_format_is_refused_and_not_passed_over(run, monkeypatch):
    save(run, 30)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    save(run, 40)
    monkeypatch.undo()
    with pytest.raises(UserError, match="in format 1"):
        checkpoint.newest(run)
    assert run.steps() == [30, 40]


def test_another_version_of_torch_is_told_and_no_obstacle(run, monkeypatch):
    now = checkpoint.environment()
    monkeypatch.setattr(checkpoint, "environment", lambda: now | {"torch": "2.0.0"})
    save(run, 30)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=rf"not bit-exact: torch 2\.0\.0 → {torch.__version__[:5]}"):
        assert checkpoint.newest(run).step == 30
    save(run, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.newest(run)


# A disk that refuses


def failing_save(monkeypatch, errors):
    """The next calls of save_file raise these errors, as safetensors does."""
    real = checkpoint.save_file

    def save_file(tensors, path):
        if errors:
            raise OSError(errors.pop(0), "refused")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", save_file)


def test_on_a_full_disk_what_would_go_next_goes_first(run, monkeypatch):
    for step in (10, 20, 30):
        save(run, step, loss=step / 10, keep=3)
    (run.checkpoints / ".partial-old").write_text("x")
    failing_save(monkeypatch, [28])
    save(run, 40, keep=3)
    assert sorted(os.listdir(run.checkpoints)) == ["step-10", "step-20", "step-30", "step-40"]  # 10 is the best
    failing_save(monkeypatch, [28])
    save(run, 50, keep=3)
    assert run.steps() == [10, 30, 40, 50]


def test_on_a_disk_that_stays_full_the_newest_and_the_best_remain_whole(run, monkeypatch):
    for step, loss in ((10, 1.0), (20, 2.0), (30, 2.0)):
        save(run, step, loss, keep=2)
    failing_save(monkeypatch, [28, 28])
    with pytest.raises(files.Full) as caught:
        save(run, 40, keep=2)
    assert caught.value.code is Exit.CANNOT_WRITE
    assert sorted(os.listdir(run.checkpoints)) == ["step-10", "step-30"]
    assert_is(checkpoint.newest(run), 30)


def test_older_ones_stay_on_a_full_disk_when_the_newest_is_damaged(run, monkeypatch):
    for step in (20, 30):
        save(run, step)
    damage(run, 30)
    failing_save(monkeypatch, [28, 28])
    with pytest.raises(files.Full):
        save(run, 40)
    assert run.steps() == [20, 30]


def test_a_disk_that_fails_once_is_tried_again_and_costs_no_older_one(run, monkeypatch):
    for step in (20, 30):
        save(run, step)
    failing_save(monkeypatch, [5, 5])
    with pytest.raises(UserError) as caught:
        save(run, 40)
    assert caught.value.code is Exit.CANNOT_WRITE and run.steps() == [20, 30]
    failing_save(monkeypatch, [5])
    save(run, 40)
    assert run.steps() == [30, 40]


# Whether it fits


def test_what_changed_is_named_with_both_fingerprints_and_may_be_accepted():
    saved, now = {"data": "aaa", "tokenizer": "t"}, {"data": "bbb", "tokenizer": "t"}
    assert checkpoint.check_unchanged(saved, dict(saved)) == []
    with pytest.raises(UserError, match=r"data aaa → bbb\n") as caught:
        checkpoint.check_unchanged(saved, now)
    assert caught.value.code is Exit.BAD_INPUT and "--accept-change" in caught.value.mend
    assert checkpoint.check_unchanged(saved, now, accept=True) == ["data aaa → bbb"]


def test_the_checkpoint_of_another_model_is_refused_before_anything_is_loaded():
    saved, model = nn.Linear(3, 5).state_dict(), nn.Linear(3, 7)
    checkpoint.check_tensors(nn.Linear(3, 7).state_dict(), model.state_dict(), "step-1")
    with pytest.raises(UserError, match="step-1 is of another model") as caught:
        checkpoint.check_tensors(saved, model.state_dict(), "step-1")
    assert "weight is float32[5, 3], not float32[7, 3]" in caught.value.what
    other = {"wieght": saved["weight"].double(), "bias": model.bias.double()}
    with pytest.raises(UserError) as caught:
        checkpoint.check_tensors(other, model.state_dict(), "step-1")
    assert caught.value.what == (
        'step-1 is of another model: weight is missing (did you mean "wieght"?); wieght is not known; '
        "bias is float64[7], not float32[7]"
    )
