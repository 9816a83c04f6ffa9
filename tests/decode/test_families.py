"""Every family writes the same through the one state, however it is asked; a decoder writes what transformers does."""

import pytest
import torch

from idiolect.decode.beam import beam_search
from idiolect.decode.generate import complete, stream
from idiolect.decode.settings import DecodeSettings
from idiolect.errors import UserError
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, NGramSettings, RecurrentSettings
from idiolect.testing import ByteTokenizer


class Endless(ByteTokenizer):
    """Bytes whose id 0 begins a text and never ends it, so that texts go on."""

    pad_id = 0
    end_id = 1


TOKENIZER = ByteTokenizer()
TEXT = "the cat sat on the mat. the dog sat on the log. a cat and a dog met on a mat! "
PROMPTS = ["", "the ", "a cat and a d", "the dog sat on the log. ", "the "]
NEURAL = {
    "rnn": RecurrentSettings(kind="rnn", layers=2, width=13),
    "lstm": RecurrentSettings(kind="lstm", width=11),
    "gru": RecurrentSettings(kind="gru", layers=2, width=11),
    "llama": DecoderSettings(layers=2, heads=2, width=14, head_width=6, kv_heads=1, context=61),
    "gpt2": DecoderSettings(
        layers=2, heads=3, width=15, context=61, norm="layer", position="learned", mlp="gelu", attention_bias="all"
    ),
    "window": DecoderSettings(layers=2, heads=2, width=12, context=61, window=5),
}
COUNTED = {
    name: NGramSettings(order=4, smoothing=name) for name in ("add-k", "stupid-backoff", "kneser-ney", "infinite")
}


class Documents:
    """Texts to count."""

    ids = torch.tensor(TOKENIZER.encode(TEXT * 3)).numpy()
    offsets = torch.tensor([0, len(TEXT), 3 * len(TEXT)]).numpy()


@pytest.fixture(params=[*NEURAL, *COUNTED], scope="module")
def model(request):
    if request.param in COUNTED:
        return build(COUNTED[request.param], TOKENIZER.size).fit(Documents)
    model = build(NEURAL[request.param], TOKENIZER.size, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():  # sharper than fresh weights, so that choices depend on what was read
            parameter.mul_(3)
    return model.eval()


SETTINGS = {
    "greedy": DecodeSettings(temperature=0, max_tokens=13),
    "ancestral": DecodeSettings(max_tokens=13, seed=5),
    "filtered": DecodeSettings(max_tokens=13, seed=5, temperature=0.8, top_k=50, top_p=0.95, repetition_penalty=1.1),
    "beams": DecodeSettings(max_tokens=7, beams=3),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_batched_is_single_is_streamed(model, settings):
    together = complete(model, TOKENIZER, PROMPTS, settings)
    assert len({found.text for found in together}) > 1
    for request, (prompt, found) in enumerate(zip(PROMPTS, together, strict=True)):
        (alone,) = complete(model, TOKENIZER, [prompt], settings, [request])
        assert (alone.text, alone.ids, alone.finish_reason) == (found.text, found.ids, found.finish_reason)
        assert alone.logprobs == pytest.approx(found.logprobs, abs=1e-5)
        assert "".join(p.text for p in stream(model, TOKENIZER, prompt, settings, request)) == found.text


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_cached_logprobs_are_those_of_scoring_the_whole_text(model, settings):
    for prompt, found in zip(PROMPTS, complete(model, TOKENIZER, PROMPTS, settings), strict=True):
        ids = [0, *TOKENIZER.encode(prompt), *found.ids]
        scores = model.score(torch.tensor([ids]))[0, -len(found.ids) :]
        if model.normalised:  # a scorer's own numbers are not log-probabilities of a distribution
            assert found.logprobs == pytest.approx(scores.tolist(), abs=1e-5)


def test_cached_choices_are_those_without_a_cache(model):
    (found,) = complete(model, TOKENIZER, ["the d"], SETTINGS["greedy"])
    ids = [0, *TOKENIZER.encode("the d")]
    for id_ in found.ids:
        with torch.no_grad():
            logits, _ = model.step(torch.tensor([ids]), model.init_state(1, len(ids)), last=True)
        logits[..., TOKENIZER.pad_id] = -torch.inf
        assert id_ == int(logits.argmax())
        ids.append(id_)


def test_an_mle_model_ends_where_it_has_never_been():
    model = build(NGramSettings(order=3, smoothing="mle"), TOKENIZER.size).fit(Documents)
    found = complete(model, TOKENIZER, ["the zebra", "the c"], DecodeSettings(temperature=0, max_tokens=2))
    assert [(f.text, f.finish_reason) for f in found] == [("", "unseen_context"), ("at", "length")]
    beams = beam_search(model, TOKENIZER, "the zebra", DecodeSettings(beams=2))
    assert [h.finish_reason for h in beams] == ["unseen_context"]


def test_a_decoder_stops_when_its_context_is_full():
    model = build(NEURAL["llama"], TOKENIZER.size)
    prompts = ["x" * length for length in (5, 59, 60)]  # and one for begin-of-text
    found = complete(model, Endless(), prompts, DecodeSettings(max_tokens=100, temperature=0))
    assert [(len(f.ids), f.finish_reason) for f in found] == [(56, "length"), (2, "length"), (1, "length")]
    with pytest.raises(UserError, match="62 tokens, the model reads at most 61"):
        complete(model, TOKENIZER, ["x" * 61], DecodeSettings())


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A GPT-2 of transformers, and ours read from its folder."""
    transformers = pytest.importorskip("transformers")
    from idiolect.interop.folder import load

    config = transformers.GPT2Config(
        vocab_size=TOKENIZER.size, n_positions=61, n_embd=12, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(7)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(6)
    folder = tmp_path_factory.mktemp("gpt2")
    theirs.save_pretrained(folder)
    return theirs, load(folder).model


def theirs_writes(theirs, prompt, **options):
    ids = torch.tensor([[0, *TOKENIZER.encode(prompt)]])
    suppressed = {"suppress_tokens": [0, TOKENIZER.pad_id], "eos_token_id": None, "pad_token_id": 1}
    with torch.no_grad():
        out = theirs.generate(ids, attention_mask=torch.ones_like(ids), **{**suppressed, **options})
    return out[0, ids.shape[1] :].tolist()


def test_greedy_is_that_of_transformers(pair):
    theirs, ours = pair
    for penalty in (1.0, 1.5):
        settings = DecodeSettings(temperature=0, max_tokens=23, repetition_penalty=penalty)
        for prompt in ("a", "hello", "the cat"):
            expected = theirs_writes(
                theirs, prompt, do_sample=False, max_new_tokens=23, repetition_penalty=penalty, suppress_tokens=[1]
            )
            (found,) = complete(ours, TOKENIZER, [prompt], settings)
            assert list(found.ids) == expected[: len(found.ids)]
            assert len(set(found.ids)) > 3


@pytest.mark.parametrize("beams", [2, 3, 5])
def test_beam_search_is_that_of_transformers(pair, beams):
    theirs, ours = pair
    for prompt in ("a", "hello", "the cat"):
        expected = theirs_writes(theirs, prompt, num_beams=beams, do_sample=False, max_new_tokens=17)
        ids = [0, *TOKENIZER.encode(prompt)]
        found = beam_search(ours, Endless(), ids, DecodeSettings(beams=beams, max_tokens=17))
        assert list(found[0].ids) == expected
        assert len(set(expected)) > 3
