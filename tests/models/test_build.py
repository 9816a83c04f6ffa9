"""From settings to weights: drawn through seeds alone, the same whatever else is drawn."""

import subprocess
import sys

import pytest
import torch

from idiolect.models.build import KINDS, build
from idiolect.models.contract import LanguageModel, State
from idiolect.models.score import score
from idiolect.models.settings import (
    CbowSettings,
    DecoderSettings,
    EncoderDecoderSettings,
    EncoderSettings,
    NGramSettings,
    RecurrentSettings,
    Seq2SeqSettings,
)

V = 31
SETTINGS = {
    "ngram": NGramSettings(order=2),
    "rnn": RecurrentSettings(kind="rnn", width=5),
    "lstm": RecurrentSettings(kind="lstm", width=5, tied=True),
    "gru": RecurrentSettings(kind="gru", width=5),
    "seq2seq": Seq2SeqSettings(width=5),
    "decoder": DecoderSettings(layers=2, heads=1, width=6, position="learned"),
    "encoder": EncoderSettings(layers=2, heads=1, width=6, position="learned"),
    "encoder-decoder": EncoderDecoderSettings(layers=2, heads=1, width=6),
    "cbow": CbowSettings(width=5, left_only=True, loss="softmax"),
}
NEURAL = [kind for kind in SETTINGS if kind != "ngram"]
SOURCED = ("seq2seq", "encoder-decoder")


def test_every_kind_is_built_and_keeps_the_contract():
    assert list(KINDS) == list(SETTINGS)
    for kind, settings in SETTINGS.items():
        model = build(settings, V)
        assert isinstance(model, KINDS[kind])
        assert model.settings == settings and model.vocabulary == V and model.normalised
        assert isinstance(model, LanguageModel) == (kind != "encoder")
        if kind == "encoder":
            assert model.refusal
            continue
        source = torch.zeros(3, 5, dtype=torch.int64) if kind in SOURCED else None
        state = model.init_state(3, 7, source)
        assert isinstance(state, State)
        assert state.lengths.dtype == torch.int64 and state.lengths.tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", NEURAL)
def test_weights_depend_on_the_seed_alone(kind):
    settings = SETTINGS[kind]
    torch.manual_seed(1)
    one = build(settings, V, seed=3)
    after = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(torch.rand(()), after)  # torch's own generator was left alone
    two = build(settings, V, seed=3)
    other = build(settings, V, seed=4)
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters()):
        assert torch.equal(a, b), name
    assert not torch.equal(one.embedding.weight, other.embedding.weight)


def test_a_parameter_is_drawn_by_its_name():
    """A deeper model begins with the very weights of the shallower one."""
    shallow, deep = (build(DecoderSettings(layers=n, heads=1, width=6), V) for n in (1, 3))
    assert torch.equal(shallow.blocks[0].mlp.up.weight, deep.blocks[0].mlp.up.weight)
    assert torch.equal(shallow.embedding.weight, deep.embedding.weight)


@pytest.mark.parametrize("kind", [kind for kind in NEURAL if "tied" in type(SETTINGS[kind]).model_fields])
def test_tied_and_untied_heads(kind):
    tied, apart = (build(SETTINGS[kind].model_copy(update={"tied": flag}), V) for flag in (True, False))
    assert tied.head.weight is tied.embedding.weight
    assert apart.head.weight is not apart.embedding.weight
    assert not torch.equal(apart.head.weight, apart.embedding.weight)


@pytest.mark.parametrize("kind", NEURAL)
def test_the_meta_device_holds_shapes_only(kind):
    for shape, real in zip(
        build(SETTINGS[kind], V, device="meta").named_parameters(), build(SETTINGS[kind], V).named_parameters()
    ):
        assert shape[1].is_meta and shape[0] == real[0] and shape[1].shape == real[1].shape


def test_score_in_chunks_equals_score_at_once(monkeypatch):
    model = build(SETTINGS["decoder"], V).eval()
    ids = torch.randint(0, V, (5, 13), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([13, 1, 2, 0, 7])
    whole = score(model, ids, lengths)
    largest = []
    model.head.register_forward_hook(lambda _, __, logits: largest.append(logits.shape[0]))
    monkeypatch.setattr("idiolect.models.score.CHUNK", 3 * V + 1)
    torch.testing.assert_close(score(model, ids, lengths), whole, rtol=0, atol=1e-6)
    assert max(largest) == 3 and sum(largest) == 12 + 1 + 6  # only real positions meet the head
    assert not score(model, ids[:, :1]).any() and score(model, ids[:, :1]).shape == (5, 1)


def test_building_imports_neither_torchs_compiler_nor_its_algebra():
    code = (
        "import sys\nfrom idiolect.models.build import build\n"
        "from idiolect.models.settings import DecoderSettings, RecurrentSettings\n"
        "build(DecoderSettings(layers=1, heads=2, width=8, context=4), 7)\n"
        "build(RecurrentSettings(kind='lstm', layers=1, width=8, context=4), 7)\n"
        "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
