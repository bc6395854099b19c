"""R of known guesses, and how much it hangs on the cut."""

import math
import os

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fl_privacy.metrics.reconstruction_risk import closer_truths, factorise, reconstruction_risk, risk_per_sample


@pytest.fixture(scope="module")
def digits():
    return torch.from_numpy(load_digits().images).float().div(16).unsqueeze(1)


def gaussian(count=400, dimension=6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimension, generator=rng) @ torch.randn(dimension, dimension, generator=rng)


def test_it_equals_the_definition_with_numpy_in_float64():
    data, truth, guess = gaussian(), gaussian(20, seed=1), gaussian(20, seed=2)
    inverse = np.linalg.inv(np.cov(data.numpy().astype(np.float64), rowvar=False))
    mean = data.numpy().astype(np.float64).mean(0)

    def distance(a, b):
        return math.sqrt((a - b) @ inverse @ (a - b))

    expected = [distance(t, mean) / distance(t, g) for t, g in zip(truth.numpy(), guess.numpy(), strict=True)]
    found = risk_per_sample(factorise(data, dtype=torch.float64), guess, truth)
    assert np.allclose(found, expected, rtol=1e-6)


def test_the_default_cut_is_that_of_a_float32_pseudo_inverse(digits):
    """As published: float64 covariance, cast to float32, torch.linalg.pinv by default."""
    train, truth, guess = digits[:1000], digits[1000:1100], digits[1100:1200]
    covariance = torch.from_numpy(np.cov(train.flatten(1).numpy(), rowvar=False)).float()
    inverse, mean = torch.linalg.pinv(covariance), train.flatten(1).mean(0)

    def distance(a, b):
        return ((a - b) @ inverse * (a - b)).sum(1).sqrt()

    expected = distance(truth.flatten(1), mean) / distance(truth.flatten(1), guess.flatten(1))
    found = factorise(train)
    assert found.rank == int(torch.linalg.matrix_rank(covariance)) < 64
    assert torch.allclose(risk_per_sample(found, guess, truth), expected, rtol=1e-3)


def test_the_mean_scores_one_and_a_perfect_copy_is_infinite_and_counted(digits):
    factors = factorise(digits)
    mean = digits.mean(0, keepdim=True).expand_as(digits)
    assert reconstruction_risk(factors, mean, digits).mean == pytest.approx(1.0, abs=1e-4)
    guess = mean.clone()
    guess[:3] = digits[:3]
    risk = reconstruction_risk(factors, guess, digits)
    assert math.isinf(risk.mean)
    assert risk.exact == 3
    assert risk.finite_mean == pytest.approx(1.0, abs=1e-4)
    assert "3 of 1797 exact" in str(risk)
    centre = factors.mean.view(1, 1, 8, 8)
    assert risk_per_sample(factors, centre, centre).item() == 1.0


def test_a_nearest_neighbour_is_no_better_than_the_mean_here_and_a_noisy_copy_is(digits):
    train, truth = digits[:1400], digits[1400:]
    nearest = train[torch.cdist(truth.flatten(1), train.flatten(1)).argmin(1)]
    factors = factorise(train, rtol=1e-2)
    near = reconstruction_risk(factors, nearest, truth).mean
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    copies = [reconstruction_risk(factors, truth + s * noise, truth).mean for s in (0.3, 0.1, 0.03, 0.01)]
    assert 0.5 < near < 1.5
    assert copies == sorted(copies)
    assert copies[-1] > 3 > near


def pca(train, images, components):
    mean = train.flatten(1).mean(0)
    directions = torch.linalg.svd(train.flatten(1) - mean, full_matrices=False)[2][:components]
    return ((images.flatten(1) - mean) @ directions.T @ directions + mean).clamp(0, 1).view_as(images)


def test_the_value_hangs_on_the_cut_so_the_label_names_it(digits):
    train, truth = digits[:1000], digits[1000:]
    guess = pca(train, truth, 20)
    cuts = {rtol: factorise(train, rtol=rtol) for rtol in (1e-5, 1e-3, 1e-2)}
    values = [reconstruction_risk(factors, guess, truth).mean for factors in cuts.values()]
    assert values == sorted(values)
    assert values[2] > 1.05 * values[0]
    assert len({factors.rank for factors in cuts.values()}) == 3
    assert "rtol 1.0e-02" in cuts[1e-2].label
    assert f"rank {cuts[1e-2].rank} of 64" in cuts[1e-2].label
    assert "float32" in cuts[1e-2].label
    shrunk = factorise(train, shrinkage=0.1)
    assert shrunk.rank == 64
    assert "shrinkage 0.1" in shrunk.label


@pytest.mark.skipif(not os.environ.get("FL_PRIVACY_DATA"), reason="FL_PRIVACY_DATA does not name a folder with MNIST")
def test_real_mnist_shows_the_sensitivity_of_the_published_value():
    from fl_privacy.data import DATASETS
    from fl_privacy.data.base import data_root

    mnist = DATASETS["mnist"](data_root(), size=32)
    train, truth = mnist.train.images(slice(0, 20_000)), mnist.test.images(slice(0, 1000))
    guess = pca(train, truth, 40)
    published = reconstruction_risk(factorise(train), guess, truth).mean
    precise = reconstruction_risk(factorise(train, dtype=torch.float64), guess, truth).mean
    posed = reconstruction_risk(factorise(train, rtol=1e-2), guess, truth).mean
    assert precise < 0.5 < 0.9 < published < 1.2 < 1.5 < posed


def test_samples_that_do_not_fit_are_named():
    factors, truth = factorise(gaussian()), gaussian(20, seed=1)
    with pytest.raises(ValueError, match="match them image by image"):
        risk_per_sample(factors, truth[:1], truth)
    with pytest.raises(ValueError, match="for 6 values a sample, not 5"):
        risk_per_sample(factors, truth[:, :5], truth[:, :5])
    with pytest.raises(ValueError, match="NaN"):
        risk_per_sample(factors, truth * math.nan, truth)
    with pytest.raises(ValueError, match="NaN"):
        factorise(gaussian() * math.inf)


def test_degenerate_data_are_named():
    with pytest.raises(ValueError, match="at least 2"):
        factorise(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="do not vary"):
        factorise(torch.ones(5, 3))
    with pytest.raises(ValueError, match="rtol"):
        factorise(gaussian(), rtol=-0.1)
    with pytest.raises(ValueError, match="no samples"):
        reconstruction_risk(factorise(gaussian()), torch.empty(0, 6), torch.empty(0, 6))


def test_r_ranks_a_guess_below_the_mean_that_has_what_matters_right_and_the_rank_does_not():
    """Two directions that images differ in visibly, 62 in which they hardly do: known variances, so known values."""
    rng = torch.Generator().manual_seed(0)
    scales = torch.full((64,), 0.01)
    scales[:2] = 1.0
    data, truth = (torch.randn(n, 64, generator=rng) * scales for n in (20_000, 200))
    guess = truth.clone()
    guess[:, 2:] += math.sqrt(2) * 0.01 * torch.randn(200, 62, generator=rng)
    mean = data.mean(0).expand_as(truth)
    factors = factorise(data, dtype=torch.float64)
    assert ((guess - truth).square().mean() / (mean - truth).square().mean()) < 0.01, "20 dB nearer than the mean"
    # |truth - mean| is about sqrt(64) units, |truth - guess| sqrt(2 * 62)
    assert reconstruction_risk(factors, guess, truth).mean == pytest.approx(math.sqrt(64 / 124), abs=0.02)
    assert reconstruction_risk(factors, mean, truth).mean == pytest.approx(1, abs=0.01)
    assert float(closer_truths(factors, guess, truth).mean()) < 0.1
    assert float(closer_truths(factors, mean, truth).mean()) == pytest.approx(0.5, abs=0.01)
    wide = factorise(data, rtol=1e-3, dtype=torch.float64)
    assert wide.rank == 2
    assert reconstruction_risk(wide, guess, truth).mean > 1e3, "the well-posed R leaves the small directions out"


def test_the_rank_of_a_copy_is_0_of_what_tells_nothing_a_half_and_of_the_farthest_1(digits):
    factors, truth = factorise(digits), digits[:20]
    assert not closer_truths(factors, truth, truth).any()
    same = truth[:1].expand_as(truth)
    assert float(closer_truths(factors, same, truth).mean()) == pytest.approx(0.5)
    line = torch.tensor([[0.0], [1.0], [3.0]])
    found = closer_truths(factorise(line), torch.tensor([[10.0], [10.0], [10.0]]), line)
    assert found.tolist() == [1.0, 0.5, 0.0]
    assert math.isnan(float(closer_truths(factors, truth[:1], truth[:1])))
    with pytest.raises(ValueError, match="factorised for"):
        closer_truths(factors, truth[:, :, :4], truth[:, :, :4])
