"""Soft prompts: what stands before a text, wherever it is read."""

import pytest
import torch

from idiolect.adapt.edits import edit
from idiolect.adapt.heads import attach
from idiolect.adapt.settings import LabelledSettings, SoftPromptSettings
from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import UserError
from idiolect.models import stepping
from idiolect.models.build import build
from idiolect.models.decoder import attention_maps
from idiolect.models.settings import DecoderSettings, EncoderDecoderSettings, EncoderSettings
from idiolect.testing import ByteTokenizer

V, D, T, N = 31, 14, 11, 5
SETTINGS = {
    "llama": DecoderSettings(layers=2, heads=7, kv_heads=1, width=D, context=29),
    "gpt2": DecoderSettings(layers=2, heads=2, width=D, context=29, norm="layer", position="learned", mlp="gelu"),
    "window": DecoderSettings(
        layers=3, heads=7, width=D, context=29, window=4, global_layers=[1], scaled_embedding=True
    ),
}


def prompted(settings, n=N, vocabulary=V):
    model = build(settings, vocabulary, seed=5).eval()
    edit(model, SoftPromptSettings(tokens=n, start="random"), seed=2)
    with torch.no_grad():
        model.prompt.normal_(generator=torch.Generator().manual_seed(4))
    return model


def ids_of(rows, length, seed=3):
    return torch.randint(2, V, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("name", SETTINGS)
def test_a_prompt_that_is_the_embedding_of_ids_is_these_ids(name):
    """Another model without a prompt, which reads the ids before the text, has the same hidden vectors."""
    model, plain = prompted(SETTINGS[name]), build(SETTINGS[name], V, seed=5).eval()
    first, ids = ids_of(1, N, seed=7), ids_of(2, T)
    factor = D**0.5 if SETTINGS[name].scaled_embedding else 1.0
    model.prompt.copy_(plain.embedding(first[0]) * factor)
    whole = plain.body(torch.cat((first.expand(2, -1), ids), dim=1))[:, N:]
    torch.testing.assert_close(model.body(ids), whole, atol=1e-5, rtol=0)
    maps = attention_maps(model, ids[0])
    theirs = attention_maps(plain, torch.cat((first[0], ids[0])))[:, :, N:, N:]
    torch.testing.assert_close(maps, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("name", SETTINGS)
def test_with_the_cache_and_without_rows_of_any_length_agree(name, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(stepping, "library", lambda: None)
    model, ids = prompted(SETTINGS[name]), ids_of(3, T)
    lengths = torch.tensor([T, 4, 7])
    state = model.init_state(3, T + 3)
    logits, state = model.step(ids, state, lengths)
    assert state.lengths.tolist() == [T, 4, 7]
    more = ids_of(3, 3, seed=8)
    steps = []
    for t in range(3):
        one, state = model.step(more[:, t : t + 1], state)
        steps.append(one)
    for row, length in enumerate(lengths.tolist()):
        text = torch.cat((ids[row, :length], more[row]))[None]
        alone = model.head(model.body(text))[0]
        torch.testing.assert_close(logits[row, :length], alone[:length], atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.cat(steps, 1)[row], alone[length:], atol=1e-5, rtol=0)
    state.truncate(lengths)
    order = torch.tensor([2, 0, 1])
    again, _ = model.step(more[order, :1], state.select(order))
    torch.testing.assert_close(again, steps[0][order], atol=1e-5, rtol=0)
    scores = model.score(ids, lengths)
    torch.testing.assert_close(
        scores[1, 1:4], logits.log_softmax(-1)[1, :3].gather(-1, ids[1, 1:4, None])[:, 0], atol=1e-5, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("name", SETTINGS)
def test_packed_texts_each_have_the_prompt_before_them(name):
    model = prompted(SETTINGS[name])
    texts = [ids_of(1, length, seed=length) for length in (4, 6, 3)]
    segments = torch.tensor([[0] * 4 + [1] * 6 + [2] * 3 + [-1] * 2])
    packed = torch.cat((*texts, torch.zeros(1, 2, dtype=torch.int64)), dim=1)
    hidden = model.body(packed, segments)
    assert hidden.shape == (1, 15, D)
    for text, part in zip(texts, hidden.split([4, 6, 3, 2], dim=1)):
        torch.testing.assert_close(model.body(text), part, atol=1e-5, rtol=0)


def test_the_context_is_shorter_by_the_prompt():
    model = prompted(SETTINGS["gpt2"])
    assert model.context == 24
    model.body(ids_of(1, 24))
    for ask in (lambda: model.body(ids_of(1, 25)), lambda: model.init_state(1, 25)):
        with pytest.raises(UserError, match="more than the context of 24"):
            ask()
    bytes_ = prompted(SETTINGS["llama"], vocabulary=258)
    written = complete(bytes_, ByteTokenizer(), ["ab"], DecodeSettings(max_tokens=99, temperature=1.0, seed=3))[0]
    assert len(written.ids) <= 24 - 3 + 1


@torch.no_grad()
def test_an_encoder_decoder_reads_it_before_every_source():
    settings = EncoderDecoderSettings(layers=2, heads=2, width=D, context=19, source_context=16)
    model, plain = prompted(settings), build(settings, V, seed=5).eval()
    first, source, ids = ids_of(1, N, seed=7), ids_of(3, 9, seed=1), ids_of(3, T)
    model.prompt.copy_(plain.embedding(first[0]))
    lengths = torch.tensor([9, 2, 5])
    told = torch.cat((first.expand(3, -1), source), dim=1)
    expected = plain.body(ids, told, lengths + N)
    torch.testing.assert_close(model.body(ids, source, lengths), expected, atol=1e-5, rtol=0)
    state = model.init_state(3, T, source, lengths)
    logits, _ = model.step(ids, state)
    torch.testing.assert_close(logits, plain.head(expected), atol=1e-5, rtol=0)
    assert model.longest_source == 11
    assert model.alignments(ids[0], source[0]).shape == (2, 2, T, 9)
    with pytest.raises(UserError, match="12 positions of source are more than the context of 11"):
        model.body(ids, ids_of(3, 12))


@torch.no_grad()
@pytest.mark.parametrize("pool", ["first", "mean", "last"])
def test_a_text_under_a_head_for_labels_does_not_mind_its_padding(pool):
    base = EncoderSettings(layers=2, heads=2, width=D, context=19, norm_place="residual", position="learned")
    labelled, _ = attach(build(base, V, seed=5), LabelledSettings(base=base, labels=("a", "b"), pool=pool), seed=1)
    edit(labelled, SoftPromptSettings(tokens=N))
    labelled.eval()
    ids, lengths = ids_of(3, T), torch.tensor([T, 1, 7])
    together = labelled.logits(labelled.body(ids, lengths), lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = labelled.logits(labelled.body(ids[row : row + 1, :length]))
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)
    assert (labelled.context, labelled.before) == (14, N)
