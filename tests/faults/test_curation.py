"""A curation that is killed again and again ends with the bytes of one that was not."""

import random
import subprocess
import time

import pytest

from idiolect import files
from tests.text.test_curate import command, contents, heap, prose

KILLS = 20


@pytest.mark.slow
def test_kills_at_random_leave_the_bytes_as_they_are(tmp_path, record):
    """Each life, by turns of one and of two processes, is killed after a random time; the last is let go to its end."""
    folder = heap(tmp_path / "heap", [{"text": prose(n)} for n in range(1000, 2000)])
    (folder / "more.txt").write_text("\n".join(prose(n, 40) for n in range(5000, 5400)))
    began = time.monotonic()
    whole = subprocess.run(command(folder, "-o", tmp_path / "whole", "--workers", 2), stderr=subprocess.DEVNULL)
    assert whole.returncode == 0
    most, draw, killed, inside = time.monotonic() - began, random.Random(7), 0, 0
    asked = command(folder, "-o", tmp_path / "corpus")
    for _ in range(3 * KILLS):
        if killed == KILLS:
            break
        process = subprocess.Popen([*asked, "--workers", str(1 + killed % 2)], stderr=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(0.3, 1.0) * most)
            assert process.returncode == 0
            files.remove_folder(tmp_path / "corpus")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
            inside += any((tmp_path / ".curating-corpus").rglob(f"{files.TEMPORARY}*"))
    assert killed == KILLS
    assert subprocess.run(asked, stderr=subprocess.DEVNULL).returncode == 0
    assert contents(tmp_path / "corpus") == contents(tmp_path / "whole")
    record("kills of commands", "curate", kills=killed, inside=inside)
