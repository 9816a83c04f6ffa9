"""A file that changed since it was written is noticed before anything of it is used, whatever changed."""

import os
import random
import shutil

import pytest
from sizes import CHANGE, at_each_size, number_of
from writers import WRITERS, Wrong

from idiolect import files
from idiolect.errors import UserError

HASHED = ["Folder", "Checkpoints", "Model", "Vocabulary", "Encoded", "Packed", "Kernel"]
MADE_AGAIN = ["Encoded", "Packed", "Kernel"]
"""What is damaged of these is not refused but made again."""


def change(data, draw):
    """One flipped bit, one zeroed page, or a shorter file; None when that changes nothing."""
    out, kind = bytearray(data), draw.random()
    if kind < 0.5 and out:
        out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    elif kind < 0.75:
        page = draw.choice([16, 512, 4096])
        start = draw.randrange(0, len(out) + 1, page)
        out[start : start + page] = bytes(len(out[start : start + page]))
    else:
        del out[draw.randrange(len(out) + 1) :]
    return None if out == data else bytes(out)


def artefact(name, root):
    if name in ("Encoded", "Packed"):
        return next(root.glob("shards/*"))
    return root / WRITERS[name].artefact


def noticed(name, root, path, before):
    """Whether the reader refuses, or makes what is missing anew, or falls back to an older one."""
    writer = WRITERS[name]
    try:
        version = writer.read(root)
    except UserError:
        return True
    except Wrong:
        return False
    if name in MADE_AGAIN:
        return path.read_bytes() == before
    return name == "Checkpoints" and version == max(writer.versions) - 1


def damage(name, tmp_path, number, seed):
    """Changes one file of what a writer made, again and again; returns how many files there were."""
    writer, draw, done = WRITERS[name], random.Random(seed), 0
    root, copy = tmp_path / "root", tmp_path / "copy"
    root.mkdir()
    for version in writer.versions[:1] if name == "Encoded" else writer.versions:
        writer.write(root, version)
    shutil.copytree(root, copy)
    paths = sorted(p.relative_to(root) for p in artefact(name, root).rglob("*") if p.is_file() and p.name != "lock")
    while done < number:
        path = draw.choice(paths)
        before = (copy / path).read_bytes()
        after = change(before, draw)
        if after is None:
            continue
        (root / path).write_bytes(after)
        assert noticed(name, root, root / path, before), f"seed {seed}, {path}: {before!r} became {after!r}"
        shutil.rmtree(root)
        shutil.copytree(copy, root)
        done += 1
    return len(paths)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@at_each_size
@pytest.mark.parametrize("name", HASHED)
def test_every_change_is_noticed(tmp_path, monkeypatch, record, name, size):
    monkeypatch.setattr(files.os, "fsync", lambda handle: None)
    number = number_of("corruptions", size, len(HASHED))
    found = damage(name, tmp_path, number, seed=1 if size == CHANGE else int.from_bytes(os.urandom(4)))
    record("corruptions", name, changes=number, files=found, unnoticed=0)


def test_the_test_itself_sees_damage_that_is_not_noticed(tmp_path, monkeypatch, record):
    monkeypatch.setattr(files, "_problem", lambda path, folder, entry: None)
    with pytest.raises(AssertionError, match="became"):
        damage("Folder", tmp_path, 600, seed=1)
    record("mutants", "files are not compared with their hashes", caught_by="a change that is not noticed")
