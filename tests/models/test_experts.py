"""Mixtures of experts: against transformers, by pencil, and that training evens out their load."""

import pytest
import torch
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func

from idiolect.data.batch import Batch
from idiolect.models.build import build
from idiolect.models.decoder_settings import ExpertSettings
from idiolect.models.experts import Experts, balance
from idiolect.models.settings import DecoderSettings
from idiolect.train import hooks, objectives, optimisers, schedules
from idiolect.train.loop import Step, fit
from idiolect.train.settings import Resolved, TrainSettings

D, E, K, W = 10, 5, 3, 7


def mixture(**changes):
    settings = DecoderSettings(heads=1, width=D, head_width=2, mlp_width=13)
    made = Experts(settings, ExpertSettings(**{"count": E, "per_token": K, "width": W, **changes}))
    generator = torch.Generator().manual_seed(3)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return made


def test_it_is_the_weighted_sum_of_the_chosen_experts():
    """Every token on its own, every expert read densely."""
    for normalised in (True, False):
        model = mixture(shared_width=11, normalised=normalised)
        x = torch.randn(2, 17, D)
        rows = x.view(-1, D)
        probabilities = (rows @ model.router.weight.T).softmax(-1)
        every = torch.stack([expert(rows) for expert in model.experts], 1)
        expected = []
        for row in range(len(rows)):
            chosen = sorted(range(E), key=lambda e: -probabilities[row, e].item())[:K]
            weights = probabilities[row, chosen] / (probabilities[row, chosen].sum() if normalised else 1)
            shared = torch.sigmoid(model.shared_gate(rows[row])) * model.shared(rows[row])
            expected.append((weights[:, None] * every[row, chosen]).sum(0) + shared)
        torch.testing.assert_close(model(x).view(-1, D), torch.stack(expected), rtol=0, atol=1e-5)


def test_it_is_mixtrals():
    config = MixtralConfig(hidden_size=D, intermediate_size=W, num_local_experts=E, num_experts_per_tok=K)
    config._experts_implementation = "eager"
    ours, theirs = mixture(), MixtralSparseMoeBlock(config)
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.router.weight)
        for e, expert in enumerate(ours.experts):
            theirs.experts.gate_up_proj[e] = torch.cat((expert.gate.weight, expert.up.weight))
            theirs.experts.down_proj[e] = expert.down.weight
    x = torch.randn(3, 13, D)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


def test_an_expert_reads_only_what_is_sent_to_it():
    model, seen = mixture(), []
    for expert in model.experts:
        expert.register_forward_hook(lambda module, inputs, out: seen.append(len(inputs[0])))
    model(torch.randn(4, 19, D))
    assert sum(seen) == 4 * 19 * K
    seen.clear()
    model(torch.randn(1, 1, D))
    assert seen == [1] * K


@pytest.mark.parametrize("masked", [False, True])
def test_a_layers_imbalance_is_that_of_transformers(masked):
    logits = torch.randn(2 * 17, E, generator=torch.Generator().manual_seed(5))
    probabilities = logits.softmax(-1)
    mask = torch.ones(2, 17, dtype=torch.int64)
    mask[1, 11:] = 0
    ours = balance(probabilities, probabilities.topk(K)[1], mask.flatten().bool() if masked else None)
    theirs = load_balancing_loss_func((logits,), E, K, mask if masked else None)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)


def test_imbalance_by_hand():
    """Two experts, one a token: of four tokens three go to the first; its mean probability is 0.6."""
    probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.2, 0.8]])
    chosen = torch.tensor([[0], [0], [0], [1]])
    assert float(balance(probabilities, chosen)) == pytest.approx(2 * (0.75 * 0.6 + 0.25 * 0.4))
    even = torch.full((4, 2), 0.5)
    assert float(balance(even, torch.tensor([[0], [1], [0], [1]]))) == pytest.approx(1.0)
    assert float(balance(probabilities, chosen, torch.tensor([False] * 3 + [True]))) == pytest.approx(2 * 0.8)


V, T = 31, 16
SMALL = DecoderSettings(
    layers=2, heads=2, width=16, context=T, experts={"count": 4, "per_token": 1, "width": 8, "balance": 0.3}
)


def batches(step):
    """Rows of a language with no more than three words at a time."""
    draw = torch.Generator().manual_seed(step)
    words = torch.randint(0, V, (16, 3), generator=draw)
    ids = words.gather(1, torch.randint(0, 3, (16, T + 1), generator=draw))
    return [Batch(ids[:, :-1], ids[:, 1:])]


def collapsed(weight):
    """A model to which all words look much alike, so that each layer sends them all to one expert."""
    experts = SMALL.experts.model_copy(update={"balance": weight})
    model = build(SMALL.model_copy(update={"experts": experts}), V, seed=1)
    with torch.no_grad():
        model.embedding.weight.add_(0.1)
        for block in model.blocks:
            block.mlp.router.weight.normal_(0, 1, generator=torch.Generator().manual_seed(2))
    return model


def trained(model, rate=0.003):
    """The steps of training it."""
    train = TrainSettings(steps=100, batch_tokens=16 * T, learning_rate=rate, optimizer="adamw", weight_decay=0.0)
    steps: list[Step] = []
    optimizer, schedule = optimisers.build(model, train), schedules.build(train)
    options = {"settings": train, "resolved": Resolved(), "hooks": [steps.append]}
    fit(model, batches, objectives.next_token, optimizer, schedule, **options)
    return steps


def fullest(model):
    """The share of the tokens that go to the fullest expert, in each layer."""
    chosen, held = [], []
    for block in model.blocks:
        held.append(block.mlp.register_forward_hook(lambda module, i, o: chosen.append(module.routed[1].flatten())))
    with torch.no_grad():
        model.train().body(batches(10**6)[0].ids)
    for hook in held:
        hook.remove()
    return [float(layer.bincount().max() / len(layer)) for layer in chosen]


def test_training_evens_out_the_load():
    model = collapsed(0.1)
    assert min(fullest(model)) > 0.95
    steps = trained(model)
    assert max(fullest(model)) < 0.45
    shares = [step.logs["auxiliary"] / step.count / 0.1 for step in steps]
    assert shares[0] == pytest.approx(4, rel=0.02)  # all of four experts' tokens go to one
    assert sum(shares[-10:]) / 10 == pytest.approx(1, rel=0.1)  # evenly
    figures = hooks.figures(steps[-1], "cpu")
    assert figures["auxiliary"] == pytest.approx(0.1 * shares[-1]) and figures["loss"] == steps[-1].loss


@pytest.mark.parametrize("weight", [0.1, 0.0])
def test_nothing_but_the_term_evens_it_out_where_only_the_routers_learn(weight):
    model = collapsed(weight)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("router" in name)
    trained(model, rate=0.01)
    assert max(fullest(model)) < 0.45 if weight else min(fullest(model)) > 0.95


def test_the_term_counts_once_for_each_label_and_not_in_evaluation():
    model = build(SMALL, V, seed=1)
    (batch,) = batches(0)
    with_it = objectives.next_token(model, batch)
    hidden = model.body(batch.ids)
    plain = torch.nn.functional.cross_entropy(model.head(hidden).flatten(0, 1), batch.labels.flatten(), reduction="sum")
    assert with_it.total.item() == pytest.approx((plain + model.auxiliary * batch.count).item(), rel=1e-6)
    assert with_it.logs["auxiliary"].item() == pytest.approx(model.auxiliary.item() * batch.count, rel=1e-6)
    model.eval()
    assert "auxiliary" not in objectives.next_token(model, batch).logs
    none = build(SMALL.model_copy(update={"experts": SMALL.experts.model_copy(update={"balance": 0.0})}), V)
    assert "auxiliary" not in objectives.next_token(none, batch).logs


def test_padding_has_no_part_in_the_balance():
    model = build(SMALL, V, seed=1)
    (batch,) = batches(0)
    model.body(batch.ids[:1, :9])
    alone = model.auxiliary.item()
    segments = torch.tensor([[0] * 9 + [-1] * 7])
    model.body(batch.ids[:1], segments)
    assert model.auxiliary.item() == pytest.approx(alone, rel=1e-5)


def test_recomputing_layers_changes_no_gradient():
    gradients = []
    for switch in (False, True):
        model = build(SMALL, V, seed=1)
        model.activation_checkpointing = switch
        objectives.next_token(model, batches(0)[0]).total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name
    assert gradients[0]["blocks.0.mlp.router.weight"].abs().max() > 0


def test_bits_per_byte_leave_the_term_out():
    step = Step(3, 2.5, 10, 1.0, 0.1, 1.0, {"bytes": 20, "auxiliary": 5.0})
    assert hooks.figures(step, "cpu")["bits_per_byte"] == pytest.approx((25 - 5) / 20 / 0.6931472, rel=1e-6)
