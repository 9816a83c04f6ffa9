"""ARPA files: one that KenLM wrote, our own read back, and what is no such file."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from idiolect.errors import UserError
from idiolect.interop.arpa import escape, read_arpa, unescape, write_arpa
from idiolect.models.ngram import NGram
from idiolect.models.settings import NGramSettings
from idiolect.testing import ByteTokenizer

END, PAD, UNKNOWN = 0, 1, 2

# `lmplz -o 3 --discount_fallback` (KenLM commit 4cb443e) of the four lines of test_ngram_kenlm.TINY, one of them empty
KENLM = """\
\\data\\
ngram 1=10
ngram 2=14
ngram 3=11

\\1-grams:
-1.2874572\t<unk>\t0
0\t<s>\t-0.30103
-0.63797253\t</s>\t0
-0.9100388\thay\t-0.30103
-1.0589778\tthey\t-0.30103
-0.9100388\teat\t-0.30103
-1.0589778\twe\t-0.30103
-1.0589778\tsaw\t-0.30103
-0.9100388\tcows\t-0.30103
-1.0589778\tcorn\t-0.30103

\\2-grams:
-0.6196452\t<s> </s>\t0
-0.4376127\thay </s>\t0
-0.55014217\teat </s>\t0
-0.21106885\tcorn </s>\t0
-0.72930264\t<s> hay\t-0.30103
-0.6417327\teat hay\t-0.30103
-0.5321688\thay they\t-0.30103
-0.25064412\tthey eat\t-0.30103
-0.25064412\tcows eat\t-0.30103
-0.7730116\t<s> we\t-0.30103
-0.26467997\twe saw\t-0.30103
-0.72930264\t<s> cows\t-0.30103
-0.25064412\tsaw cows\t-0.30103
-0.6771247\teat corn\t-0.30103

\\3-grams:
-0.16587208\teat hay </s>
-0.19322802\tthey eat </s>
-0.09283612\teat corn </s>
-0.43879446\tcows eat hay
-0.18921292\t<s> hay they
-0.1074858\thay they eat
-0.1074858\t<s> cows eat
-0.1074858\tsaw cows eat
-0.112480916\t<s> we saw
-0.1074858\twe saw cows
-0.4495775\tcows eat corn

\\end\\
"""


def log10(model: NGram, ids: list[int]) -> list[float]:
    return (model.score(torch.tensor([[END, *ids, END]]))[0, 1:] / math.log(10)).tolist()


def kenlm(tmp_path, text: str = KENLM):
    path = tmp_path / "kenlm.arpa"
    path.write_text(text, encoding="utf-8")
    return read_arpa(path)


@pytest.mark.parametrize(
    ("text", "expected"),  # as the KenLM Python package 0.3.0 scores them with this file
    [
        ("cows eat corn", [-0.7293, -0.10749, -0.44958, -0.09284]),
        ("they eat grass", [-1.36001, -0.25064, -1.88952, -0.63797]),
        ("", [-0.61965]),
    ],
)
def test_a_file_of_kenlm_scores_as_in_kenlm(tmp_path, text, expected):
    model, pieces = kenlm(tmp_path)
    ids = [pieces.index(word) if word in pieces else pieces.index("<unk>") for word in text.split()]
    assert log10(model, ids) == pytest.approx(expected, abs=1e-5)
    logits, _ = model.step(torch.tensor([[END, *ids]]), model.init_state(1, 9))
    torch.testing.assert_close(
        logits.exp().sum(-1), torch.ones(1, len(ids) + 1, dtype=torch.float64), atol=1e-5, rtol=0
    )


def test_a_file_of_kenlm_survives_another_round(tmp_path):
    model, pieces = kenlm(tmp_path)
    tokenizer = SimpleNamespace(size=len(pieces), unknown_id=UNKNOWN, pieces=lambda ids: [pieces[id_] for id_ in ids])
    write_arpa(model, tokenizer, tmp_path / "again.arpa")
    again, same = read_arpa(tmp_path / "again.arpa")
    assert same == pieces

    def entries(text: str) -> dict[str, list[float]]:
        rows = [line.split("\t") for line in text.splitlines() if "\t" in line]
        return {row[1]: [float(row[0]), *map(float, row[2:])] for row in rows if row[1] != "<s>"}

    written = entries((tmp_path / "again.arpa").read_text())
    for words, values in entries(KENLM).items():
        assert written[words] == pytest.approx(values, abs=1e-7)
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in model.tensors().items() if "keys" in name)


def bytes_model(smoothing: str = "kneser-ney", order: int = 4) -> NGram:
    tokenizer = ByteTokenizer()
    texts = ["a b\n\\ <s> é", "<unk>\x00a b", "\u00a0漢字", "", "aab ba"] * 2
    ids = [tokenizer.encode(text) for text in texts]
    documents = SimpleNamespace(
        ids=np.concatenate([np.array(i, int) for i in ids]), offsets=np.cumsum([0, *map(len, ids)])
    )
    model = NGram(NGramSettings(order=order, smoothing=smoothing), 258, begin_id=END, end_id=END, pad_id=PAD)
    return model.fit(documents)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_written_files_read_back_equal(tmp_path, order):
    """Bytes as pieces: blanks, control characters, and many spelt alike; written files were loaded in KenLM too."""
    model, tokenizer = bytes_model(order=order), ByteTokenizer()
    write_arpa(model, tokenizer, tmp_path / "bytes.arpa")
    again, pieces = read_arpa(tmp_path / "bytes.arpa")
    assert pieces[2:] == tokenizer.pieces(range(2, 258))
    ids = torch.tensor([[END, *tokenizer.encode("a b\n\\ <s> 字 ba\x7f"), END]])
    torch.testing.assert_close(again.score(ids), model.score(ids), atol=1e-7, rtol=1e-7)
    assert again.settings == NGramSettings(order=order, smoothing="arpa")


def test_every_word_of_a_file_is_one_word(tmp_path):
    write_arpa(bytes_model(), ByteTokenizer(), tmp_path / "bytes.arpa")
    lines = (tmp_path / "bytes.arpa").read_bytes().split(b"\n")
    words = [line.split(b"\t")[1] for line in lines[lines.index(b"\\1-grams:") + 1 :] if line.count(b"\t") == 2]
    words = [word for word in words if b" " not in word]
    assert len(words) == len(set(words)) == 256 + 3  # the bytes, <s>, </s> and an <unk> that never happens
    assert all(len(word.split()) == 1 for word in words)


@pytest.mark.parametrize(
    "piece", ["a", " ", "<s>", "</s>", "<unk>", "<UNK>", "\\x20;", "a\u2028b\x00", "Ġthe", "\U0001f600", "\\#3"]
)
def test_pieces_escape_and_come_back(piece):
    word = escape(piece)
    assert len(word.split()) == 1 and word not in ("<s>", "</s>", "<unk>", "<UNK>")
    assert unescape(word) == unescape(word + "\\#17") == piece


@pytest.mark.parametrize("smoothing", ["mle", "add-k", "stupid-backoff", "infinite"])
def test_only_backoff_probabilities_can_be_written(tmp_path, smoothing):
    with pytest.raises(UserError, match=smoothing):
        write_arpa(bytes_model(smoothing), ByteTokenizer(), tmp_path / "no.arpa")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("\\data\\", "data", 47),  # read to its end in vain
        ("ngram 2=14", "ngram 3=14", 3),
        ("ngram 2=14", "ngram 2=15", 34),
        ("ngram 2=14", "ngram 2=13", 32),
        ("ngram 1=10", "ngram 1=99999999999", 18),
        ("\\2-grams:", "\\3-grams:", 18),
        ("-0.63797253\t</s>", "0.63797253\t</s>", 9),
        ("-0.63797253\t</s>", "nan\t</s>", 9),
        ("-0.63797253\t</s>", "-1e400\t</s>", 9),
        ("-0.63797253\t</s>", "x\t</s>", 9),
        ("\twe\t", "\they\t", 28),
        ("eat corn\t", "eat wheat\t", 32),
        ("eat corn\t", "eat\t", 32),
        ("<s> we\t", "we <s>\t", 32),
        ("<s> we\t", "</s> we\t", 32),
        ("cows eat hay", "hay hay hay", 45),
        ("cows eat hay", "cows eat corn", 45),
        ("-1.0589778\tthey", "-1.0589778\thay", 11),
        ("\\end\\", "", 47),
    ],
)
def test_whatever_is_no_arpa_file_is_refused_by_line(tmp_path, old, new, line):
    assert old in KENLM
    with pytest.raises(UserError) as caught:
        kenlm(tmp_path, KENLM.replace(old, new, 1))
    assert f"kenlm.arpa:{line}: " in caught.value.what


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read_arpa(tmp_path / "missing.arpa")
    (tmp_path / "binary.arpa").write_bytes(bytes(range(256)) * 1000)
    with pytest.raises(UserError, match="ends early"):
        read_arpa(tmp_path / "binary.arpa")
    (tmp_path / "latin.arpa").write_bytes(KENLM.replace("hay", "h\u00e9y").encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_arpa(tmp_path / "latin.arpa")
