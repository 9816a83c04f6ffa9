"""Frames from rows of numbers and from .npy files, and what is refused."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch

from idiolect.data import frames
from idiolect.errors import UserError

THREE = [[1, 2.5], [0, -1], [3, 4]]


def rows(folder, *values, name="rows.jsonl"):
    (folder / name).write_text("".join(json.dumps(value) + "\n" for value in values))
    return [folder / name]


def test_frames_are_lists_of_lists_or_the_name_of_a_file(tmp_path):
    (tmp_path / "clips").mkdir()
    np.save(tmp_path / "clips/one.npy", np.array([[7, 8], [9, 10]], dtype=np.int16))
    found = list(
        frames.read(
            rows(tmp_path, {"frames": THREE, "text": "a b"}, {"frames": "clips/one.npy", "text": ""}), "frames", "text"
        )
    )
    assert [text for _, text in found] == ["a b", ""]
    assert all(source.dtype == np.float32 for source, _ in found)
    assert found[0][0].tolist() == THREE and found[1][0].tolist() == [[7, 8], [9, 10]]
    (only,) = frames.read(rows(tmp_path, {"x": THREE}), "x")  # nobody asked for a text
    assert only[1] == ""


def files(folder):
    """A name for each thing that a .npy file must not be."""
    np.save(folder / "objects.npy", np.array([[{}]]), allow_pickle=True)
    np.save(folder / "flat.npy", np.zeros(5))
    np.save(folder / "texts.npy", np.array([["a"]]))
    np.save(folder / "none.npy", np.array([[np.nan]]))
    whole = io.BytesIO()
    np.save(whole, np.zeros((1000, 3), dtype=np.float32))
    (folder / "short.npy").write_bytes(whole.getvalue()[:500])
    (folder / "bomb.npy").write_bytes(whole.getvalue().replace(b"(1000, 3)", b"(1e12, 3)").replace(b"1e12", b"9" * 4))
    (folder / "header.npy").write_bytes(whole.getvalue().replace(b"(1000, 3)", b"(1000,(('"))
    (folder / "empty.npy").write_bytes(b"")
    with zipfile.ZipFile(folder / "zip.npy", "w") as file:
        file.writestr("a.npy", whole.getvalue())
    np.save(folder.parent / "outside.npy", np.zeros((2, 2)))
    (folder / "link.npy").symlink_to(folder.parent / "outside.npy")
    return [*sorted(path.name for path in folder.glob("*.npy")), "../outside.npy", "missing.npy", "rows.jsonl", "\0"]


def test_what_is_no_frames_is_left_out_with_its_reason(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    bad = files(folder)
    bad += [[], [[]], [[1, 2], [3]], [[1, "2"]], [1, 2], [[[1]]], [[None]], [[True]], [[10**400]], 7, None, {"a": 1}]
    for value in bad:
        with pytest.raises(UserError, match="1 of 1 rows cannot be read") as error:
            list(frames.read(rows(folder, {"frames": value, "text": "a"}), "frames", "text"))
        assert "frames" in error.value.what
    many = [{"frames": THREE, "text": "a"}] * 200
    assert len(list(frames.read(rows(folder, *many, {"frames": "missing.npy", "text": "a"}), "frames", "text"))) == 200


def test_rows_without_a_text_and_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no text in field 'text'"):
        list(frames.read(rows(tmp_path, {"frames": THREE}), "frames", "text"))
    (tmp_path / "text.txt").write_text("a")
    with pytest.raises(UserError, match="no kind that can be read"):
        list(frames.read([tmp_path / "text.txt"], "frames"))
    with pytest.raises(UserError, match="row 2 has frames of 3 numbers, those before it of 2"):
        list(frames.read(rows(tmp_path, {"frames": THREE}, {"frames": [[1, 2, 3]]}), "frames"))


def test_padding_is_zeros_at_the_end():
    one, two = np.ones((3, 2), dtype=np.float32), np.full((1, 2), 5, dtype=np.float32)
    padded, lengths = frames.pad([one, two])
    assert lengths.tolist() == [3, 1] and padded.dtype == torch.float32
    assert padded.tolist() == [[[1, 1]] * 3, [[5, 5], [0, 0], [0, 0]]]


def test_the_fingerprint_is_that_of_numbers_and_texts():
    one = (np.ones((3, 2), dtype=np.float32), "a")
    others = [(one[0].reshape(2, 3), "a"), (one[0], "b"), (2 * one[0], "a")]
    prints = [frames.fingerprint([example]) for example in (one, *others)]
    assert len(set(prints)) == 4 and frames.fingerprint([one]) == prints[0]
