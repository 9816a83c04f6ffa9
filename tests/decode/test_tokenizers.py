"""Text as it is written with real tokenizers: it goes on from the prompt, in whole characters, up to a stop string."""

import pytest

from idiolect.decode.explore import candidates
from idiolect.decode.generate import complete, stream
from idiolect.decode.settings import DecodeSettings
from idiolect.decode.stop import Writer
from idiolect.testing import TableModel
from idiolect.tokens.learn import from_vocabulary, train
from idiolect.tokens.settings import TokenizerSettings

TEXT = "my favorite food is pizza, naïve café 日本語 and 🍕🍕 too. stop here! "
KINDS = ("word", "char", "byte", "bpe", "wordpiece", "unigram")


@pytest.fixture(params=KINDS, scope="module")
def tokenizer(request):
    if request.param == "wordpiece":
        letters = sorted(set(TEXT.replace(" ", "")))
        pieces = [*letters, *(f"##{letter}" for letter in letters), "food", "pi", "##zza"]
        return from_vocabulary(pieces, TokenizerSettings(kind="wordpiece"))
    size = {"word": 40, "char": 300, "byte": 258, "bpe": 270, "unigram": 290}[request.param]
    return train([TEXT * 5], TokenizerSettings(kind=request.param, size=size))


def parrot(tokenizer):
    """Says TEXT, whatever part of it was read, and then ends."""
    ids = [tokenizer.begin_id, *tokenizer.encode(TEXT), tokenizer.end_id]
    return TableModel(tokenizer.size, {tuple(ids[:i]): {ids[i]: 1.0} for i in range(1, len(ids))}), ids


def test_every_cut_of_a_text_continues_to_the_whole(tokenizer):
    model, ids = parrot(tokenizer)
    whole = tokenizer.decode(ids)
    cuts = range(1, len(ids) - 1, 3)
    for cut, found in zip(cuts, complete(model, tokenizer, [ids[:cut] for cut in cuts], DecodeSettings()), strict=True):
        assert found.ids == tuple(ids[cut:])
        read = Writer(tokenizer, [])  # what of the prompt is text already, whole characters only
        shown = "".join(read.push(i)[0] for i in ids[:cut])
        assert shown + found.text == whole


def test_streamed_pieces_are_whole_characters_and_add_up(tokenizer):
    model, ids = parrot(tokenizer)
    pieces = list(stream(model, tokenizer, ids[:2], DecodeSettings()))
    assert len(pieces) == len(ids) - 2
    assert not any("\ufffd" in piece.text for piece in pieces)
    assert tokenizer.decode(ids).endswith("".join(piece.text for piece in pieces))


def test_a_stop_string_ends_the_text_wherever_its_tokens_are_cut(tokenizer):
    model, ids = parrot(tokenizer)
    (found,) = complete(model, tokenizer, [ids[:2]], DecodeSettings(stop=("top", "zzz")))
    assert found.finish_reason == "stop"
    assert tokenizer.decode(ids).split("top")[0].endswith(found.text)
    assert found.text.endswith(" s")


def test_candidates_go_on_from_the_prompt(tokenizer):
    model, _ = parrot(tokenizer)
    ranked = candidates(model, tokenizer, "my favorite food is", ["food", "pizza", "too"])
    assert ranked[0].text == "pizza"
    assert ranked[0].logprob == 0
    assert ranked[0].share == 1
