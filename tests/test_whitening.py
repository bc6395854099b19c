"""Whitening: entries that move together count as one, every parameter once, and nothing that is still is blown up."""

import pytest
import torch
from test_map import observe_update
from torch import nn

from fl_privacy.attacks.gradient import fit_batch as fit_batch_module
from fl_privacy.attacks.gradient import fit_steps as fit_steps_module
from fl_privacy.attacks.gradient import whitening as whitening_module
from fl_privacy.attacks.gradient.grnn import GRNN
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.gradient.matching import gradient_matcher
from fl_privacy.attacks.gradient.whitening import whitening
from fl_privacy.attacks.inversion import priors as priors_module
from fl_privacy.attacks.inversion.priors import power_law, public_by_class
from fl_privacy.attacks.kept import Kept
from fl_privacy.data import load
from fl_privacy.evaluation import Truth, align
from fl_privacy.federated.client import gradient
from fl_privacy.metrics import psnr
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, LocalTraining, Observation, Reconstruction, Spec
from fl_privacy.seeding import stream
from fl_privacy.weights import trainable


def shapes_of(model):
    return {name: value.shape for name, value in trainable(model).items()}


def test_what_images_share_is_taken_out():
    """Gradients of other images: their directions come far closer to being equal, and their unit is one."""
    model = build_model("lenet_dlg", (1, 16, 16), 10, 0, {"init": "wide"})
    drawn = power_law((1, 16, 16)).images(torch.randn(600, 256, generator=stream(0)))
    labels, images = torch.tensor([3, 3, 8]), drawn.clamp(0, 1)
    whiten = whitening(gradient_matcher(model, 300), images[:300], labels, 10, shapes_of(model))
    targets = nn.functional.one_hot(torch.full((300, 1), 3), 10).float()
    others = gradient_matcher(model, 300)(images[300:].unsqueeze(1), targets)
    around = (others - others.mean(0)).detach()

    def evenness(differences):  # the effective number of directions
        values = torch.linalg.svdvals(differences.double()).square()
        return float(values.sum() ** 2 / values.square().sum())

    whitened = whiten(around)
    assert whitened.shape == around.shape
    assert evenness(whitened) > 3 * evenness(around / around.std(0).clamp_min(1e-12))
    assert 0.2 < float(whitened.square().mean().sqrt()) < 5


def test_it_is_linear_and_keeps_every_entry():
    model = build_model(
        "lenet_grnn", (1, 16, 16), 10, 0
    ).double()  # in single precision entries of 1e7 cancel to rounding
    size = sum(shape.numel() for shape in shapes_of(model).values())
    images = torch.rand(40, 1, 16, 16, generator=stream(0)).double()
    whiten = whitening(gradient_matcher(model, 40), images, torch.tensor([1, 2]), 10, shapes_of(model))
    one, other = torch.randn(2, 1, size, generator=stream(1)).double()
    assert torch.allclose(whiten(one + 2 * other), whiten(one) + 2 * whiten(other), rtol=1e-3, atol=1e-3)
    columns = torch.eye(size, dtype=torch.double)[torch.randperm(size, generator=stream(2))[:50]]
    assert (whiten(columns).abs().sum(1) > 0).all()


def test_a_layer_that_does_not_move_is_not_blown_up():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 10))
    nn.init.constant_(model[1].bias, -100.0)  # no neuron fires: the first layer has no gradient, nor has the head
    images = torch.rand(20, 1, 4, 4, generator=stream(0))
    whiten = whitening(gradient_matcher(model, 20), images, torch.tensor([0]), 10, shapes_of(model))
    assert torch.isfinite(whiten(torch.randn(2, 4 * 17 + 50, generator=stream(1)))).all()


@pytest.fixture(scope="module")
def seen():
    digits = load("digits", None, {"size": 16})
    index = [int((digits.test.labels == label).nonzero()[at]) for label, at in ((3, 0), (3, 1), (7, 0))]
    x, y = torch.cat([digits.test.images(slice(i, i + 1)) for i in index]), digits.test.labels[index]
    model = build_model("convnet", (1, 16, 16), 10, 0, {"activation": "sigmoid"})
    payload, _ = gradient(model, x, y)
    spec = Spec(image_shape=(1, 16, 16), classes=10, batch_size=3)
    return Observation(channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=0, model=model)


def test_the_generator_is_one_start_more_and_never_harms(seen):
    without, joined = (
        MaximumAPosteriori(restarts=2, grnn=grnn, adam=40, lbfgs=0)([seen], stream(1))[0] for grnn in (0, 30)
    )
    assert joined.loss <= without.loss
    assert joined.loss == pytest.approx(float(joined.trace.min()), rel=1e-4)


def test_the_start_with_the_lower_loss_is_taken(seen, monkeypatch):
    """A generator that has found more than random draws have: what comes of it has the loss, and the labels' order."""
    plain = MaximumAPosteriori(restarts=1, grnn=0, adam=40, lbfgs=60)([seen], stream(1))[0]
    order = torch.tensor([2, 0, 1])
    found = Reconstruction(inputs=plain.inputs[order], labels=plain.labels[order])
    monkeypatch.setattr(GRNN, "reconstruct", lambda *_: [found])
    joined = MaximumAPosteriori(restarts=1, grnn=1, adam=5, lbfgs=0)([seen], stream(1))[0]
    random = MaximumAPosteriori(restarts=1, grnn=0, adam=5, lbfgs=0)([seen], stream(1))[0]
    assert joined.loss < random.loss
    assert (joined.inputs - plain.inputs).abs().mean() < 0.5 * (random.inputs - plain.inputs).abs().mean()


def test_a_large_model_is_not_whitened(seen, monkeypatch):
    monkeypatch.setattr(fit_batch_module, "MOST_WHITENED", 10)
    monkeypatch.setattr(fit_batch_module, "whitening", None)
    (guess,) = MaximumAPosteriori(restarts=1, grnn=0, adam=5, lbfgs=5)([seen], stream(1))
    assert guess.inputs.shape == (3, 1, 16, 16)


def test_an_update_of_several_images_is_read_through_it(monkeypatch):
    digits, how = load("digits", None, {"size": 16}), LocalTraining(learning_rate=0.1, epochs=3, batch_size=3)
    images, labels = digits.test.images(slice(0, 3)), digits.test.labels[:3]
    model = build_model("convnet", (1, 16, 16), 10, 0, {"activation": "sigmoid"})
    seen = observe_update(model, images, labels, how)

    def found():
        (guess,) = MaximumAPosteriori(outer=12, restarts=1)([seen], stream(0, "attack"))
        return guess.loss, float(psnr(align(guess, Truth(images, labels)).inputs, images).mean())

    loss, decibels = found()
    monkeypatch.setattr(fit_steps_module, "whitened", lambda seen, given, *_: given)
    plain_loss, plain_decibels = found()
    assert loss < plain_loss
    assert decibels > plain_decibels + 3


def test_a_search_and_its_judgements_build_it_once(seen, monkeypatch):
    built = []
    monkeypatch.setattr(whitening_module, "_kept", Kept(1))
    block = whitening_module._block
    monkeypatch.setattr(whitening_module, "_block", lambda *given: built.append(given) or block(*given))
    attack = MaximumAPosteriori(restarts=1, grnn=0, adam=3, lbfgs=0)
    (guess,) = attack([seen], stream(1))
    once = len(built)
    kept = [attack.loss(seen, guess.inputs, guess.labels) for _ in range(2)]
    assert len(built) == once
    attack.loss(seen, guess.inputs, torch.tensor([1, 1, 2]))
    assert len(built) == 2 * once, "other labels are other gradients"
    # the guess's own loss is that of its coordinates, which pixels give back in single precision (1.2e-5 with AVX2)
    assert attack.loss(seen, guess.inputs, guess.labels) == kept[0] == kept[1] == pytest.approx(guess.loss, rel=2e-5)
    assert len(built) == 3 * once, "no more are kept than there is room for"


def test_a_prior_of_the_attackers_images_is_fitted_once(monkeypatch):
    fitted = []
    monkeypatch.setattr(priors_module, "_kept", Kept(1))
    monkeypatch.setattr(priors_module, "public_by_class", lambda owned: fitted.append(owned) or public_by_class(owned))
    owned = Images(torch.rand(12, 1, 4, 4, generator=stream(0)), torch.arange(12) % 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    payload, _ = gradient(model, owned.inputs[:1], owned.labels[:1])
    spec = Spec(image_shape=(1, 4, 4), classes=2, batch_size=1)
    held = {"channel": ChannelName.GRADIENT, "payload": payload, "spec": spec, "round": 1, "client": 0, "model": model}
    attack = MaximumAPosteriori(prior="public_by_class")
    seen = [Observation(**held, public=Images(owned.inputs.clone(), owned.labels.clone())) for _ in range(2)]
    losses = [attack.loss(each, owned.inputs[:1], owned.labels[:1]) for each in seen]
    assert losses[0] == losses[1]
    assert len(fitted) == 1
    other = Observation(**held, public=Images(owned.inputs, 1 - owned.labels))
    assert attack.loss(other, owned.inputs[:1], owned.labels[:1]) != losses[0]
    assert len(fitted) == 2
