"""Every lesson runs as its first lines say, from any folder, and prints what it promises."""

import os
import subprocess
import sys
from pathlib import Path

import idiolect

LESSONS = Path(__file__).parents[2] / "examples" / "lessons"


def run(name, folder, *arguments):
    """What the lesson prints."""
    done = subprocess.run(
        [sys.executable, str(LESSONS / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(idiolect.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_lesson_has_a_test():
    assert {p.name for p in LESSONS.glob("*.py")} <= {
        "autodiff.py",
        "counting.py",
        "dna.py",
        "hidden_layer.py",
        "graph.py",
        "senses.py",
    }


def test_autodiff(tmp_path):
    printed = run("autodiff.py", tmp_path)
    assert "CrossEntropy → Softmax → Linear → Sigmoid → Linear" in printed
    for line in printed.splitlines()[2:]:
        assert line.split()[1] == line.split()[4]  # by backward, by steps


def test_hidden_layer(tmp_path):
    lines = run("hidden_layer.py", tmp_path, "report.html").splitlines()
    assert lines[0].split() == ["epoch", "train", "test"] and len(lines) == 32
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_counting(tmp_path):
    printed = run("counting.py", tmp_path)
    assert [line.split()[:3] for line in printed.splitlines()[1:3]] == [
        ["corn", "4", "0.3636"],
        ["grass", "3", "0.2727"],
    ]


def test_graph(tmp_path):
    printed = run("graph.py", tmp_path, "graph.svg")
    assert printed.splitlines()[-1].split() == ["J", "loss", "cross_entropy", "of", "b,", "y"]
    assert (tmp_path / "graph.svg").read_text(encoding="utf-8").startswith("<svg")


def test_senses(tmp_path):
    printed = run("senses.py", tmp_path, ".")
    assert "16 frames of 16 numbers: a " in printed
    assert len((tmp_path / "tones.jsonl").read_text().splitlines()) == 3000
