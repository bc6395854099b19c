import itertools
import math

import pytest
import torch
from scipy import stats

from fl_privacy.evaluation import Truth, align, controls, interval
from fl_privacy.observation import Images, Reconstruction
from fl_privacy.seeding import stream


def batch(count=4, seed=0):
    return torch.rand(count, 1, 8, 8, generator=stream(seed, "images"))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_a_shuffled_batch_is_put_back(order):
    truth = Truth(batch(), torch.arange(4))
    index = torch.tensor(order)
    guess = Reconstruction(inputs=truth.inputs[index], labels=truth.labels[index])
    matched = align(guess, truth)
    assert torch.equal(matched.inputs, truth.inputs)
    assert torch.equal(matched.labels, truth.labels)


def test_the_assignment_is_the_cheapest_of_all():
    truth, guess = Truth(batch(), torch.zeros(4)), Reconstruction(inputs=batch(seed=1))
    matched = align(guess, truth).inputs
    cost = (matched - truth.inputs).square().mean()
    for order in itertools.permutations(range(4)):
        assert cost <= (guess.inputs[list(order)] - truth.inputs).square().mean() + 1e-7


def test_controls_never_hold_a_victim():
    public = Images(batch(50, seed=3))
    truths = [Truth(batch(2), torch.tensor([0, 1]))] * 3
    made = controls(public, truths, 10, stream(0))
    assert set(made) == {"random guess", "mean image"}
    for guesses in made.values():
        assert len(guesses) == 3
        assert all(guess.inputs.shape == (2, 1, 8, 8) for guess in guesses)
    assert torch.allclose(made["mean image"][0].inputs[0], public.inputs.mean(0))


def test_interval_agrees_with_scipy():
    values = torch.randn(40, generator=stream(0, "v"), dtype=torch.float64).tolist()
    low, high = interval(values, seed=0)
    oracle = stats.bootstrap(
        (values,), statistic=lambda x, axis: x.mean(axis), n_resamples=5000, method="percentile", rng=0
    ).confidence_interval
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=0.03)
    assert all(math.isnan(end) for end in interval([], seed=0))
    assert interval([2.0], seed=0) == (2.0, 2.0)
