"""The factors of a head's gradient against logits that are known, and images from them."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fl_privacy.attacks.gradient import low_rank
from fl_privacy.attacks.gradient.head_factors import HeadEquations, factor_head, levenberg_marquardt
from fl_privacy.attacks.gradient.low_rank import LowRank
from fl_privacy.attacks.inversion.priors import power_law
from fl_privacy.evaluation import Truth, align
from fl_privacy.federated.client import gradient
from fl_privacy.observation import ChannelName, Observation, Spec
from fl_privacy.seeding import seeded, stream

SHAPE, CLASSES = (1, 12, 12), 7


def test_levenberg_marquardt_finds_the_minimum_of_rosenbrock_from_every_start():
    starts = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [2.0, -1.0]], dtype=torch.float64)
    found, losses = levenberg_marquardt(lambda x: torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]), starts, 200)
    assert torch.allclose(found, torch.ones(3, 2, dtype=torch.float64), atol=1e-6)
    assert (losses < 1e-12).all()


@pytest.mark.parametrize("labels", [[0], [1, 4], [0, 2, 5], [3, 3, 6]])
def test_the_logits_of_every_image_come_back(labels):
    """Features and weights are drawn, the gradient is that of torch; the attack's equations see the gradient alone."""
    rng, y = stream(0, "factors"), torch.tensor(labels)
    head = nn.Linear(20, CLASSES).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64) / 2)
    draw = lambda count: torch.rand(count, 20, generator=rng, dtype=torch.float64)  # noqa: E731
    features = draw(len(y))
    weight, bias = torch.autograd.grad(F.cross_entropy(head(features), y), list(head.parameters()))
    own, examples = [p.detach() for p in head.parameters()], head(draw(200)).detach()
    equations = HeadEquations(*own, weight, bias, y)
    assert equations.residual()(head(features).detach()).abs().max() < 1e-12
    starts = examples[torch.randint(200, (6, len(y)), generator=rng)]
    logits, loss = factor_head(equations, examples, starts)
    truth = head(features).detach()
    assert torch.cdist(logits, truth).amin(0).max() < 1e-3
    assert loss < 10 * truth.numel()


def seen_of(labels, bias=True):
    """Smooth images' gradient on a small net with few more features than pixels."""
    with seeded(0, "net"):
        model = nn.Sequential(
            nn.Conv2d(1, 6, 5, stride=2, padding=2), nn.Tanh(), nn.Flatten(), nn.Linear(216, CLASSES, bias=bias)
        )
    with torch.no_grad():
        model[3].weight *= 8
    y = torch.tensor(labels)
    x = power_law(SHAPE).images(torch.randn(len(y), 144, generator=stream(0, "images"))).clamp(0, 1)
    payload, _ = gradient(model, x, y)
    spec = Spec(image_shape=SHAPE, classes=CLASSES, batch_size=len(y))
    return Observation(channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=0, model=model), x


@pytest.mark.parametrize("labels", [[2], [0, 3, 5]])
def test_images_of_different_labels_come_back(labels):
    seen, x = seen_of(labels)
    (guess,) = LowRank(adam=60, lbfgs=100)([seen], stream(0))
    assert guess.labels.tolist() == labels
    errors = (align(guess, Truth(x, torch.tensor(labels))).inputs - x).square().flatten(1).mean(1).sqrt()
    assert errors.max() < 0.03, "30 dB"
    assert LowRank().loss(seen, x, torch.tensor(labels)) < 1e-6


def test_noise_zero_gradients_and_the_rank():
    seen, _ = seen_of([1, 2])
    for factor in (0.0, 1e-20):
        weak = dataclasses.replace(seen, payload={name: factor * value for name, value in seen.payload.items()})
        (guess,) = LowRank(outer=2, inner=3, adam=5, lbfgs=5, images=32, neighbours=0)([weak], stream(0))
        assert torch.isfinite(guess.inputs).all()
    noisy = {name: value + torch.randn(value.shape, generator=stream(1)) for name, value in seen.payload.items()}
    (guess,) = LowRank(outer=2, inner=3, adam=5, lbfgs=5, images=32, neighbours=0)(
        [dataclasses.replace(seen, payload=noisy)], stream(0)
    )
    assert torch.isfinite(guess.inputs).all()
    many, _ = seen_of([0, 1, 2, 3, 4, 5, 6])
    with pytest.raises(ValueError, match="rank of at most 6"):
        LowRank()([many], stream(0))
    bare, _ = seen_of([0, 1], bias=False)
    with pytest.raises(ValueError, match="no trained bias"):
        LowRank()([bare], stream(0))


def test_labels_that_are_wrong_by_one_image_are_mended(monkeypatch):
    seen, _ = seen_of([0, 3, 5])
    honest = low_rank.head_equations

    def mistaken(head, seen):
        equations, error = honest(head, seen)
        return dataclasses.replace(equations, labels=torch.tensor([0, 3, 4])), error

    monkeypatch.setattr(low_rank, "head_equations", mistaken)
    (guess,) = LowRank(adam=60, outer=4, lbfgs=20)([seen], stream(0))
    assert guess.labels.tolist() == [0, 3, 5]
    (guess,) = LowRank(neighbours=0, adam=10, outer=2, lbfgs=2)([seen], stream(0))
    assert guess.labels.tolist() == [0, 3, 4]
