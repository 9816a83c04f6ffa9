import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from idiolect import api, cli, devices
from idiolect.cli import run, show
from idiolect.evaluate.score import score_text
from idiolect.interop.folder import find, load
from idiolect.models.settings import DecoderSettings
from idiolect.plan import limits
from idiolect.plan.flops import flops_per_token
from idiolect.plan.parameters import count
from idiolect.recipes import bench

TEXT = "".join(
    f"The number {n} is {'even' if n % 2 == 0 else 'odd'}, and {n + 1} comes after it.\n" for n in range(400)
)
SMALL = ["tokenizer.size=300", "model.width=16", "model.context=16", "train.steps=4", "train.batch_tokens=64"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A trained decoder and a trained 5-gram over the same text."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_text(TEXT)
    text = f"data.train={folder / 'text.txt'}"
    assert run(["train", "gpt", text, *SMALL, "-o", str(folder / "gpt")]) == 0
    assert run(["train", "ngram", text, SMALL[0], "-o", str(folder / "ngram")]) == 0
    return folder


def printed(capsys, *arguments):
    """The one JSON object that a verb prints with --json."""
    assert run([*map(str, arguments), "--json"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    return json.loads(out)


def test_every_verb_of_the_command_line_is_a_function_of_the_api():
    for name in api.VERBS:
        assert callable(getattr(api, name))
    with pytest.raises(AttributeError):
        _ = api.no_such_verb


def test_every_verb_has_a_function_and_help(capsys):
    for verb in cli.VERBS:
        for name in [[verb, sub] for sub in cli.GROUPS[verb]] if verb in cli.GROUPS else [[verb]]:
            assert run([*name, "--help"]) == 0
            assert "Usage" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "idiolect", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "quickstart" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported.isdisjoint({"torch", "numpy", "pydantic", "tokenizers"})


def test_train_prints_the_keys_others_rely_on(runs, tmp_path, capsys):
    out = printed(capsys, "train", "lstm", f"data.train={runs / 'text.txt'}", *SMALL, "-o", tmp_path / "run")
    assert {"run", "model", "steps", "tokens", "tokens_per_second", "peak_memory_bytes"} <= out.keys()
    assert {"loss", "bits_per_byte"} <= out["validation"].keys()
    assert out["steps"] == 4 and out["tokens"] > 0


def test_generate_streams_what_it_returns(runs, capsys):
    options = ["--max-tokens", "12", "--seed", "3"]
    for family in ("gpt", "ngram"):
        found = printed(capsys, "generate", runs / family, "The number", *options)
        assert {"text", "ids", "logprobs", "finish_reason"} <= found.keys()
        assert len(found["ids"]) == len(found["logprobs"]) <= 12
        assert run(["generate", str(runs / family), "The number", *options]) == 0
        assert capsys.readouterr().out == f"The number{found['text']}\n"


def test_several_continuations_differ_and_the_first_is_the_only_one(runs, capsys):
    several = printed(capsys, "generate", runs / "ngram", "The", "--count", "3", "--max-tokens", "9")["completions"]
    one = printed(capsys, "generate", runs / "ngram", "The", "--max-tokens", "9")
    assert several[0]["ids"] == one["ids"]
    assert len({tuple(c["ids"]) for c in several}) > 1


def test_score_adds_up(runs, capsys):
    found = printed(capsys, "score", runs / "ngram", "The number 7 is odd")
    assert found["first_scored"] and found["tokens"] == len(found["ids"])
    assert found["logprob"] == pytest.approx(sum(found["logprobs"]))
    assert found["bits_per_byte"] == pytest.approx(-found["logprob"] / 19 / 0.6931471805599453)


def test_precision_rounds_a_networks_weights_and_nothing_by_default(runs, capsys):
    text = "The number 7 is odd"
    loaded = load(find(runs / "gpt"))
    stored = score_text(loaded.model, loaded.tokenizer, text).logprob
    rounded = score_text(loaded.model.bfloat16(), loaded.tokenizer, text).logprob
    assert stored != rounded == pytest.approx(stored, rel=0.02)
    options = ["--precision", "fp32"], ["--precision", "bf16"]
    for more, expected in (([], stored), (options[0], stored), (options[1], rounded)):
        assert printed(capsys, "score", runs / "gpt", text, *more)["logprob"] == pytest.approx(expected, rel=1e-6)
    verbs = [
        ("generate", runs / "gpt", "The number", "--max-tokens", "5", "--temperature", "0"),
        ("explore", runs / "gpt", "The number", "--max-tokens", "5"),
        ("evaluate", runs / "gpt", "--on", runs / "text.txt"),
    ]
    for arguments in verbs:
        plain, same, half = (printed(capsys, *arguments, *more) for more in ([], *options))
        assert plain == same != half
    assert run(["score", str(runs / "ngram"), text, "--precision", "bf16"]) == 2
    assert "no precision" in capsys.readouterr().err


def test_score_reads_a_file_and_standard_input(runs, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("The number 7 is odd")
    from_file = printed(capsys, "score", runs / "ngram", tmp_path / "t.txt", "--file")
    assert from_file["logprob"] == printed(capsys, "score", runs / "ngram", "The number 7 is odd")["logprob"]


def test_evaluate_prints_the_keys_others_rely_on(runs, capsys):
    found = printed(capsys, "evaluate", runs / "ngram", "--on", runs / "text.txt")
    assert {"bits_per_byte", "perplexity", "tokens", "bytes", "metrics"} <= found.keys()
    assert found["bytes"] == len(TEXT)


def test_runs_compare_fails_when_a_network_does_not_beat_gzip(runs, capsys):
    assert run(["runs", "compare", str(runs / "ngram")]) == 0
    assert run(["runs", "compare", str(runs / "gpt"), str(runs / "ngram")]) == 8
    out, err = capsys.readouterr()
    assert "ngram" in out and "gzip" in err


def test_runs_list_show_and_plot(runs, tmp_path, capsys):
    rows = printed(capsys, "runs", "list", runs)["rows"]
    assert [row["family"] for row in rows] == ["decoder", "ngram"]
    assert printed(capsys, "runs", "show", runs / "gpt")["step"] == 4
    assert run(["runs", "plot", str(runs / "gpt"), "-o", str(tmp_path / "curves.html")]) == 0
    assert "<svg" in (tmp_path / "curves.html").read_text()


def test_tokenizer_round_trip_and_comparison(runs, tmp_path, capsys):
    text = runs / "text.txt"
    assert printed(capsys, "tokenizer", "train", text, "-o", tmp_path / "tok", "--size", "300")["size"] == 300
    ids = printed(capsys, "tokenizer", "encode", tmp_path / "tok", "odd <|endoftext|> 漢")["ids"]
    assert 0 not in ids
    assert run(["tokenizer", "decode", str(tmp_path / "tok"), *map(str, ids)]) == 0
    assert capsys.readouterr().out == "odd <|endoftext|> 漢\n"
    rows = printed(capsys, "tokenizer", "compare", text, "--size", "300")["rows"]
    assert [row["kind"] for row in rows] == ["word", "char", "byte", "bpe", "wordpiece", "unigram"]


def test_plan_says_what_a_recipe_needs(capsys):
    found = printed(capsys, "plan", "gpt3-small")
    assert found["parameters"] == pytest.approx(125.2e6, rel=0.01) and found["saved_as"] == "gpt2"
    assert found["memory_bytes"]["total"] > 16 * found["parameters"]
    assert printed(capsys, "plan", "gpt")["saved_as"] == "llama"
    assert printed(capsys, "plan", "lstm")["saved_as"] == "idiolect-lstm"
    assert printed(capsys, "plan", "lstm", "task.kind=tags")["saved_as"] == "idiolect-labels"


def test_plan_counts_what_the_process_holds_and_the_arithmetic_the_run_would_choose(capsys, monkeypatch):
    rates = {"fp32": 1.0, "bf16": 1.0, "fp16": 1.0}
    monkeypatch.setattr(devices, "race", lambda device: rates)
    monkeypatch.setattr(devices, "choose", lambda name: "cpu")
    plain = printed(capsys, "plan", "gpt")
    rates["bf16"] = 2.0
    mixed = printed(capsys, "plan", "gpt")
    assert mixed["memory_bytes"]["activations"] < plain["memory_bytes"]["activations"]
    assert printed(capsys, "plan", "gpt", "train.precision=fp32")["memory_bytes"] == plain["memory_bytes"] | {
        key: pytest.approx(plain["memory_bytes"][key], rel=0.2) for key in ("process", "total")
    }
    held = plain["memory_bytes"]["process"]
    assert held > 50e6 and plain["memory_available_bytes"] > held


def test_an_ngram_goes_out_as_arpa_and_comes_back(runs, tmp_path, capsys):
    words = ["tokenizer.kind=word", f"data.train={runs / 'text.txt'}", "data.document=line"]
    assert run(["train", "ngram", *words, "-o", str(tmp_path / "words")]) == 0
    assert run(["export", str(tmp_path / "words"), str(tmp_path / "m.arpa"), "--to", "arpa"]) == 0
    assert run(["import", str(tmp_path / "m.arpa"), str(tmp_path / "back")]) == 0
    capsys.readouterr()
    text = "The number 12 is even , and 13 comes zzz it ."
    ours, back = (printed(capsys, "score", tmp_path / name, text) for name in ("words", "back"))
    assert back["logprob"] == pytest.approx(ours["logprob"], rel=1e-6)


def test_export_hf_is_the_same_model(runs, tmp_path, capsys):
    assert run(["export", str(runs / "gpt"), str(tmp_path / "hf")]) == 0
    capsys.readouterr()
    one, other = (printed(capsys, "score", path, "The number 9") for path in (runs / "gpt", tmp_path / "hf"))
    assert one == other


def test_explore_shows_strategies_and_ranks_candidates(runs, tmp_path, capsys):
    page = tmp_path / "e.html"
    arguments = ["explore", runs / "ngram", "The number 8 is", "--candidates", "even", "--candidates", "purple"]
    found = printed(capsys, *arguments, "--html", page, "--max-tokens", "6")
    assert {"greedy", "ancestral", "top-k 8"} <= found["strategies"].keys()
    assert [c["text"] for c in found["candidates"]] == ["even", "purple"]
    assert "<svg" in page.read_text()


def test_doctor_tells_what_will_be_used(capsys):
    found = printed(capsys, "doctor")
    assert found["precision"] in ("fp32", "bf16", "fp16") and found["cores"] >= 1


def test_bench_prints_limits_and_speeds(capsys, monkeypatch):
    small = {"layers": 1, "heads": 2, "width": 16, "context": 24}
    monkeypatch.setattr(limits, "SHAPES", {"cpu": ((32, 32, 32),)})
    for module, names in {
        limits: {"SECONDS": 0.0, "BYTES": 1 << 20},
        bench: {"TEXT": 30_000, "VOCABULARY": 300, "COUNTED": 500, "SCORED": 50, "STEPS": 3, "PROMPT": 5, "NEW": 6}
        | {"TRAINED": DecoderSettings(**small), "DECODED": DecoderSettings(**small)},
    }.items():
        for name, value in names.items():
            monkeypatch.setattr(module, name, value)
    found = printed(capsys, "bench")
    assert {"device", "hardware", "threads", "torch", "limits"} <= found.keys()
    assert found["limits"]["matmul_flops"]["fp32"] > 0 and found["limits"]["read_bytes"] > 0
    training, decoding, ngram = found["training"], found["decoding"], found["ngram"]
    work = flops_per_token(DecoderSettings(**small), 300).total
    peak = found["limits"]["matmul_flops"][training["precision"]]
    assert training["mfu"] == pytest.approx(work * training["tokens_per_second"] / peak)
    held = 4 * count(DecoderSettings(**small), 300).total
    assert decoding["weight_bytes"] == held
    rate = decoding["tokens_per_second"] * held / found["limits"]["read_bytes"]
    assert decoding["share_of_bandwidth"] == pytest.approx(rate)
    assert found["tokenising"]["bytes_per_second"] > 0
    assert ngram["counted_tokens_per_second"] > 0 and ngram["scored_tokens_per_second"] > 0
    assert run(["bench"]) == 0
    out = capsys.readouterr().out
    for words in ("matrix products, fp32", "memory, read", "training a small", "text to shards", "scoring by 5-grams"):
        assert words in out


def test_recipes_list_and_show(capsys, tmp_path):
    listed = printed(capsys, "recipes", "list")
    assert {"ngram", "rnn", "lstm", "gru", "gpt", "gpt3-small"} <= listed.keys()
    assert run(["recipes", "show", "gpt"]) == 0
    (tmp_path / "mine.toml").write_text(capsys.readouterr().out)
    assert run(["plan", str(tmp_path / "mine.toml")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_the_resumed_end_is_the_same(runs, tmp_path, number):
    overrides = [f"data.train={runs / 'text.txt'}", *SMALL[:3], "train.steps=400", "train.batch_tokens=64"]
    overrides += [
        "train.threads=1",
        "sample.every=0",
        "validation.every=0",
        "checkpoint.every=1000",
        "train.compile=no",
    ]
    whole = api.train("gpt", overrides, tmp_path / "whole")
    command = [sys.executable, "-m", "idiolect"]
    process = subprocess.Popen(
        [*command, "train", "gpt", *overrides, "-o", str(tmp_path / "cut")], stderr=subprocess.PIPE
    )
    metrics = tmp_path / "cut" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > 300):
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert b"Traceback" not in err and number.name.encode() in err
    saved = [int(path.name.removeprefix("step-")) for path in (tmp_path / "cut" / "checkpoints").iterdir()]
    assert len(saved) == 1 and 0 < saved[0] < 400
    state = json.loads((tmp_path / "cut" / "checkpoints" / f"step-{saved[0]}" / "state.json").read_text())
    assert state["reason"] == number.name
    assert subprocess.run([*command, "resume", str(tmp_path / "cut")], capture_output=True).returncode == 0
    one, other = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == other and whole["steps"] == 400


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused_at_once(runs, tmp_path):
    text = f"data.train={runs / 'text.txt'}"
    command = [sys.executable, "-m", "idiolect"]
    first = subprocess.Popen(
        [
            *command,
            "train",
            "gpt",
            text,
            *SMALL[:3],
            "train.steps=100000",
            "track.log_every=1",
            "-o",
            str(tmp_path / "run"),
        ],
        stderr=subprocess.DEVNULL,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while first.poll() is None and not metrics.exists():
        time.sleep(0.01)
    second = subprocess.run([*command, "resume", str(tmp_path / "run")], capture_output=True, text=True)
    assert second.returncode == 3 and str(first.pid) in second.stderr
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    third = subprocess.Popen([*command, "resume", str(tmp_path / "run")], stderr=subprocess.PIPE)
    before = metrics.stat().st_mtime_ns  # it empties the file, and is ready for signals before it writes again
    while third.poll() is None and (metrics.stat().st_mtime_ns == before or not metrics.stat().st_size):
        time.sleep(0.01)
    third.send_signal(signal.SIGTERM)
    third.communicate(timeout=60)
    assert third.returncode == 75


def test_a_bug_of_ours_keeps_the_traceback_in_a_file(monkeypatch, capsys):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(show, "facts", broken)
    assert run(["doctor"]) == 1
    err = capsys.readouterr().err
    assert "boom" in err and "Traceback" not in err
    kept = Path(next(word for word in err.split() if word.strip(",").endswith(".txt")).strip(","))
    assert "ZeroDivisionError" in kept.read_text()
    kept.unlink()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_memory_that_runs_out_anywhere_is_told_in_two_lines(monkeypatch, capsys, error):
    def hungry(*args, **kwargs):
        raise error

    monkeypatch.setattr(show, "facts", hungry)
    assert run(["doctor"]) == 7
    assert capsys.readouterr().err.startswith("error: out of memory\n  mend: ")


def test_ctrl_c_before_there_is_anything_to_resume(monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(show, "facts", interrupted)
    assert run(["doctor"]) == 130
    assert "Traceback" not in capsys.readouterr().err
