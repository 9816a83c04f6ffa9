"""OT7: the computation graph of any small model: a node per variable, parameter, intercept, constant, and the loss."""

import importlib
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from idiolect import api
from idiolect.adapt.heads import Labelled
from idiolect.adapt.settings import LabelledSettings
from idiolect.cli import run
from idiolect.errors import UserError
from idiolect.interop import graph
from idiolect.interop.folder import save
from idiolect.models.build import build
from idiolect.models.graph import trace
from idiolect.models.settings import CbowSettings, DecoderSettings, EncoderSettings, RecurrentSettings, Seq2SeqSettings
from idiolect.tokens.learn import train
from idiolect.tokens.settings import TokenizerSettings

LESSONS = Path(__file__).parents[2] / "examples" / "lessons"
NODE = re.compile(r'  (n\d+) \[label="([^"]*)", xlabel="([^"]*)", class=(\w+)\];')
EDGE = re.compile(r"  (n\d+) -> (n\d+);")


def parsed(text):
    """DOT → {name outside: (kind, function inside, names of what it is computed from)}; nothing else may be there."""
    first, shape, *lines, last = text.splitlines()
    assert (first.startswith("digraph "), shape, last) == (True, "  node [shape=box];", "}")
    found, names = {}, {}
    for line in lines:
        if match := NODE.fullmatch(line):
            names[match[1]] = match[3]
            found[match[3]] = (match[4], match[2], [])
        else:  # directed, and without a label
            before, after = EDGE.fullmatch(line).groups()
            found[names[after]][2].append(names[before])
    assert len(found) == len(names)
    return found


@pytest.fixture
def lesson(monkeypatch):
    monkeypatch.syspath_prepend(LESSONS)
    return importlib.import_module("graph")


def test_OT7_the_one_hidden_layer_net_has_exactly_the_listed_nodes(lesson, tmp_path):
    lesson.main([str(tmp_path / "net.dot")])
    assert parsed((tmp_path / "net.dot").read_text(encoding="utf-8")) == {
        "x": ("constant", "3", []),
        "y": ("constant", "number", []),
        "α": ("parameter", "5 × 3", []),
        "α₀": ("parameter", "5", []),
        "β": ("parameter", "2 × 5", []),
        "β₀": ("parameter", "2", []),
        "a": ("intermediate", "linear", ["x", "α", "α₀"]),
        "z": ("intermediate", "sigmoid", ["a"]),
        "b": ("intermediate", "linear", ["z", "β", "β₀"]),
        "J": ("loss", "cross_entropy", ["b", "y"]),
    }


def test_OT7_the_picture_holds_every_box_with_its_name_outside(lesson, tmp_path):
    lesson.main([str(tmp_path / "net.svg")])
    page = ET.fromstring((tmp_path / "net.svg").read_text(encoding="utf-8"))
    space = "{http://www.w3.org/2000/svg}"
    boxes = [r for r in page.iter(f"{space}rect") if r.get("height") == str(graph.BOX)]
    assert len(boxes) == 10
    spans = [(float(r.get("x")), float(r.get("y")), float(r.get("width"))) for r in boxes]
    inside = {}
    for text in page.iter(f"{space}text"):
        x, y = float(text.get("x")), float(text.get("y"))
        held = [i for i, (left, top, width) in enumerate(spans) if left <= x <= left + width and top <= y <= top + 26]
        if text.get("class") == "name":
            assert not held
        elif held:
            inside[held[0]] = text.text
    assert sorted(inside.values()) == sorted(
        ["3", "number", "5 × 3", "5", "2 × 5", "2", "linear", "sigmoid", "linear", "cross_entropy"]
    )
    assert len(page.findall(f"{space}path")) == 9  # an edge each
    for i, one in enumerate(spans):
        for other in spans[:i]:
            assert one[1] != other[1] or one[0] + one[2] < other[0] or other[0] + other[2] < one[0]


def test_OT7_control_flow_makes_the_graph():
    """A loop is as long as it ran, what the loss does not need is left out, a change in place is a new variable."""
    w, x = torch.ones((), requires_grad=True), torch.tensor(2.0)

    def forward():
        h = x
        for _ in range(3):
            h = torch.tanh(w * h)
        unused = h * 7
        total = torch.zeros(2)
        total[0] = h
        assert unused is not None
        return total.sum()

    nodes = trace(forward, {"w": w, "x": x})
    functions = [node.function for node in nodes]
    assert functions.count("tanh") == functions.count("mul") == 3
    (change,) = (node for node in nodes if node.function.startswith("setitem"))
    assert [nodes[i].function for i in change.inputs] == ["zeros(2)", "tanh"]
    assert nodes[-1].kind == "loss" and nodes[-1].inputs == (nodes.index(change),)


TOKENIZER = train(["a b c d e f g"], TokenizerSettings(kind="word", size=10))
LABELS = LabelledSettings(base=DecoderSettings(layers=1, heads=1, width=6), labels=("no", "yes"), pool="last")
MODELS = {
    "rnn": RecurrentSettings(kind="rnn", width=5),
    "lstm": RecurrentSettings(kind="lstm", width=5, layers=2),
    "gpt": DecoderSettings(layers=2, heads=2, width=8),
    "encoder": EncoderSettings(layers=1, heads=1, width=6),
    "seq2seq": Seq2SeqSettings(width=5),
    "frames": Seq2SeqSettings(width=5, source_features=3),
    "cbow": CbowSettings(width=3, window=2),
    "left": CbowSettings(width=3, window=2, left_only=True, loss="softmax"),
}


@pytest.mark.parametrize("name", MODELS)
def test_OT7_any_small_model_is_drawn_with_all_that_its_loss_moves(name, tmp_path):
    """Every parameter with a gradient is a node, and no other."""
    model = build(MODELS[name], TOKENIZER.size, seed=1).eval()
    save(tmp_path / "model", model, TOKENIZER, {})
    arguments = [str(tmp_path / "model"), str(tmp_path / "graph.dot"), "--to", "graph", "--text", "a c b"]
    assert run(["export", *arguments]) == 0
    found = parsed((tmp_path / "graph.dot").read_text(encoding="utf-8"))
    kinds = [kind for kind, _, _ in found.values()]
    assert kinds.count("loss") == 1 and found["loss"][1] == "cross_entropy"
    assert all((not inputs) == (kind in ("parameter", "constant")) for kind, _, inputs in found.values())
    assert {"ids", "labels"} <= {node for node, (kind, _, _) in found.items() if kind == "constant"}
    moved = gradients(model, name)
    assert {node for node, (kind, _, _) in found.items() if kind == "parameter"} == moved
    made = api.export_model(tmp_path / "model", tmp_path / "graph.svg", to="graph", text="a c b")
    assert made["nodes"] == len(found) and made["edges"] == sum(len(inputs) for _, _, inputs in found.values())
    ET.parse(tmp_path / "graph.svg")


def gradients(model, name):
    """The parameters that the loss of "a c b" depends on, by autograd."""
    ids = TOKENIZER.encode("a c b")
    fed, labels = torch.tensor([[TOKENIZER.begin_id, *ids]]), torch.tensor([*ids, TOKENIZER.end_id])
    if name in ("encoder", "cbow"):
        ids = TOKENIZER.framed(ids) if name == "encoder" else ids
        fed, labels = torch.tensor([ids]), torch.tensor(ids)
    source = {"seq2seq": labels[None], "frames": torch.ones(1, 4, 3)}.get(name)
    hidden = model.body(fed) if source is None else model.body(fed, source)
    logits = model.head(model.transform(hidden) if name == "encoder" else hidden)
    torch.nn.functional.cross_entropy(logits[0], labels).backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_OT7_a_model_with_labels_is_drawn_too():
    model = Labelled(LABELS, TOKENIZER.size, build(LABELS.base, TOKENIZER.size))
    nodes = graph.of_model(model.eval(), TOKENIZER)
    assert "head.weight" in {node.name for node in nodes} and nodes[-1].function == "cross_entropy"


def test_OT7_what_cannot_be_drawn_is_refused(tmp_path):
    save(tmp_path / "model", build(CbowSettings(width=3), TOKENIZER.size), TOKENIZER, {})
    for target, options, message in (
        ("graph.png", {"to": "graph"}, "neither DOT nor SVG"),
        ("graph.svg", {"to": "graph", "text": ""}, "no token to predict"),
        ("folder", {"to": "hf", "text": "a"}, "a text is for a graph"),
    ):
        with pytest.raises(UserError, match=message):
            api.export_model(tmp_path / "model", tmp_path / target, **options)
        assert not (tmp_path / target).exists()
