import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from idiolect import files
from idiolect.errors import Exit, UserError


def make(target, text="old", **about):
    with files.new_folder(target, **about) as folder:
        (folder / "a.txt").write_text(text)
        (folder / "b").mkdir()
        (folder / "b" / "c.txt").write_text(text * 2)


def fail_after_writing(path, error):
    path.write_text("new")
    raise error


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def exit_code(action):
    try:
        action()
    except UserError as error:
        return error.code
    return Exit.DONE


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def stop_at(monkeypatch, name, number):
    """The number-th call of os.`name` raises EIO."""
    real, calls = getattr(os, name), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, failing)


# Single files


def test_a_file_is_written_for_its_owner_alone_and_nothing_is_left_beside_it(tmp_path):
    files.write_text(tmp_path / "runs" / "one" / "x.json", "é\n")
    assert (tmp_path / "runs" / "one" / "x.json").read_bytes() == b"\xc3\xa9\n"
    assert mode(tmp_path / "runs" / "one" / "x.json") == 0o600
    assert mode(tmp_path / "runs") == mode(tmp_path / "runs" / "one") == 0o700
    assert os.listdir(tmp_path / "runs" / "one") == ["x.json"]


def test_a_file_taken_in_parts_by_the_system_is_whole(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:3]))
    files.write_bytes(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_json_is_readable_and_refuses_what_json_cannot_hold(tmp_path):
    files.write_json(tmp_path / "x.json", {"ä": [1, 0.1]})
    assert (tmp_path / "x.json").read_text() == '{\n  "ä": [\n    1,\n    0.1\n  ]\n}\n'
    assert files.read_json(tmp_path / "x.json") == {"ä": [1, 0.1]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", float("nan"))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 200_000])
def test_bad_json_is_a_user_error_naming_the_file(tmp_path, data):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.json is not valid JSON"):
        files.read_json(tmp_path / "x.json")


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        files.read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="cannot read"):
        files.read_json(tmp_path)


def test_what_cannot_be_written_ends_with_exit_4(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="Not a directory|File exists") as caught:
        files.write_text(tmp_path / "file" / "below.txt", "y")
    assert caught.value.code is Exit.CANNOT_WRITE


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, files.Full), (errno.EDQUOT, files.Full), (errno.EIO, UserError)]
)
def test_errors_of_the_system_and_of_rust_libraries_read_alike(tmp_path, number, kind):
    for error in (OSError(number, "x"), Exception(f"I/O error: whatever (os error {number})")):
        with pytest.raises(UserError) as caught, files.writing(tmp_path / "x"):
            raise error
        assert type(caught.value) is kind and caught.value.code is Exit.CANNOT_WRITE
        assert caught.value.what == f"cannot write {tmp_path / 'x'}: {os.strerror(number)}"


def test_other_errors_pass(tmp_path):
    for error in (KeyError("x"), UserError("a (os error 5)", "b")):
        with pytest.raises(type(error)) as caught, files.writing(tmp_path):
            raise error
        assert caught.value is error


# Folders


def test_a_folder_appears_whole_with_its_manifest(tmp_path):
    make(tmp_path / "deep" / "model", step=3)
    manifest = files.verify(tmp_path / "deep" / "model")
    # printf old | sha256sum; printf oldold | sha256sum
    assert manifest == {
        "format": 1,
        "step": 3,
        "files": {
            "a.txt": {"sha256": "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4", "bytes": 3},
            "b/c.txt": {"sha256": "ec231130f9ee458f1d131e4d7a281b0e33a0b8039248c1cb5446ef1de23953e8", "bytes": 6},
        },
    }


def test_folders_and_files_are_for_their_owner_alone(tmp_path):
    make(tmp_path / "model")
    for path in [tmp_path / "model", *(tmp_path / "model").rglob("*")]:
        assert mode(path) == (0o700 if path.is_dir() else 0o600)


def test_nothing_is_left_of_a_folder_whose_writer_failed(tmp_path):
    make(tmp_path / "model")
    for error in (KeyError, KeyboardInterrupt):
        with pytest.raises(error), files.new_folder(tmp_path / "model") as folder:
            fail_after_writing(folder / "a.txt", error)
    assert os.listdir(tmp_path) == ["model"] and (tmp_path / "model" / "a.txt").read_text() == "old"


@pytest.mark.parametrize("swap", [True, False], ids=["swapped", "renamed twice"])
def test_a_folder_is_replaced_and_nothing_is_left_of_the_old_one(tmp_path, monkeypatch, swap):
    if not swap:
        monkeypatch.setattr(files, "_swap", lambda one, other: False)
    make(tmp_path / "model")
    make(tmp_path / "model", "new", step=5)
    assert files.verify(tmp_path / "model")["step"] == 5
    assert (tmp_path / "model" / "a.txt").read_text() == "new" and os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("swap", [True, False], ids=["swapped", "renamed twice"])
@pytest.mark.parametrize("name", ["rename", "fsync", "mkdir", "open"])
def test_an_old_folder_stands_whatever_fails(tmp_path, monkeypatch, swap, name):
    if not swap:
        monkeypatch.setattr(files, "_swap", lambda one, other: False)
    make(tmp_path / "model")
    before, failures = content(tmp_path / "model"), 0
    for number in range(1, 40):
        with monkeypatch.context() as patch:
            stop_at(patch, name, number)
            code = exit_code(lambda: make(tmp_path / "model", "new"))
        if code is Exit.DONE:
            break
        assert code is Exit.CANNOT_WRITE
        failures += 1
        assert content(tmp_path / "model") == before and os.listdir(tmp_path) == ["model"]
    assert failures >= (0 if swap and name == "rename" else 1)
    assert (tmp_path / "model" / "a.txt").read_text() == "new"


@pytest.mark.parametrize("sweeping", [True, False], ids=["sweep", "read"])
def test_a_replacement_cut_short_between_its_renames_is_undone(tmp_path, sweeping):
    make(tmp_path / "model")
    os.rename(tmp_path / "model", tmp_path / ".replaced-model")
    (tmp_path / ".partial-model-1").mkdir()
    if sweeping:
        files.sweep(tmp_path)
        assert os.listdir(tmp_path) == ["model"]
    assert files.verify(tmp_path / "model")["files"].keys() == {"a.txt", "b/c.txt"}


def test_sweep_removes_what_killed_writers_left_and_nothing_else(tmp_path):
    make(tmp_path / "model")
    make(tmp_path / ".replaced-model", "older")
    (tmp_path / ".partial-1").write_text("half")
    (tmp_path / ".partial-link").symlink_to(tmp_path / "model")
    (tmp_path / "mine.txt").write_text("x")
    files.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["mine.txt", "model"]
    assert content(tmp_path / "model")["a.txt"] == b"old"


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    make(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    make(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "a.txt").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    make(home, "empty folders may be filled")
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        make(home)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        make(tmp_path / "file")
    (home / "thesis.tex").unlink()
    (home / "manifest.json").write_text("{}")
    with pytest.raises(files.Damaged, match=r"manifest\.json was changed or damaged"):
        make(home)


def test_a_removed_folder_is_gone_in_one_step(tmp_path, monkeypatch):
    make(tmp_path / "model")
    monkeypatch.setattr(files.shutil, "rmtree", lambda path, **options: None)  # killed before it came to that
    files.remove_folder(tmp_path / "model")
    assert [name.startswith(".partial-model-") for name in os.listdir(tmp_path)] == [True]


# Damage


def damage(folder, what):
    path = folder / "a.txt"
    if what == "missing":
        path.unlink()
    elif what == "shorter":
        path.write_text("ol")
    elif what == "changed":
        path.write_text("odl")
    elif what == "a folder":
        path.unlink()
        path.mkdir()
    elif what == "outside":
        path.rename(folder.parent / "a.txt")
        path.symlink_to(folder.parent / "a.txt")
    elif what == "no manifest":
        (folder / "manifest.json").unlink()
    elif what == "manifest":
        text = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(text.replace('"step": 3', '"step": 4'))
    elif what == "spaces":
        text = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(text.replace('"step": 3', '"step":  3'))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "a.txt is missing"),
        ("shorter", "has 2 bytes, not the 3"),
        ("changed", "SHA-256 differs"),
        ("a folder", "is missing"),
        ("outside", "points outside the folder"),
        ("no manifest", "has no manifest.json"),
        ("manifest", "manifest.json was changed"),
        ("spaces", "manifest.json was changed"),
    ],
)
def test_damage_is_named(tmp_path, what, message):
    make(tmp_path / "model", step=3)
    damage(tmp_path / "model", what)
    with pytest.raises(files.Damaged, match=message):
        files.verify(tmp_path / "model")


def test_only_the_files_asked_for_are_checked(tmp_path):
    make(tmp_path / "model")
    damage(tmp_path / "model", "changed")
    files.verify(tmp_path / "model", only=["b/c.txt", "not there"])
    with pytest.raises(files.Damaged):
        files.verify(tmp_path / "model", only=["a.txt"])


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"files": {}}', "[" * 100_000])
def test_what_is_no_manifest_is_damage(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(files.Damaged):
        files.read_manifest(tmp_path)


def test_a_newer_format_is_refused_but_is_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FORMAT", 2)
    make(tmp_path / "model")
    monkeypatch.undo()
    with pytest.raises(UserError, match="manifest format 2; this version reads 1") as caught:
        files.verify(tmp_path / "model")
    assert not isinstance(caught.value, files.Damaged)


def test_a_missing_folder_is_refused_but_is_no_damage(tmp_path):
    with pytest.raises(UserError, match="is not a folder") as caught:
        files.verify(tmp_path / "model")
    assert not isinstance(caught.value, files.Damaged)


# The seam for faults


def run_with_fault(fault, testing="1", code="files.fault('a:b')"):
    env = {"PYTHONPATH": str(Path(files.__file__).parents[1]), "IDIOLECT_FAULT": fault, "IDIOLECT_TESTING": testing}
    return subprocess.Popen(
        [sys.executable, "-c", f"from idiolect import files\n{code}\nprint('went on')"],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("fault", "testing"), [("exit@a:b", "0"), ("exit@a:c", "1"), ("exit", "1"), ("", "1")])
def test_no_fault_unless_asked_for_here_and_in_testing(fault, testing):
    child = run_with_fault(fault, testing)
    assert child.communicate(timeout=60)[0] == "went on\n" and child.returncode == 0


def test_exit_leaves_at_once_with_nothing_cleaned_up():
    child = run_with_fault("exit@a:b", code="try:\n    files.fault('a:b')\nfinally:\n    print('cleaned', flush=True)")
    assert child.communicate(timeout=60)[0] == "" and child.returncode == 137


def test_hang_stops_until_a_signal():
    child = run_with_fault("hang@a:b")
    assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])
    os.kill(child.pid, signal.SIGCONT)
    assert child.communicate(timeout=60)[0] == "went on\n"


def test_io_oom_and_nan(monkeypatch):
    monkeypatch.setenv("IDIOLECT_TESTING", "1")
    for fault, error in (("io@p", OSError), ("oom@p", MemoryError)):
        monkeypatch.setenv("IDIOLECT_FAULT", fault)
        with pytest.raises(error):
            files.fault("p")
    monkeypatch.setenv("IDIOLECT_FAULT", "nan@p")
    assert files.fault("p") == "nan" and files.fault("q") is None


def test_points_of_a_save_can_be_aimed_at(tmp_path, monkeypatch):
    monkeypatch.setenv("IDIOLECT_TESTING", "1")
    make(tmp_path / "model")
    for point in ("write", "manifest", "rename"):
        monkeypatch.setenv("IDIOLECT_FAULT", f"io@model:{point}")
        with pytest.raises(UserError) as caught:
            make(tmp_path / "model", "new")
        assert caught.value.code is Exit.CANNOT_WRITE and os.listdir(tmp_path) == ["model"]
        assert json.loads((tmp_path / "model" / "manifest.json").read_text())["files"]["a.txt"]["bytes"] == 3
        assert (tmp_path / "model" / "a.txt").read_text() == "old"
