"""What a user can get wrong: two lines of what and how to mend, the exit code, nothing half-written."""

import json

import pytest

from idiolect.cli import run
from idiolect.errors import Exit

TEXT = "It was the best of times, it was the worst of times; it was the age of wisdom.\n" * 40


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def refused(capsys, arguments, code=Exit.BAD_INPUT):
    """The two lines that a refused command prints; it prints nothing else and no traceback."""
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert lines[-2].startswith("error: ") and lines[-1].startswith("  mend: "), err
    assert "Traceback" not in err
    return lines[-2], lines[-1]


SMALL = ["tokenizer.kind=byte", "model.width=16", "model.context=16", "train.steps=2", "train.batch_tokens=64"]


@pytest.fixture
def trained(here):
    assert run(["train", "gpt", "data.train=text.txt", *SMALL, "-o", "run"]) == 0
    return here / "run"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no text"),
        (b" \n\n ", "no text"),
        (b"\xff\xfe text", "UTF-8"),
    ],
    ids=["empty", "blank", "not UTF-8"],
)
def test_a_corpus_that_cannot_be_used(here, capsys, content, said):
    (here / "bad.txt").write_bytes(content)
    what, mend = refused(capsys, ["train", "gpt", "data.train=bad.txt", *SMALL, "-o", "run"])
    assert any(part in what + mend for part in said.split("|")), what + mend
    assert not (here / "run" / "model").exists()


def test_a_corpus_shorter_than_one_context(here, capsys):
    (here / "short.txt").write_text("too short a text")
    what, mend = refused(capsys, ["train", "gpt", "data.train=short.txt", "tokenizer.kind=byte", "-o", "run"])
    assert "context" in what and "model.context" in mend


def test_a_text_that_is_not_there(here, capsys):
    what, _ = refused(capsys, ["train", "gpt", "data.train=absent.txt", "-o", "run"])
    assert "absent.txt" in what


def test_an_unknown_key_offers_the_nearest_and_makes_no_folder(here, capsys):
    what, _ = refused(capsys, ["train", "gpt", "data.train=text.txt", "train.stepps=3", "-o", "run"])
    assert "train.stepps" in what and "steps" in what
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    "bad", ["train.learning_rate=nan", "train.learning_rate=inf", "train.steps=-1", "train.steps=2.5"]
)
def test_a_value_that_cannot_be(here, capsys, bad):
    what, _ = refused(capsys, ["train", "gpt", "data.train=text.txt", bad, "-o", "run"])
    assert bad.partition("=")[0] in what


def test_an_override_without_a_value(here, capsys):
    what, mend = refused(capsys, ["train", "gpt", "data.train", "-o", "run"])
    assert "data.train" in what and "=" in mend


def test_a_vocabulary_larger_than_the_text_supports_says_how_large_it_may_be(here, capsys):
    what, mend = refused(capsys, ["train", "gpt", "data.train=text.txt", "tokenizer.size=4000", "-o", "run"])
    assert "4000" in what and "tokenizer.size" in mend
    what, _ = refused(capsys, ["tokenizer", "train", "text.txt", "--size", "4000", "-o", "tok"])
    assert not (here / "tok").exists()


def test_a_prompt_longer_than_the_context_is_never_cut(trained, capsys):
    capsys.readouterr()
    what, _ = refused(capsys, ["generate", str(trained), "a prompt of more than sixteen bytes"])
    assert "16" in what


@pytest.mark.parametrize("verb", [["generate"], ["explore"], ["score"], ["export"]])
def test_a_model_that_is_not_there(here, capsys, verb):
    what, _ = refused(capsys, [*verb, "nowhere", "text"])
    assert "nowhere" in what


def test_a_damaged_model_names_the_file(trained, capsys):
    weights = trained / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    capsys.readouterr()
    what, _ = refused(capsys, ["generate", str(trained), "abc"])
    assert "model.safetensors" in what


def test_a_run_that_exists_is_never_overwritten(trained, capsys):
    capsys.readouterr()
    _, mend = refused(capsys, ["train", "gpt", "data.train=text.txt", *SMALL, "-o", str(trained)])
    assert "resume" in mend


def test_a_folder_with_other_things_in_it_is_left_alone(here, capsys):
    refused(capsys, ["train", "gpt", "data.train=text.txt", *SMALL, "-o", "."])
    assert {path.name for path in here.iterdir()} == {"text.txt"}


def test_resume_without_a_run(here, capsys):
    what, mend = refused(capsys, ["resume", "nothing"])
    assert "nothing" in what and "train" in mend


def test_more_memory_than_there_is(here, capsys):
    big = ["model.width=65536", "model.heads=64", "model.layers=80"]
    _, mend = refused(capsys, ["train", "gpt", "data.train=text.txt", *big, "-o", "run"], Exit.OUT_OF_MEMORY)
    assert "fit" in mend
    assert not (here / "run").exists()


def test_an_unknown_verb_and_an_unknown_option(here, capsys):
    assert "train" in refused(capsys, ["trian"])[0]
    assert "--temperatur" in refused(capsys, ["generate", "m", "p", "--temperatur", "1"])[0]
    assert "temperature" in refused(capsys, ["generate", "m", "p", "--temperature", "-1"])[0]


def test_a_disk_that_refuses(here, capsys):
    (here / "file").write_text("")
    refused(capsys, ["train", "gpt", "data.train=text.txt", *SMALL, "-o", "file/run"], Exit.CANNOT_WRITE)


def test_a_foreign_file_in_the_place_of_a_model(here, capsys):
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text("[1, 2")
    refused(capsys, ["generate", "model", "abc"])
    (here / "model" / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    assert "mamba" in refused(capsys, ["generate", "model", "abc"])[0]


def test_nothing_to_score(trained, capsys):
    capsys.readouterr()
    refused(capsys, ["score", str(trained), ""])
    refused(capsys, ["score", str(trained), "absent.txt", "--file"])


def test_an_arpa_file_that_is_none(here, capsys):
    assert "text.txt" in refused(capsys, ["import", "text.txt", "model"])[0]
    assert not (here / "model").exists()


def test_a_network_has_no_arpa_file(trained, capsys):
    capsys.readouterr()
    assert "n-gram" in refused(capsys, ["export", str(trained), "out.arpa", "--to", "arpa"])[0]
    assert "onnx" in refused(capsys, ["export", str(trained), "out", "--to", "onnx"])[0]


def test_names_that_no_system_takes(trained, capsys):
    capsys.readouterr()
    long = "x" * 9999
    assert "too long" in refused(capsys, ["runs", "show", long])[0]
    assert "too long" in refused(capsys, ["score", str(trained), long, "--file"])[0]
    assert "too long" in refused(capsys, ["export", str(trained), long])[0]


def test_a_name_that_is_not_utf_8_is_printed_as_it_can_be(trained, capsys):
    capsys.readouterr()
    assert run(["export", str(trained), "out\udcff", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "out\udcff" and "not UTF-8" in found["not_checked"]


def test_an_export_to_the_folder_one_is_in(trained, capsys, monkeypatch):
    capsys.readouterr()
    assert "holds checkpoints, which is not known" in refused(capsys, ["export", str(trained), str(trained)])[0]
    (trained.parent / "empty").mkdir()
    monkeypatch.chdir(trained.parent / "empty")
    assert run(["export", str(trained), ""]) == 0
    assert (trained.parent / "empty" / "config.json").exists()


def test_one_damaged_run_does_not_hide_the_others(trained, capsys):
    (trained.parent / "other").mkdir()
    (trained.parent / "other" / "recipe.toml").write_text("model = 3")
    capsys.readouterr()
    assert run(["runs", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["run"]: row["state"] for row in found["rows"]} == {"other": "damaged", "run": "finished"}
    assert len(found["notes"]) == 1 and "other/recipe.toml" in found["notes"][0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plan.json", "{}"),
        ("plan.json", "[1]"),
        ("plan.json", '{"fingerprints": 3}'),
        ("metrics.jsonl", '{"step": "x"}'),
    ],
)
def test_what_a_run_goes_on_with_is_not_what_it_wrote(trained, capsys, name, text):
    (trained / name).write_text(text)
    capsys.readouterr()
    assert name in refused(capsys, ["resume", str(trained)])[0]
