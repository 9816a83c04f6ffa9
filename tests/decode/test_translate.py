"""A source's answer is the same however it is asked; the verbs translate and explore --attention; who is refused."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from idiolect import api, cli
from idiolect.decode import attention
from idiolect.decode.beam import beam_search
from idiolect.decode.settings import DecodeSettings
from idiolect.decode.translate import alignments, source_ids, start_id, translate
from idiolect.errors import UserError
from idiolect.interop import folder
from idiolect.models.build import build
from idiolect.models.settings import (
    DecoderSettings,
    EncoderDecoderSettings,
    EncoderSettings,
    RecurrentSettings,
    Seq2SeqSettings,
)
from idiolect.report import svg_heat
from idiolect.testing import ByteTokenizer
from idiolect.tokens import learn
from idiolect.tokens.settings import TokenizerSettings

TOKENIZER = ByteTokenizer()
TEXTS = ["the cat", "a", "the dog sat on the log", "a", "mats & cats"]
MODELS = {
    "attention": Seq2SeqSettings(layers=2, width=13, context=61, source_context=31),
    "one vector": Seq2SeqSettings(cell="lstm", width=11, attention="none", context=61),
}
SETTINGS = {
    "greedy": DecodeSettings(temperature=0, max_tokens=13),
    "ancestral": DecodeSettings(max_tokens=13, seed=5),
    "beams": DecodeSettings(max_tokens=7, beams=3),
}


def sharp(settings, vocabulary=TOKENIZER.size):
    """Choices that depend on what was read."""
    model = build(settings, vocabulary, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.eval()


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    return sharp(MODELS[request.param])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Model folders of each kind with a tokenizer."""
    base = tmp_path_factory.mktemp("models")
    tokenizer = learn.train(["the cat sat on the mat and cost $5 or $7"], TokenizerSettings(kind="word", size=50))
    kinds = {**MODELS, "decoder": DecoderSettings(layers=2, heads=2, width=8, context=31)}
    kinds["rnn"] = RecurrentSettings(kind="rnn", width=5)
    kinds["encoder"] = EncoderSettings(layers=3, heads=2, width=8, context=31, norm_place="residual")
    kinds["transformer"] = EncoderDecoderSettings(layers=2, encoder_layers=3, heads=2, width=8, context=31)
    for name, settings in kinds.items():
        folder.save(base / name, sharp(settings, tokenizer.size), tokenizer, {})
    return base


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_batched_is_single(model, settings):
    sources = [source_ids(model, TOKENIZER, text) for text in TEXTS]
    together = translate(model, TOKENIZER, sources, settings)
    assert len({found.ids for found in together}) > 2  # the source matters
    for i, source in enumerate(sources):
        if settings.beams > 1:
            best = beam_search(model, TOKENIZER, [0], settings, source=source)[0]
            assert (best.text, best.ids) == (together[i].text, together[i].ids)
        else:  # alone, at the place whose draws it would get in the batch
            alone = translate(model, TOKENIZER, [source] * (i + 1), settings)[i]
            assert alone.ids == together[i].ids
            assert alone.logprobs == pytest.approx(together[i].logprobs, abs=1e-5)


def test_greedy_follows_the_body(model):
    """The most probable next token under the uncached model, one after the other."""
    source = source_ids(model, TOKENIZER, "the cat")
    (found,) = translate(model, TOKENIZER, [source], SETTINGS["greedy"])
    ids = [start_id(model.settings, TOKENIZER)]
    for expected in found.ids:
        with torch.no_grad():
            logits = model.head(model.body(torch.tensor([ids]), source[None]))[0, -1].clone()
        logits[TOKENIZER.pad_id] = -torch.inf
        assert int(logits.argmax()) == expected
        ids.append(expected)


def test_a_model_being_trained_answers_without_dropout():
    plain = sharp(MODELS["attention"].model_copy(update={"dropout": 0.5}))
    sources = [source_ids(plain, TOKENIZER, text) for text in TEXTS]
    expected = translate(plain, TOKENIZER, sources, SETTINGS["greedy"])
    plain.train()
    assert translate(plain, TOKENIZER, sources, SETTINGS["greedy"]) == expected
    assert plain.training


def test_the_verb_answers_texts_and_lines(folders, tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat\n\nthe mat sat\n")
    found = api.translate(folders / "attention", "the mat sat", attention=True)
    many = api.translate(folders / "attention", str(lines), file=True, attention=True)
    assert [one["text"] for one in many["translations"]] == many["text"].split("\n")
    assert many["translations"][1]["text"] == ""
    third = many["translations"][2]
    assert third["ids"] == found["ids"] and third["logprobs"] == pytest.approx(found["logprobs"], abs=1e-5)
    seen = found["attention"]
    assert seen["source"][:3] == ["the", "mat", "sat"] and len(seen["source"]) == 4
    assert len(seen["weights"]) == len(seen["target"]) == len(found["ids"])
    assert all(len(row) == 4 and sum(row) == pytest.approx(1) for row in seen["weights"])
    assert cli.run(["translate", str(folders / "attention"), "the mat sat", "--json", "--attention"]) == 0
    assert json.loads(capsys.readouterr().out)["attention"] == seen
    assert cli.run(["translate", str(folders / "attention"), "the cat", "--beams", "2"]) == 0
    (expected,) = api.translate(folders / "attention", ["the cat"], DecodeSettings(beams=2))["translations"]
    assert capsys.readouterr().out == expected["text"] + "\n"
    assert cli.run(["translate", str(folders / "attention"), str(lines), "--file"]) == 0
    assert capsys.readouterr().out == many["text"] + "\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["generate", "attention", "the cat"], "idiolect translate"),
        (["score", "attention", "the cat"], "idiolect translate"),
        (["explore", "attention", "the cat"], "idiolect translate"),
        (["translate", "decoder", "the cat"], "answers no text"),
        (["translate", "rnn", "the cat"], "answers no text"),
        (["translate", "attention", "the " * 31], "at most 31"),
        (["translate", "attention", "the cat", "--attention"], "--json"),
        (["translate", "one vector", "the cat", "--attention", "--json"], "no attention"),
        (["explore", "one vector", "the cat", "--attention", "OUT.html"], "no attention"),
        (["explore", "rnn", "the cat", "--attention", "OUT.html"], "no attention"),
        (["explore", "decoder", "the cat", "--attention", "OUT.html", "--target", "a"], "leave it out"),
        (["explore", "decoder", "the cat", "--target", "a"], "without attention"),
        (["explore", "attention", "the cat", "--attention", "OUT.jpg"], ".png or a .html"),
        (["explore", "decoder", "the", "--attention", "OUT.html", "--html", "a.html"], "no effect"),
    ],
)
def test_who_is_refused_and_why(folders, tmp_path, capsys, arguments, problem):
    verb, name, *rest = (word.replace("OUT", str(tmp_path / "out")) for word in arguments)
    assert cli.run([verb, str(folders / name), *rest]) == 2
    assert problem in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def squares(html):
    """The titles of the squares of each heat map of a page."""
    pictures = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.S)]
    return [[title.text for title in picture.iter("{http://www.w3.org/2000/svg}title")] for picture in pictures]


def test_a_page_shows_every_weight_with_both_tokens(folders, tmp_path):
    found = api.explore(folders / "attention", "the mat sat", attention=tmp_path / "a.html", target="cat cost")
    (one,) = found["maps"]
    assert one["rows"][:2] == ("cat", "cost") and one["columns"][:3] == ("the", "mat", "sat")
    assert found["target"] == "cat cost"
    html = (tmp_path / "a.html").read_text()
    expected = [
        f"{row or '∅'} reads {column or '∅'}: {weight:.3f}"
        for row, weights in zip(one["rows"], one["weights"], strict=True)
        for column, weight in zip(one["columns"], weights, strict=True)
    ]
    assert squares(html) == [expected]


def test_what_a_model_answers_is_what_it_is_shown_with(folders, tmp_path):
    found = api.explore(folders / "attention", "the mat sat", attention=tmp_path / "a.html")
    answered = api.translate(folders / "attention", "the mat sat", attention=True)
    assert found["target"] == answered["text"]
    assert [list(row) for row in found["maps"][0]["weights"]] == answered["attention"]["weights"]


def test_a_decoder_has_a_map_for_each_head_and_their_mean(folders, tmp_path):
    found = api.explore(folders / "decoder", "the mat sat", attention=tmp_path / "a.html")
    assert len(found["maps"]) == 1 + 2 * 2 and "mean" in found["maps"][0]["name"]
    weights = torch.tensor([one["weights"] for one in found["maps"]])
    torch.testing.assert_close(weights[0], weights[1:].mean(0))
    assert (weights.triu(1) == 0).all() and weights.sum(-1).sub(1).abs().max() < 1e-5
    assert len(squares((tmp_path / "a.html").read_text())) == 5


def test_an_encoder_looks_both_ways(folders, tmp_path):
    found = api.explore(folders / "encoder", "the mat sat", attention=tmp_path / "a.html")
    weights = torch.tensor([one["weights"] for one in found["maps"]])
    assert len(weights) == 1 + 3 * 2 and (weights > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))


def test_a_transformer_that_answers_has_maps_of_the_source_and_of_both_sides(folders, tmp_path):
    found = api.explore(folders / "transformer", "the mat sat", attention=tmp_path / "a.html", target="cat on")
    kinds = {}
    for one in found["maps"]:
        kinds.setdefault(one["name"].partition(",")[0], []).append(torch.tensor(one["weights"]))
    assert {name: (len(maps), *maps[0].shape) for name, maps in kinds.items()} == {
        "cross-attention": (1 + 2 * 2, 3, 4),
        "self-attention of the decoder": (1 + 2 * 2, 3, 3),
        "self-attention of the encoder": (1 + 3 * 2, 4, 4),
    }
    for maps in kinds.values():
        assert all(weights.sum(-1).sub(1).abs().max() < 1e-5 for weights in maps)
    assert all((weights.triu(1) == 0).all() for weights in kinds["self-attention of the decoder"])
    ids = folder.load(folders / "transformer").tokenizer.encode("cat on")
    assert found["maps"][0]["rows"][:2] == ("cat", "on") and len(ids) == 2
    answered = api.translate(folders / "transformer", "the mat sat", attention=True)
    shown = api.explore(folders / "transformer", "the mat sat", attention=tmp_path / "a.html")["maps"][0]
    torch.testing.assert_close(torch.tensor(shown["weights"]), torch.tensor(answered["attention"]["weights"]))


def test_a_picture_is_written_whole(folders, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.png"
    api.explore(folders / "attention", "the mat cost $5 or $7", attention=path)  # two dollars are no formula
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG") and data.rstrip().endswith(b"IEND\xaeB`\x82")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_more_squares_than_anyone_can_look_at_are_refused(model, tmp_path, monkeypatch):
    if model.attention is None:
        return
    monkeypatch.setattr(attention, "CELLS", 8 * 3 - 1)
    seen = attention.look(model, TOKENIZER, "the cat", "ab", SETTINGS["greedy"])
    with pytest.raises(UserError, match="too many"):
        attention.write(seen, tmp_path / "a.html")


def test_alignments_have_a_row_for_each_token_written():
    model = sharp(MODELS["attention"])
    source = source_ids(model, TOKENIZER, "the cat")
    weights = alignments(model, TOKENIZER, source, [5, 6, 0])
    again = model.alignments(torch.tensor([0, 5, 6]), source)
    assert weights.shape == (1, 1, 3, 8) and torch.equal(weights, again)


def test_a_heat_map_by_hand():
    picture = ElementTree.fromstring(svg_heat("m", ["a", " <b>"], ["c"], [[0.25], [1.0]], ("out", "in")))
    cells = list(picture.iter("{http://www.w3.org/2000/svg}rect"))
    assert [cell.get("fill-opacity") for cell in cells] == ["0.280", "1.000"]
    assert [cell[0].text for cell in cells] == ["a reads c: 0.250", "␣<b> reads c: 1.000"]
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["m", "out ↓", "in →", "a", "␣<b>", "c"]
