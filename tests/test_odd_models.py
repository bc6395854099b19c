"""What a user's own model may be: attention, recurrence, normalisation, shared weights, no logits at all."""

from __future__ import annotations

import pytest
import torch
from odd_models import CLASSES, DRAWN, KNOWN, SHAPE, Attention, Pair
from torch import nn

from fl_privacy.attacks.gradient.matching import adversary_copy, gradient_matcher
from fl_privacy.defences import Chain, chain
from fl_privacy.federated.client import accuracy, gradient, logits
from fl_privacy.seeding import seeded, stream
from fl_privacy.split.cutting import cut
from fl_privacy.split.rules import SplitRules
from fl_privacy.split.segments import ServerSegment, client_step, segments


@pytest.mark.parametrize("victims", [1, 2])
@pytest.mark.parametrize("name", [*KNOWN, *DRAWN])
def test_the_gradient_of_a_guess_can_be_differentiated_exactly(name, victims):
    """Against central differences in double precision: vmap alone is 1 % off for layer normalisation."""
    rng = stream(0, "guess")
    with seeded(0, "model"):
        model = {**KNOWN, **DRAWN}[name]().double()
    images = torch.rand(victims, 2, *SHAPE, generator=rng, dtype=torch.float64).requires_grad_()
    targets = torch.rand(victims, 2, CLASSES, generator=rng, dtype=torch.float64).softmax(-1)
    direction = torch.randn(images.shape, generator=rng, dtype=torch.float64)
    match = gradient_matcher(adversary_copy(model, True), victims)

    def value(x):
        return match(x, targets).square().sum()

    (slope,) = torch.autograd.grad(value(images), images)
    step = 1e-6 * direction
    numeric = (value(images.detach() + step) - value(images.detach() - step)) / 2e-6
    assert float((slope * direction).sum()) == pytest.approx(float(numeric.detach()), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("victims", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_attention_leaves_the_kernels_of_others_as_they_were(victims, training):
    model = Attention().train(training)
    images = torch.rand(victims, 1, *SHAPE, generator=stream(0)).requires_grad_()
    targets = torch.full((victims, 1, CLASSES), 1 / CLASSES)
    fast = torch.backends.mha.get_fastpath_enabled()
    match = gradient_matcher(adversary_copy(model, True), victims)
    (slope,) = torch.autograd.grad(match(images, targets).square().sum(), images)
    assert float(slope.abs().max()) > 0
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_a_model_that_returns_a_tuple_is_told_what_to_do():
    x, y = torch.rand(2, *SHAPE), torch.tensor([0, 1])
    for use in (lambda: gradient(Pair(), x, y), lambda: accuracy(Pair(), x, y), lambda: logits(Pair(), x)):
        with pytest.raises(ValueError, match=r"returns a tuple.*return self\.net\(x\)\[0\]"):
            use()


def test_a_shared_weight_cannot_be_cut_in_two_and_a_shared_module_stays_at_both_places():
    act = nn.Tanh()
    model = nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act, nn.Linear(3, 2))
    x = torch.rand(2, 3)
    front, back = cut(model, "1")
    assert torch.equal(back(front(x)), model(x))
    assert len(front) + len(back) == 5
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match=r"'0\.weight' and '2\.weight' are one weight"):
        cut(model, "1")
    assert len(cut(model, "2")) == 2


def test_a_frozen_front_is_split_and_the_rest_learns():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    model[1].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rules = SplitRules(cut=("2",), learning_rate=0.1)
    client, module = segments(model, rules)
    x, y = torch.rand(3, *SHAPE), torch.tensor([0, 1, 2])
    for law in (Chain(), chain([{"name": "nopeek", "weight": 1.0}])):
        client_step(client, x, y, law, ServerSegment(module, rules), 0)
    assert torch.equal(model[1].weight, before["1.weight"])
    assert not torch.equal(model[3].weight, before["3.weight"])
