"""Attacks on updates of several steps: the surrogate gradient, and the order of the mini-batches by own loss."""

import pytest
import torch
import torch.nn.functional as F
from test_local_training import CLASSES, IMAGES, released
from test_map import observe_update

from fl_privacy.attacks.gradient.local_steps import matcher_for
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.gradient.matching import observed_gradient, observed_step
from fl_privacy.attacks.gradient.orders import Taken, improved
from fl_privacy.attacks.gradient.surrogate import between, is_gradient, step_factor
from fl_privacy.data import load
from fl_privacy.defences.sign import Sign
from fl_privacy.evaluation import Truth, align
from fl_privacy.federated.client import gradient
from fl_privacy.federated.local_training import minibatches, normalised
from fl_privacy.metrics import psnr
from fl_privacy.models import build_model
from fl_privacy.observation import LocalTraining
from fl_privacy.seeding import stream

TINY_RATE = LocalTraining(epochs=3, learning_rate=1e-4, momentum=0.9, weight_decay=0.1, normalise=((0.4,), (0.3,)))


def test_momentum_counts_a_gradient_more_than_once():
    """Of three steps the first gradient enters 1 + .9 + .81 times, the second 1.9, the third once."""
    assert step_factor(LocalTraining(momentum=0.9), 3) == pytest.approx((2.71 + 1.9 + 1) / 3)
    assert step_factor(LocalTraining(), 7) == 1


def test_a_short_path_is_one_gradient():
    """At a tiny rate the surrogate is the gradient at the start: momentum, decay and normalisation are taken off."""
    seen, truth = released(TINY_RATE)
    model = seen.model
    slope, _ = gradient(model, normalised(truth.inputs, TINY_RATE), truth.labels)
    expected = torch.cat([slope[name].flatten() for name, _ in model.named_parameters()])
    plain = between(seen, 0.5)
    assert is_gradient(plain)
    found = observed_gradient(plain)
    assert float((found - expected).norm() / expected.norm()) < 1e-2
    assert float((observed_step(seen) - expected).norm() / expected.norm()) > 0.1, "the raw update is something else"


def test_half_way_is_nearer_to_the_steps_than_the_start():
    seen, truth = released(LocalTraining(epochs=5, learning_rate=0.05))
    images, targets = truth.inputs[None], F.one_hot(truth.labels, CLASSES).double()[None]
    far = [
        float((matcher_for([seen], shares=torch.tensor([share]))(images, targets)[0] - observed_step(seen)).norm())
        for share in (0.0, 0.5)
    ]
    assert far[1] < 0.2 * far[0]


def test_what_is_a_gradient_stays_itself_and_other_losses_are_refused():
    plain, _ = released(LocalTraining(learning_rate=0.1))
    assert between(plain, 0.5) is plain
    squared, _ = released(LocalTraining(epochs=2, learning_rate=0.1, loss="squared_error"))
    with pytest.raises(ValueError, match="expects cross entropy"):
        between(squared, 0.5)


def test_the_order_of_the_batches_is_found_by_the_loss_alone():
    """With the images known, the search ends at an order that explains the update exactly, in every epoch."""
    how = LocalTraining(epochs=2, batch_size=3, learning_rate=0.05)
    seen, truth = released(how)
    taken = Taken.of(seen)
    targets = F.one_hot(truth.labels, CLASSES).double()

    def judge(orders):
        count = len(orders)
        match = matcher_for([seen], restarts=count, orders=orders.flatten(0, 1))
        found = match(truth.inputs.repeat(count, 1, 1, 1, 1), targets.repeat(count, 1, 1)).detach()
        return (found - observed_step(seen)).norm(dim=1)[:, None]

    start = taken.as_they_stand()[None]
    order = improved(start, judge, taken, stream(0, "search"), tries=24, rounds=40)
    assert float(judge(start[None])) > 1e-6
    assert float(judge(order[None])) < 1e-9
    true = torch.cat(minibatches(how, IMAGES, stream(0, "shuffle")))
    sets = [[set(epoch.split(3)[k].tolist()) for k in range(3)] for epoch in (order[0][IMAGES:], true[IMAGES:])]
    assert sets[0] == sets[1]


def test_every_change_keeps_an_epoch_whole():
    taken = Taken(clients=2, examples=5, size=2, length=10)
    order, rng = taken.as_they_stand(), stream(0)
    for k in range(30):
        order = taken.changed(order, rng, afresh=k % 3 == 0)
        assert all(sorted(epoch.tolist()) == list(range(5)) for epoch in order.split(5))


def test_steps_of_adam_are_matched_by_signs_with_the_slope_of_something_smooth():
    seen, truth = released(LocalTraining(epochs=2, learning_rate=1e-4, optimiser="adam"))
    targets = F.one_hot(truth.labels, CLASSES).double()[None]
    for victims in (1, 2):
        match = matcher_for([seen] * victims, shares=torch.zeros(victims))
        images = truth.inputs.expand(victims, *truth.inputs.shape).clone().requires_grad_()
        sent = match(images, targets.expand(victims, -1, -1))
        assert (sent.detach().abs() == 1).all()
        assert (sent.detach() == observed_step(seen).sign()).double().mean() > 0.95
        (slope,) = torch.autograd.grad(sent.sum(), images)
        assert (slope.flatten(1).norm(dim=1) > 1e-3).all()


def test_several_steps_of_adam_give_the_images_away(monkeypatch):
    """Gradients are matched by their signs first; matched by their sizes, they give less."""
    digits = load("digits", None, {"size": 8})
    how = LocalTraining(epochs=3, learning_rate=0.001, optimiser="adam")
    model = build_model("convnet", (1, 8, 8), 10, 0, {})
    images, labels = digits.test.images(slice(0, 2)), digits.test.labels[:2]
    seen = observe_update(model, images, labels, how)

    def decibels():
        (guess,) = MaximumAPosteriori(learn=0, outer=10, restarts=1)([seen], stream(0, "attack"))
        return float(psnr(align(guess, Truth(images, labels)).inputs, images).mean())

    by_signs = decibels()
    assert by_signs > 20
    monkeypatch.setattr(Sign, "without_noise", lambda _, payload: payload)
    assert by_signs > decibels() + 5
