"""GPT-2's two files: a small folder of that shape, made here, gives the ids that transformers and tiktoken give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Tokenizer

from idiolect.errors import UserError
from idiolect.tokens import patterns
from idiolect.tokens.tokenizer import Tokenizer

END = "<|endoftext|>"


@pytest.fixture(scope="session")
def gpt2(corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """encoder.json (the end of text last, as in GPT-2) and vocab.bpe, learnt from the corpus by the library."""
    folder = tmp_path_factory.mktemp("gpt2")
    native = ByteLevelBPETokenizer()
    native.train_from_iterator(corpus, vocab_size=700, min_frequency=2, show_progress=False)
    vocabulary, merges = native.save_model(str(folder))
    ids = json.loads(Path(vocabulary).read_text())
    (folder / "encoder.json").write_text(json.dumps({**ids, END: len(ids)}))
    Path(vocabulary).unlink()
    Path(merges).rename(folder / "vocab.bpe")
    return folder


@pytest.fixture(scope="session")
def ours(gpt2: Path) -> Tokenizer:
    return Tokenizer.load(gpt2)


@pytest.fixture(scope="session")
def tiktokens(gpt2: Path) -> tiktoken.Encoding:
    return reference(gpt2)


def reference(folder: Path) -> tiktoken.Encoding:
    ids = json.loads((folder / "encoder.json").read_text())
    table = {chr(b): b for b in [*range(33, 127), *range(161, 173), *range(174, 256)]}
    table |= {chr(256 + i): b for i, b in enumerate(b for b in range(256) if chr(b) not in table)}
    ranks = {bytes(table[c] for c in token): i for token, i in ids.items() if token != END}
    return tiktoken.Encoding("small", pat_str=patterns.GPT2, mergeable_ranks=ranks, special_tokens={END: ids[END]})


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(st.text(), st.sampled_from([" the", "it's", "\n\n", "  ", " class", "漢字", "12", END])), max_size=9
    ).map("".join)
)
def test_ids_equal_tiktoken(ours: Tokenizer, tiktokens: tiktoken.Encoding, text: str) -> None:
    ids = ours.encode(text)
    assert ids == tiktokens.encode_ordinary(text)
    assert ours.decode(ids) == text


def test_ids_equal_transformers(gpt2: Path, ours: Tokenizer, corpus: list[str]) -> None:
    theirs = GPT2Tokenizer(str(gpt2 / "encoder.json"), str(gpt2 / "vocab.bpe"))
    for text in [*corpus[:300], "\n\n".join(corpus), "naïve 漢字 😀", "  x\t\n"]:
        assert theirs.encode(text) == ours.encode(text)
    assert (ours.kind, ours.lossless, theirs.eos_token_id) == ("bpe", True, ours.end_id)


def test_padding_is_added_apart_from_the_end_of_text(ours: Tokenizer, tmp_path: Path) -> None:
    assert (ours.end_id, ours.begin_id, ours.pad_id, ours.size) == (700, 700, 701, 702)
    ours.save(tmp_path)
    assert Tokenizer.load(tmp_path).fingerprint == ours.fingerprint


def test_other_names_of_the_files(gpt2: Path, ours: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_bytes((gpt2 / "encoder.json").read_bytes())
    (tmp_path / "merges.txt").write_bytes((gpt2 / "vocab.bpe").read_bytes())
    assert Tokenizer.load(tmp_path).fingerprint == ours.fingerprint


@pytest.mark.parametrize("merges", ["#version\nxx yy", "#version\na b c", "\u0120", b"\xff"])
def test_wrong_merges_are_refused(gpt2: Path, tmp_path: Path, merges: str | bytes) -> None:
    (tmp_path / "encoder.json").write_bytes((gpt2 / "encoder.json").read_bytes())
    (tmp_path / "vocab.bpe").write_bytes(merges if isinstance(merges, bytes) else merges.encode())
    with pytest.raises(UserError, match="vocab.bpe"):
        Tokenizer.load(tmp_path)
