"""What is adapted, in every way and on every family: what moves, what stays, and that nothing changes at first."""

import copy

import pytest
import torch
from torch import nn

from idiolect.adapt import lora
from idiolect.adapt.edits import edit, quantise, trained, whole
from idiolect.adapt.heads import attach
from idiolect.adapt.settings import (
    AdapterSettings,
    LabelledSettings,
    LoraSettings,
    SelectiveSettings,
    SoftPromptSettings,
)
from idiolect.data.batch import Batch
from idiolect.errors import UserError
from idiolect.models.build import build
from idiolect.models.settings import DecoderSettings, EncoderDecoderSettings, EncoderSettings, RecurrentSettings
from idiolect.train import objectives, optimisers
from idiolect.train.settings import TrainSettings

V, D, T = 31, 14, 11
GPT2 = {"norm": "layer", "position": "learned", "mlp": "gelu", "attention_bias": "all", "mlp_bias": True}
BERT = {"norm": "layer", "norm_place": "residual", "position": "learned", "attention_bias": "all", "mlp_bias": True}
SETTINGS = {
    "llama": DecoderSettings(layers=2, heads=7, width=D, context=19),
    "gpt2": DecoderSettings(layers=3, heads=2, width=D, context=19, **GPT2),
    "bert": EncoderSettings(layers=2, heads=2, width=D, context=19, head="transform", mlp="gelu-exact", **BERT),
    "t5": EncoderDecoderSettings(layers=2, heads=2, width=D, context=19),
}
NAMES = [*SETTINGS, "labels", "causal labels"]
WAYS = {
    "lora": LoraSettings(rank=3),
    "dora": LoraSettings(rank=3, dora=True, targets=("attention.query", "attention.value")),
    "embedding": LoraSettings(rank=3, targets=("embedding", "attention.query")),
    "nf4": LoraSettings(rank=3, base="nf4", double_quantised=True),
    "int8": LoraSettings(rank=3, base="int8", dropout=0.1),
    "adapter": AdapterSettings(width=3),
    "soft-prompt": SoftPromptSettings(tokens=5),
    "norms": SelectiveSettings(norms=True),
    "last": SelectiveSettings(last_blocks=1, parameters=("embedding.weight",)),
}


def made(name, seed=5):
    if name in SETTINGS:
        return build(SETTINGS[name], V, seed=seed)
    base = SETTINGS["bert" if name == "labels" else "gpt2"]
    pool, hidden = ("first", "tanh") if name == "labels" else ("last", "none")
    settings = LabelledSettings(base=base, labels=("a", "b", "c"), pool=pool, hidden=hidden)
    return attach(build(base, V, seed=seed), settings, seed=seed)[0]


def batch_of(name, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids, other = (torch.randint(2, V, (3, T), generator=generator) for _ in range(2))
    lengths = torch.tensor([T, 4, 7])
    if name == "t5":
        return objectives.translate, Batch(ids, other, source=other, source_lengths=lengths)
    if name == "bert":
        return objectives.masked, Batch(ids, other, lengths=lengths)
    if name in SETTINGS:
        return objectives.next_token, Batch(ids, other)
    return objectives.labels, Batch(ids, torch.tensor([0, 2, 1]), lengths=lengths)


def loss(model, name):
    objective, batch = batch_of(name)
    return objective(model, batch).total


def allowed(name, way):
    return not (name == "bert" and way == "soft-prompt")  # rows of several texts


CASES = [(name, way) for name in NAMES for way in WAYS if allowed(name, way)]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_exactly_the_declared_tensors_move_though_it_is_evaluated_in_between(name, way):
    model = made(name)
    report = edit(model, WAYS[way], seed=3)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = optimisers.build(model, TrainSettings(learning_rate=0.1, weight_decay=0.1))
    for step in range(4):
        model.train()
        loss(model, name).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 1:
            model.eval()
            with torch.no_grad():
                loss(model, name)
    moved = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    shared = getattr(model, "shared", dict)()
    declared = {*report.touched} | {key for key, other in shared.items() if other in report.touched}
    assert moved == declared
    assert trained(model).keys() == {*report.touched}
    assert set(optimizer.named) == {*report.touched}
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize(("name", "way"), CASES)
def test_the_report_counts_what_moves(name, way):
    full = sum(p.numel() for p in made(name).parameters())
    model = made(name)
    report = edit(model, WAYS[way])
    moving = [p for p in model.parameters() if p.requires_grad]
    assert report.trainable == sum(p.numel() for p in moving) == sum(t.numel() for t in trained(model).values())
    assert report.bytes == 4 * report.trainable
    assert report.full == full
    new = 0 if way in ("norms", "last") else report.trainable
    if "labels" in name and new:
        new -= sum(p.numel() for key, p in model.named_parameters() if not key.startswith("base."))
    assert report.total == full + new
    assert (report.saved > 0) == (way in ("nf4", "int8"))


@pytest.mark.parametrize("way", ["lora", "dora", "embedding", "adapter", "norms"])
@pytest.mark.parametrize("name", NAMES)
def test_at_first_the_model_is_the_base_exactly(name, way):
    model, base = made(name).eval(), made(name).eval()
    edit(model, WAYS[way], seed=3)
    with torch.no_grad():
        assert torch.equal(loss(model, name), loss(base, name))


@pytest.mark.parametrize("way", ["lora", "adapter", "soft-prompt", "nf4"])
def test_what_is_new_depends_on_the_seed_and_its_name_alone(way):
    def first(name, seed):
        model = made(name)
        report = edit(model, WAYS[way], seed=seed)
        some = next(
            key for key in report.touched if key.endswith(("attention.query.pairs.default.A", "down", "prompt"))
        )
        return model.get_parameter(some)

    assert torch.equal(first("llama", 3), first("llama", 3))
    assert not torch.equal(first("llama", 3), first("llama", 4))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (LoraSettings(targets=("attention.querry",)), "no layer is called attention.querry"),
        (SelectiveSettings(parameters=("blocks.9.*",)), "no parameter is called blocks.9"),
        (SelectiveSettings(biases=True), "the model has no biases"),
        (SoftPromptSettings(tokens=19), "19 vectors leave nothing of a context of 19"),
    ],
)
def test_what_the_model_has_not_is_named(settings, problem):
    with pytest.raises(UserError, match=problem):
        edit(made("llama"), settings)


def test_families_without_such_layers_say_so():
    lstm = build(RecurrentSettings(kind="lstm", width=D), V)
    for settings, problem in (
        (LoraSettings(), "no linear layers of attention or MLP"),
        (AdapterSettings(), "no attention that an adapter"),
        (SoftPromptSettings(), "of kind lstm takes no soft prompt"),
        (SelectiveSettings(last_blocks=1), "has no blocks"),
    ):
        with pytest.raises(UserError, match=problem):
            edit(copy.deepcopy(lstm), settings)
    edit(lstm, SelectiveSettings(parameters=("head.*",)))
    mixture = build(DecoderSettings(layers=2, heads=7, width=D, context=13, experts={"count": 3, "width": 5}), V)
    with pytest.raises(UserError, match="no mlp that an adapter"):
        edit(copy.deepcopy(mixture), AdapterSettings())
    report = edit(mixture, LoraSettings(targets=("mlp.experts.*",)))
    assert len(report.touched) == 2 * 2 * 3 * 3  # A and B, layers, experts, gate, up and down


def test_selective_takes_biases_norms_and_the_last_blocks_of_each_stack():
    def chosen(name, **said):
        return set(edit(made(name), SelectiveSettings(**said)).touched)

    biases = chosen("gpt2", biases=True)
    assert "blocks.0.attention.query.bias" in biases and "norm.bias" in biases
    assert all(key.endswith("bias") for key in biases)
    norms = chosen("gpt2", norms=True)
    assert norms == {f"blocks.{i}.{n}_norm.{p}" for i in range(3) for n in ("attention", "mlp") for p in P} | {
        f"norm.{p}" for p in P
    }
    last = chosen("t5", last_blocks=1)
    assert {key.split(".blocks.")[1][0] for key in last} == {"1"}
    assert {key.partition(".")[0] for key in last} == {"encoder", "decoder"}
    labels = chosen("labels", parameters=("*.query.*",))
    assert {"head.weight", "head.bias", "dense.weight", "base.blocks.1.attention.query.weight"} <= labels


P = ("weight", "bias")


def test_several_adapters_lie_on_one_base_and_are_switched():
    model, ids = made("llama").eval(), torch.randint(2, V, (2, T), generator=torch.Generator().manual_seed(2))

    @torch.no_grad()
    def logits():
        return model.head(model.body(ids))

    base = logits()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = {}
    for name, settings in (("poet", LoraSettings(rank=3)), ("clerk", LoraSettings(rank=2, targets=("mlp.*",)))):
        lora.add(model, settings, seed=1, name=name)
        with torch.no_grad():
            for layer in lora.layers(model).values():
                if name in layer.pairs:
                    layer.pairs[name].B.normal_(generator=torch.Generator().manual_seed(len(name)))
        found[name] = logits()
    assert lora.names(model) == ["poet", "clerk"] and lora.active(model) == "clerk"
    lora.use(model, "poet")
    assert torch.equal(logits(), found["poet"]) and not torch.equal(found["poet"], found["clerk"])
    with lora.off(model):
        assert torch.equal(logits(), base)
    assert torch.equal(logits(), found["poet"])
    for name in ("poet", "clerk"):
        lora.use(model, name)
        lora.merge(model)
        torch.testing.assert_close(logits(), found[name], atol=1e-5, rtol=0)
    lora.use(model, None)  # which unmerges
    assert torch.equal(logits(), base)
    now = {name.replace(".linear.", "."): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(now[name], tensor) for name, tensor in kept.items())
    for wrong in ("a.b", "", "keys", "poet"):
        with pytest.raises(UserError):
            lora.add(model, LoraSettings(), name=wrong)
    with pytest.raises(UserError, match="no adapter poett"):
        lora.use(model, "poett")


@pytest.mark.parametrize("way", ["lora", "dora", "embedding", "int8", "nf4"])
def test_whole_gives_a_plain_model_of_the_same_results(way):
    model = made("labels").eval()
    edit(model, WAYS[way], seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".B"):
                parameter.normal_(generator=torch.Generator().manual_seed(7))
        before = loss(model, "labels")
        whole(model)
        torch.testing.assert_close(loss(model, "labels"), before, atol=1e-5, rtol=1e-5)
    assert {type(m) for m in model.modules() if isinstance(m, nn.Linear)} == {nn.Linear}
    assert model.state_dict().keys() == made("labels").state_dict().keys()
    assert model.edit is None and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("way", ["adapter", "soft-prompt"])
def test_what_no_plain_model_can_hold_is_refused_with_the_reason(way):
    model = made("llama")
    edit(model, WAYS[way])
    with pytest.raises(UserError, match="is no plain model: "):
        whole(model)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_base_computes_what_its_dequantised_weights_do(kind):
    """Forward and backward; and takes the bytes that it says."""
    model, plain = made("gpt2").eval(), made("gpt2").eval()
    before = sum(p.nbytes for p in plain.parameters())
    saved = quantise(model, LoraSettings(base=kind))
    for name, module in model.named_modules():
        if type(module).__name__ == "Quantised":
            plain.get_submodule(name).weight.data = module.weight.clone()
    held = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    assert saved == before - held > 0
    grads = []
    for some in (model, plain):
        some.requires_grad_(False)
        some.embedding.weight.requires_grad_(True)
        total = loss(some, "gpt2")
        total.backward()
        grads.append((total.detach(), some.embedding.weight.grad))
    torch.testing.assert_close(grads[0][0], grads[1][0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(grads[0][1], grads[1][1], atol=1e-6, rtol=1e-5)
