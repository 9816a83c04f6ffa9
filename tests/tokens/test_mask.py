"""The mask token, what marks the ends of a text, and words of several tokens: ours, and BERT's and RoBERTa's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, BertTokenizer, RobertaTokenizer

from idiolect.errors import UserError
from idiolect.tokens.learn import from_vocabulary
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer

KINDS = ("word", "char", "byte", "bpe", "wordpiece", "unigram")
Learnt = Callable[..., Tokenizer]
TEXTS = ["The list's items, unhashable ones included.", "  naïve café\n漢字 <mask> [MASK] </s>", ""]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_token_changes_no_other_id(learnt: Learnt, kind: str, tmp_path: Path) -> None:
    plain = learnt(kind)
    tokenizer = plain.with_mask()
    assert plain.mask_id is None and tokenizer.mask_id == plain.size == tokenizer.size - 1
    assert tokenizer.with_mask() is tokenizer
    assert tokenizer.vocabulary[:-1] == plain.vocabulary and tokenizer.loses == plain.loses
    for text in (*TEXTS, "<|mask|>"):
        assert tokenizer.encode(text) == plain.encode(text)  # what a user writes hides nothing
    assert not tokenizer.content[[tokenizer.mask_id, tokenizer.end_id, tokenizer.pad_id]].any()
    assert tokenizer.decode([tokenizer.mask_id]) == ""
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (again.mask_id, again.fingerprint) == (tokenizer.mask_id, tokenizer.fingerprint)
    assert AutoTokenizer.from_pretrained(tmp_path).mask_token_id == tokenizer.mask_id


def test_a_tokenizer_without_a_mask_is_written_as_ever(learnt: Learnt, tmp_path: Path) -> None:
    learnt("bpe").save(tmp_path)
    assert "mask_token" not in json.loads((tmp_path / "tokenizer_config.json").read_text())


def test_a_text_of_ours_begins_with_end_of_text(learnt: Learnt) -> None:
    assert learnt("bpe").framed([7, 5]) == [0, 7, 5]


def pieces_that_go_on(tokenizer: Tokenizer, text: str) -> list[str]:
    """Each word's tokens joined by a stroke."""
    ids = tokenizer.encode(text)
    goes, open_ = tokenizer.joins
    words: list[list[int]] = []
    for before, id_ in zip([None, *ids], ids, strict=False):
        if before is not None and goes[id_] and open_[before]:
            words[-1].append(id_)
        else:
            words.append([id_])
    return ["|".join(tokenizer.pieces(word)) for word in words]


def test_which_tokens_go_on_a_word() -> None:
    names = ["un", "##hash", "##able", "keys", ","]
    pieces = from_vocabulary(names, TokenizerSettings(kind="wordpiece", size=9))
    assert pieces_that_go_on(pieces, "unhashable keys, un") == ["un|##hash|##able", "keys", ",", "un"]
    words = from_vocabulary(["keys", "un"], TokenizerSettings(kind="word", size=9))
    assert pieces_that_go_on(words, "keys un") == ["keys", "un"]


@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "unigram"])
def test_words_of_bytes_are_runs_of_letters_and_digits(learnt: Learnt, kind: str) -> None:
    tokenizer = learnt(kind)
    text = "Unhashable keys, e.g. naïve ones"
    assert len(tokenizer.encode(text)) > len(text.split())
    words = pieces_that_go_on(tokenizer, text)
    joined = [word.replace("|", "").replace("\\xc3\\xaf", "ï").strip() for word in words]
    assert [word for word in joined if word] == ["Unhashable", "keys", ",", "e", ".", "g", ".", "naïve", "ones"]


# --- other people's tokenizers ------------------------------------------------------------------------------------


def compared(ours: Tokenizer, theirs: object) -> None:
    for text in TEXTS[:1] + TEXTS[2:]:  # theirs makes control tokens of what a user writes
        assert ours.framed(ours.encode(text)) == theirs(text)["input_ids"]  # type: ignore[operator]
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    assert (ours.mask_id, ours.pad_id) == (theirs.mask_token_id, theirs.pad_token_id)  # type: ignore[attr-defined]
    assert (ours.begin_id, ours.end_id) == (theirs.cls_token_id, theirs.sep_token_id)  # type: ignore[attr-defined]


PIECES = ["[PAD]", "[UNK]", "the", "list", "'", "s", "items", ",", "un", "##hash", "##able", "ones", ".", "T", "##he"]
PIECES += ["[CLS]", "[SEP]", "[MASK]", "in", "##clude", "##d"]


@pytest.mark.parametrize("lower", [True, False])
def test_berts_list_of_pieces(lower: bool, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    vocabulary = {piece: i for i, piece in enumerate(PIECES)}
    theirs = BertTokenizer(vocab=vocabulary, do_lower_case=lower)
    ours = Tokenizer.load(tmp_path)
    compared(ours, theirs)
    assert ours.unknown_id == theirs.unk_token_id == 1 and ours.kind == "wordpiece"
    assert ours.pieces(ours.encode("The"))[0] == ("the" if lower else "T")
    theirs.save_pretrained(tmp_path / "json")
    compared(Tokenizer.load(tmp_path / "json"), theirs)
    ours.save(tmp_path / "ours")
    compared(Tokenizer.load(tmp_path / "ours"), theirs)
    assert AutoTokenizer.from_pretrained(tmp_path / "ours")(TEXTS[0])["input_ids"] == theirs(TEXTS[0])["input_ids"]


@pytest.mark.parametrize(
    ("pieces", "what"),
    [
        (PIECES[:-4], r"lacks the piece \[MASK\]"),
        ([*PIECES, "the"], "without a gap"),
        ([*PIECES, "\ud800"], "utf-8"),
    ],
)
def test_a_damaged_list_of_pieces(pieces: list[str], what: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes("\n".join(pieces).encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=what):
        Tokenizer.load(tmp_path)


def test_robertas_byte_pairs(corpus: list[str], tmp_path: Path) -> None:
    learner = ByteLevelBPETokenizer()
    controls = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    learner.train_from_iterator(corpus, vocab_size=500, special_tokens=controls)
    learner.save_model(str(tmp_path))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    merges = [tuple(line.split(" ")) for line in (tmp_path / "merges.txt").read_text().splitlines()[1:]]
    theirs = RobertaTokenizer(vocab=vocabulary, merges=merges)
    compared(Tokenizer.load(tmp_path), theirs)  # the pair of files alone
    theirs.save_pretrained(tmp_path / "json")
    ours = Tokenizer.load(tmp_path / "json")
    compared(ours, theirs)
    ours.save(tmp_path / "ours")
    compared(Tokenizer.load(tmp_path / "ours"), theirs)
