import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from fl_privacy.metrics import METRICS, label_accuracy, mse, psnr, ssim

NAMES = sorted(METRICS)


def pair(shape=(4, 3, 32, 32), noise=0.1, seed=0):
    rng = torch.Generator().manual_seed(seed)
    truth = torch.rand(shape, generator=rng)
    return (truth + noise * torch.randn(shape, generator=rng)).clamp(0, 1), truth


@pytest.mark.parametrize("name", NAMES)
def test_conformance(name):
    metric = METRICS[name]
    sign = 1 if METRICS.facts(name)["more_is_leak"] else -1
    _, truth = pair()
    scores = [sign * metric(pair(noise=noise)[0], truth) for noise in (0.0, 0.05, 0.2, 0.5)]
    assert all(score.shape == (4,) and torch.isfinite(score).all() for score in scores)
    for better, worse in pairwise(scores):
        assert (better > worse).all(), "a metric must worsen as noise grows"
    assert metric(truth[:0], truth[:0]).shape == (0,)
    single = torch.stack([metric(truth[i : i + 1].flip(-1), truth[i : i + 1])[0] for i in range(4)])
    assert torch.allclose(single, metric(truth.flip(-1), truth), atol=1e-6), "an image's score must not see its batch"


@pytest.mark.parametrize("shape", [(4, 1, 28, 28), (4, 3, 32, 32), (2, 3, 64, 64)])
def test_equal_scikit_image(shape):
    guess, truth = pair(shape)
    for i, (g, t) in enumerate(zip(guess.numpy(), truth.numpy(), strict=True)):
        assert mse(guess, truth)[i] == pytest.approx(mean_squared_error(t, g), rel=1e-5)
        assert psnr(guess, truth)[i] == pytest.approx(peak_signal_noise_ratio(t, g, data_range=1), abs=1e-4)


@pytest.mark.parametrize("shape", [(4, 1, 28, 28), (4, 3, 32, 32)])
def test_ssim_equals_scikit_image_inside_its_borders(shape):
    guess, truth = pair(shape)
    for i, (g, t) in enumerate(zip(guess.numpy(), truth.numpy(), strict=True)):
        _, full = structural_similarity(
            t.astype(np.float64), g.astype(np.float64), data_range=1, channel_axis=0,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True,
        )  # fmt: skip
        # pytorch-msssim keeps only windows that lie wholly inside the image: 5 pixels off each border
        assert ssim(guess, truth)[i] == pytest.approx(full[:, 5:-5, 5:-5].mean(), abs=2e-4)


def test_psnr_is_of_each_image_not_of_the_pool():
    truth = torch.zeros(2, 1, 8, 8)
    guess = torch.stack([torch.full((1, 8, 8), 0.1), torch.full((1, 8, 8), 0.01)])
    assert psnr(guess, truth).tolist() == pytest.approx([20.0, 40.0], abs=1e-3)


def test_a_perfect_copy():
    _, truth = pair()
    assert psnr(truth, truth).tolist() == [100.0] * 4
    assert ssim(truth, truth).tolist() == pytest.approx([1.0] * 4)


@given(side=st.integers(2, 14), channels=st.sampled_from([1, 3]))
@settings(max_examples=20, deadline=None)
def test_ssim_takes_images_smaller_than_its_window(side, channels):
    _, truth = pair((2, channels, side, side))
    assert ssim(truth, truth).tolist() == pytest.approx([1.0, 1.0], abs=1e-4)
    assert (ssim((truth + 0.5) % 1, truth) < 0.999).all()


def test_label_accuracy_counts_with_multiplicity():
    labels = torch.tensor([1, 1, 2, 3])
    assert label_accuracy(labels[torch.tensor([3, 0, 2, 1])], labels, 10) == 1.0
    assert label_accuracy(torch.tensor([1, 2, 3, 3]), labels, 10) == 0.75
    assert label_accuracy(torch.tensor([0, 0, 0, 0]), labels, 10) == 0.0
    assert label_accuracy(labels[:0], labels[:0], 10) == 1.0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.randoms())
@settings(deadline=None)
def test_label_accuracy_is_the_best_matching(labels, random):
    guess = [random.randrange(5) for _ in labels]
    pool, hits = list(labels), 0
    for label in guess:
        if label in pool:
            pool.remove(label)
            hits += 1
    assert math.isclose(label_accuracy(torch.tensor(guess), torch.tensor(labels), 5), hits / len(labels))


@pytest.mark.parametrize("name", NAMES)
def test_what_no_metric_can_compare_is_an_error_that_says_so(name):
    guess, truth = pair()
    for wrong in (guess[:1], guess[:, :1], guess[..., :1], guess[0]):
        with pytest.raises(ValueError, match="match them image by image"):
            METRICS[name](wrong, truth)
    for three in (guess[0], guess.flatten(1)):
        with pytest.raises(ValueError, match=r"images \(N, C, H, W\)"):
            METRICS[name](three, three)
    for wrong in (255 * guess, guess - 0.5, torch.full_like(guess, math.nan), torch.full_like(guess, math.inf)):
        with pytest.raises(ValueError, match=r"the guess has pixels .* in \[0, 1\]"):
            METRICS[name](wrong, truth)
        with pytest.raises(ValueError, match="the truth has pixels"):
            METRICS[name](guess, wrong)
    for kind in (torch.uint8, torch.bool, torch.int64):
        with pytest.raises(ValueError, match=r"the guess is of type .*, and metrics take floating-point images"):
            METRICS[name](guess.round().to(kind), truth)
        with pytest.raises(ValueError, match="the truth is of type"):
            METRICS[name](guess, truth.round().to(kind))
    hair = (truth + 5e-7).clamp(max=1 + 5e-7)
    assert torch.isfinite(METRICS[name](hair, truth)).all(), "what float32 loses is let through"


def test_label_accuracy_refuses_two_numbers_of_labels():
    with pytest.raises(ValueError, match="match them"):
        label_accuracy(torch.tensor([1]), torch.tensor([1, 2]), 3)
