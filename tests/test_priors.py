"""Priors of images: coordinates and back, the covariance that they claim, and shrinkage."""

import pytest
import torch

from fl_privacy.attacks.inversion import priors
from fl_privacy.observation import Images
from fl_privacy.seeding import stream

SHAPE = (3, 8, 6)
SIZE = 3 * 8 * 6


def sample(count, seed=0):
    """Images of a known Gaussian that is no power law."""
    rng = stream(seed, "sample")
    mixing = torch.randn(SIZE, SIZE, generator=stream(9, "mixing")) * torch.logspace(0, -2, SIZE)
    return 0.4 + 0.02 * (torch.randn(count, SIZE, generator=rng) @ mixing.T).view(count, *SHAPE)


def covariance(prior):
    """T T^T (k, k), from the images of unit coordinates."""
    unit = prior.linear(torch.eye(SIZE)).flatten(1)
    return unit.T @ unit


def all_priors():
    images = sample(60)
    labels = torch.arange(60) % 3
    yield "power_law", priors.power_law(SHAPE)
    yield "public, few", priors.public(images)
    yield "public, many", priors.public(sample(400))
    yield "by class", priors.public_by_class(Images(images, labels)).of(torch.tensor([0, 2, 0, 1]))


@pytest.mark.parametrize(("name", "prior"), list(all_priors()))
def test_coordinates_and_back(name, prior):
    images = sample(4, seed=1)
    u = prior.coordinates(images)
    assert u.shape == (4, SIZE)
    assert torch.allclose(prior.images(u), images, atol=1e-4)


@pytest.mark.parametrize(("name", "prior"), list(all_priors()))
def test_the_volume_is_that_of_the_whole_map(name, prior):
    count = 4 if name == "by class" else 1
    columns = [prior.linear(unit.expand(count, -1)).flatten(1) for unit in torch.eye(SIZE)]
    wanted = torch.linalg.slogdet(torch.stack(columns, 1).double())[1]
    assert torch.allclose(prior.volume().double().expand(count), wanted, rtol=1e-3)


def test_the_power_law_has_its_total_variance_its_fall_and_its_correlation():
    prior = priors.power_law(SHAPE)
    cov = covariance(prior)
    assert float(cov.diagonal().view(SHAPE).mean((1, 2))[1]) == pytest.approx(0.06, rel=1e-4)
    between = cov.view(*SHAPE, *SHAPE)[0, 2, 2, 1, 2, 2] / cov.view(*SHAPE, *SHAPE)[0, 2, 2, 0, 2, 2]
    assert float(between) == pytest.approx(0.85, rel=1e-4)
    square = priors.power_law((1, 16, 16)).deviation.square()
    assert float(square[0, 2] / square[0, 8]) == pytest.approx(4**2.2, rel=1e-4)
    assert float(square[2, 0]) == pytest.approx(float(square[0, 2]), rel=1e-5)


@pytest.mark.parametrize("count", [60, 400])
def test_few_and_many_images_give_the_shrunk_sample_covariance(count):
    """The low-rank and the full route against the formula, written out densely in the base's coordinates."""
    images = sample(count)
    base = priors.power_law(SHAPE)
    z = base.inverse(images - images.mean(0)).double()
    plain = z.T @ z / count
    level = plain.trace() / SIZE
    error = sum((torch.outer(each, each) - plain).square().sum() for each in z) / count**2
    share = float((error / (plain - level * torch.eye(SIZE)).square().sum()).clamp(max=1))
    unit = base.linear(torch.eye(SIZE)).flatten(1).double()
    wanted = unit.T @ ((1 - share) * plain + share * level * torch.eye(SIZE)) @ unit
    assert torch.allclose(covariance(priors.public(images)).double(), wanted, rtol=1e-3, atol=1e-6)


def test_more_images_come_closer_to_the_truth():
    truth = priors.public(sample(20000, seed=3))
    errors = [(covariance(priors.public(sample(n))) - covariance(truth)).norm() for n in (10, 100, 1000)]
    assert errors[0] > errors[1] > errors[2]


def test_a_class_has_its_own_mean_and_an_unseen_one_everyones():
    images = torch.cat([sample(20), sample(20) + 0.2])
    prior = priors.public_by_class(Images(images, torch.tensor([0, 1]).repeat_interleave(20)))
    means = prior.of(torch.tensor([[1], [0], [7]])).images(torch.zeros(3, 1, SIZE))
    assert torch.allclose(means[0, 0], images[20:].mean(0), atol=1e-5)
    assert torch.allclose(means[1, 0], images[:20].mean(0), atol=1e-5)
    assert torch.allclose(means[2, 0], images.mean(0), atol=1e-5)


def test_a_class_of_few_images_has_the_spread_of_all():
    """Two images say next to nothing of a covariance: around their mean the pooled one must stand, at full size."""
    images = sample(300)
    labels = torch.zeros(300, dtype=torch.long)
    labels[:2] = 1
    prior = priors.public_by_class(Images(images, labels))
    few, pooled = (covariance(prior.of(torch.full((SIZE,), label))) for label in (1, 0))
    assert float(few.trace() / pooled.trace()) > 0.8


@pytest.mark.parametrize("images", [torch.full((1, *SHAPE), 0.3), torch.full((5, *SHAPE), 0.3)])
def test_images_that_are_all_alike_still_give_a_prior(images):
    prior = priors.public(images)
    u = prior.coordinates(sample(1))
    assert bool(torch.isfinite(u).all())
    assert torch.allclose(prior.images(torch.zeros(SIZE)), images[0], atol=1e-6)


def test_a_prior_per_class_without_labels_is_refused():
    with pytest.raises(ValueError, match="needs the labels"):
        priors.public_by_class(Images(sample(4)))
