"""Encoded text on disk: what is stored is what was read, whoever encodes it and however often it is killed."""

import multiprocessing
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from idiolect import files
from idiolect.cache import cache_folder
from idiolect.data import shards
from idiolect.data.shards import Shards, id_type
from idiolect.errors import Exit, UserError
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

SEPARATOR = 999


def read(shards, start, length):
    """A piece of the stream S."""
    return shards.at(np.arange(start, start + length), SEPARATOR).tolist()


def made_up(count, seed=0):
    """Documents of 1 to 60 characters of one to four bytes."""
    draw = random.Random(seed)
    return ["".join(draw.choice("ab é漢\n🙂") for _ in range(draw.randint(1, 60))) for _ in range(count)]


def content(folder):
    """Every file below a folder, but for the lock."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def expected_stream(documents):
    """S = E d1 E d2 E … by the plainest means."""
    stream = [SEPARATOR]
    for document in documents:
        stream += [byte + 2 for byte in "".join(document).encode()] + [SEPARATOR]
    return stream


def test_two_documents_by_hand(encode):
    shards = encode(["ab", "é"])
    assert shards.ids[:].tolist() == [99, 100, 0xC3 + 2, 0xA9 + 2]
    assert shards.ids[:].dtype == np.uint16
    assert shards.offsets.tolist() == [0, 2, 4]
    assert shards.ends.tolist() == [0, 3, 6]  # E a b E é é E
    assert shards.byte_ends.tolist() == [0, 2, 4]
    assert (shards.tokens, shards.documents, shards.bytes, shards.labels) == (4, 2, 4, 6)
    assert shards.vocabulary == 258
    assert read(shards, 0, 7) == [SEPARATOR, 99, 100, SEPARATOR, 0xC3 + 2, 0xA9 + 2, SEPARATOR]
    assert shards.counts()[99] == 1 and shards.counts().sum() == 4


def test_any_piece_of_the_stream_across_parts(encode, small_parts):
    documents = made_up(40)
    shards = encode(documents)
    stream = expected_stream(documents)
    assert len(shards.parts) > 5
    assert shards.labels + 1 == len(stream)
    draw = random.Random(1)
    for _ in range(200):
        start = draw.randrange(len(stream))
        length = draw.randint(0, len(stream) - start)
        assert read(shards, start, length) == stream[start : start + length]
    assert shards.ids[:].tolist() == [i for i in stream if i != SEPARATOR]


def test_a_document_in_parts_is_one_document(encode, small_parts):
    documents = [("a" * 150, "b" * 150, "c"), "d", ("e", "f")]
    shards = encode(documents)
    assert shards.documents == 3
    assert read(shards, 0, shards.labels + 1) == expected_stream(documents)
    assert shards.byte_ends.tolist() == [0, 301, 302, 304]


def test_documents_without_a_token_are_passed_over(tmp_path, memory, tokenizer):
    tokenizer.encode = lambda text: [5] * text.count("x")
    result = shards.encode(memory(["..", "x.", "...", "xx", "."]), tokenizer, cache=tmp_path)
    assert read(result, 0, result.labels + 1) == [SEPARATOR, 5, SEPARATOR, 5, 5, SEPARATOR]
    with pytest.raises(UserError, match="no token"):
        shards.encode(memory(["..", "."], "other"), tokenizer, cache=tmp_path)
    with pytest.raises(UserError, match="no token"):
        shards.encode(memory([], "empty"), tokenizer, cache=tmp_path)


def test_ids_take_two_bytes_while_they_fit(tmp_path, memory, tokenizer):
    assert id_type(65_536).itemsize == 2
    assert id_type(65_537).itemsize == 4
    tokenizer.size = 70_000
    tokenizer.encode = lambda text: [69_999]
    assert shards.encode(memory(["x"]), tokenizer, cache=tmp_path).ids[:].tolist() == [69_999]


def test_threads_write_the_same_bytes(tmp_path, memory, tokenizer, small_parts):
    documents = made_up(60)
    one = shards.encode(memory(documents), tokenizer, cache=tmp_path / "one", workers=1)
    many = shards.encode(memory(documents), tokenizer, cache=tmp_path / "many", workers=5)
    assert content(one.folder) == content(many.folder)


def test_a_part_encoded_in_batches_is_the_same_part(tmp_path, memory, tokenizer, monkeypatch):
    documents = [*made_up(60), "", ("x" * 90, "y")]
    one = shards.encode(memory(documents), tokenizer, cache=tmp_path / "one")
    monkeypatch.setattr(shards, "AT_ONCE", 47)
    many = shards.encode(memory(documents), tokenizer, cache=tmp_path / "many")
    assert content(one.folder) == content(many.folder)
    assert max(map(len, shards._batches([document.text for document in memory(documents)]))) < 60


@pytest.mark.parametrize("kind", ["bpe", "unigram", "word"])
def test_threads_and_learnt_tokenizers(kind, tmp_path, memory, small_parts):
    """One thread, many threads and one call a document give the same ids."""
    documents = [f"the {a} sat on the {b}.\n" * n for a in ("cat", "dog") for b in ("mat", "log") for n in range(1, 9)]
    learnt = train(documents, TokenizerSettings(kind=kind, size=270 if kind == "bpe" else 260))
    one, many = (
        shards.encode(memory(documents), learnt, cache=tmp_path / str(workers), workers=workers) for workers in (1, 4)
    )
    assert content(one.folder) == content(many.folder) and len(one.parts) > 5
    assert one.ids[:].tolist() == [i for document in documents for i in learnt.encode(document)]
    assert one.bytes == sum(map(len, documents))


def test_the_same_text_is_never_encoded_twice(encode, tokenizer, tmp_path, memory):
    first = encode(["one", "two"])
    assert len(tokenizer.seen) == 2
    again = encode(["one", "two"])
    assert len(tokenizer.seen) == 2
    assert again.fingerprint == first.fingerprint
    other = shards.encode(memory(["one", "three"], "another text"), tokenizer, cache=tmp_path)
    assert other.fingerprint != first.fingerprint
    tokenizer.fingerprint = "another tokenizer"
    assert encode(["one", "two"]).fingerprint not in (first.fingerprint, other.fingerprint)


def child(memory, tokenizer, documents, cache, **environment):
    """A process that encodes; not waited for. It is forked, as importing everything anew takes seconds."""

    def work():
        os.environ.update(environment)
        shards.encode(memory(documents), tokenizer, cache=cache, workers=1)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


@pytest.mark.parametrize("point", ["part-00000:manifest", "part-00003:rename", "part-00002:placed", "documents:rename"])
def test_a_killed_encode_goes_on_where_it_stopped(point, tmp_path, memory, tokenizer, small_parts):
    documents = made_up(30)
    fault = {"IDIOLECT_TESTING": "1", "IDIOLECT_FAULT": f"exit@{point}"}
    killed = child(memory, tokenizer, documents, tmp_path / "killed", **fault)
    killed.join()
    assert killed.exitcode == 137
    (folder,) = (tmp_path / "killed" / "shards").iterdir()
    parts = list(shards._parts(memory(documents)))
    whole = {path.name for path in folder.glob("part-*")}
    assert len(whole) == {"part-00000:manifest": 0, "part-00003:rename": 3, "part-00002:placed": 3}.get(
        point, len(parts)
    )

    result = shards.encode(memory(documents), tokenizer, cache=tmp_path / "killed", workers=1)
    missing = [text for texts, _ in parts[len(whole) :] for text in texts]
    assert tokenizer.seen == missing
    uninterrupted = shards.encode(memory(documents), tokenizer, cache=tmp_path / "whole")
    assert content(result.folder) == content(uninterrupted.folder)


def test_an_encode_that_fails_leaves_nothing_half_written(tmp_path, memory, tokenizer, small_parts):
    documents = made_up(30)
    works = tokenizer.encode_batch

    def fails(texts):
        if len(tokenizer.seen) > 12:
            raise RuntimeError("the tokenizer broke")
        return works(texts)

    tokenizer.encode_batch = fails
    with pytest.raises(RuntimeError, match="broke"):
        shards.encode(memory(documents), tokenizer, cache=tmp_path)
    (folder,) = (tmp_path / "shards").iterdir()
    stand = [path for path in folder.iterdir() if path.name != "lock"]
    assert stand
    for path in stand:
        files.verify(path)
    tokenizer.encode_batch = works
    assert shards.encode(memory(documents), tokenizer, cache=tmp_path).documents == 30


@pytest.mark.parametrize("name", ["part-00001/ids.bin", "part-00001/manifest.json", "part-00002/documents.bin"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_part_is_named_and_only_it_is_encoded_again(name, damage, encode, tokenizer, memory, small_parts):
    documents = made_up(30)
    good = encode(documents)
    before = content(good.folder)
    path = good.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if damage != "remove":
        path.write_bytes(data if damage == "flip" else data[:-1])
    with pytest.raises(files.Damaged, match=name.split("/")[0]):
        Shards(good.folder)
    tokenizer.seen.clear()
    with pytest.warns(UserWarning, match="encoded again"):
        encode(documents)
    texts, _ = list(shards._parts(memory(documents)))[int(name[5:10])]
    assert tokenizer.seen == texts
    assert content(good.folder) == before


def test_a_part_of_another_text_is_not_taken(encode, memory, tokenizer, tmp_path):
    mine = encode(["mine"])
    other = shards.encode(memory(["other"], "another text"), tokenizer, cache=tmp_path)
    files.remove_folder(mine.folder / "part-00000")
    os.rename(other.folder / "part-00000", mine.folder / "part-00000")
    with pytest.raises(files.Damaged, match="another text"):
        Shards(mine.folder)
    with pytest.warns(UserWarning, match="another text"):
        assert encode(["mine"]).ids[:].tolist() == mine.ids[:].tolist()


def test_two_at_once_do_the_work_once(tmp_path, memory, tokenizer, small_parts):
    documents = made_up(40)
    slow = tokenizer.encode_batch
    tokenizer.encode_batch = lambda texts: time.sleep(0.002) or slow(texts)
    with ThreadPoolExecutor(3) as pool:
        all_at_once = [pool.submit(shards.encode, memory(documents), tokenizer, cache=tmp_path) for _ in range(3)]
        results = [future.result() for future in all_at_once]
    assert sorted(tokenizer.seen) == sorted(documents)
    assert len({shards.ids[:].tobytes() for shards in results}) == 1


def test_two_processes_at_once(tmp_path, memory, tokenizer, small_parts):
    documents = made_up(40)
    both = [child(memory, tokenizer, documents, tmp_path) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    result = shards.encode(memory(documents), tokenizer, cache=tmp_path)
    assert tokenizer.seen == []
    assert read(result, 0, result.labels + 1) == expected_stream(documents)


def test_memory_is_bounded_by_parts_and_workers(tmp_path, tokenizer, small_parts):
    """While 400 documents pass, only those of the parts at work are alive."""
    alive, most = set(), 0

    class Watched:
        last = True

        def __init__(self, number):
            nonlocal most
            self.text, self.number = "x" * 49, number
            alive.add(number)
            most = max(most, len(alive))

        def __del__(self):
            alive.discard(self.number)

    class Endless:
        fingerprint = "endless"

        def __iter__(self):
            return (Watched(number) for number in range(400))

    result = shards.encode(Endless(), tokenizer, cache=tmp_path, workers=3)
    assert result.documents == 400
    assert most <= 2 * (3 + 2)  # two documents a part; three parts at work, one waited for, one being gathered


def test_a_disk_that_refuses_is_said(tmp_path, memory, tokenizer, monkeypatch):
    (tmp_path / "shards").write_text("a file in the way")
    with pytest.raises(UserError, match="cannot write") as error:
        shards.encode(memory(["x"]), tokenizer, cache=tmp_path)
    assert error.value.code == 4


def test_half_a_surrogate_pair_is_said(tmp_path, memory):
    learnt = train(["some text"], TokenizerSettings(kind="byte"))
    with pytest.raises(UserError, match="surrogate"):
        shards.encode(memory(["fine", "\ud800"]), learnt, cache=tmp_path)


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("IDIOLECT_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("IDIOLECT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/else")
    assert cache_folder() == Path("/else/idiolect")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().parent.parent == Path.home() or sys.platform == "darwin"


def test_a_file_that_cannot_be_written_whole_is_noticed(memory, tokenizer, tmp_path):
    """numpy's own way of writing an array loses what the system refuses when the file is closed."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
        with pytest.raises(UserError, match="part-00000: File too large") as caught:
            shards.encode(memory(["x" * 1000]), tokenizer, cache=tmp_path, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code is Exit.CANNOT_WRITE
    assert [path.name for path in next(tmp_path.glob("shards/*")).iterdir()] == ["lock"]
