import itertools
import math
import subprocess
import sys

import pytest
import torch
from scipy import optimize, stats

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


def test_matching_equals_every_pair_at_once():
    truth = Truth(batch(9), torch.zeros(9))
    guess = Reconstruction(inputs=batch(9, seed=1))
    pairs = (guess.inputs[:, None] - truth.inputs[None]).square().flatten(2).mean(2)
    rows, columns = optimize.linear_sum_assignment(pairs.numpy())
    assert torch.equal(
        align(guess, truth).inputs, guess.inputs[torch.from_numpy(rows)[torch.from_numpy(columns).argsort()]]
    )


def test_matching_a_batch_needs_little_memory():
    """100 images of 3x64x64 have 10,000 pairs, of which not all may be there at once."""
    code = """
import resource, torch
from fl_privacy.evaluation import Truth, align
from fl_privacy.observation import Reconstruction
torch.set_num_threads(1)
images = torch.rand(100, 3, 64, 64)
order = torch.randperm(100)
align(Reconstruction(inputs=images[:2]), Truth(images[:2], order[:2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
matched = align(Reconstruction(inputs=images[order]), Truth(images, order))
assert torch.equal(matched.inputs, images)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 100_000, "kilobytes"


def test_what_cannot_be_matched_is_refused():
    truth = Truth(batch(4), torch.zeros(4))
    for inputs in (batch(3), 255 * batch(4), batch(4)[..., :4]):
        with pytest.raises(ValueError, match=r"match them|in \[0, 1\]"):
            align(Reconstruction(inputs=inputs), truth)


def test_controls_never_hold_a_victim():
    public = Images(batch(50, seed=3))
    truths = [Truth(batch(2), torch.tensor([0, 1]))] * 3
    made = controls(public, truths, 10, stream(0))
    assert set(made) == {"random guess", "mean image"}
    for guesses in made.values():
        assert len(guesses) == 3
        assert all(guess.inputs.shape == (2, 1, 8, 8) for guess in guesses)
    assert torch.allclose(made["mean image"][0].inputs[0], public.inputs.mean(0))
    for guess in made["random guess"]:
        for image in guess.inputs:
            assert (image == public.inputs).flatten(1).all(1).any(), "one of the public images"
            assert not any((image == truth.inputs).flatten(1).all(1).any() for truth in truths)


def test_the_class_mean_is_that_of_the_true_labels_and_of_all_where_a_class_has_no_image():
    public = Images(batch(30, seed=3), torch.arange(30) % 3)
    truths = [Truth(batch(2), torch.tensor([1, 7])), Truth(batch(1), torch.tensor([2]))]
    made = controls(public, truths, 10, stream(0), class_is_read=True)
    first, second = made["class mean"]
    assert torch.allclose(first.inputs[0], public.inputs[1::3].mean(0))
    assert torch.allclose(first.inputs[1], public.inputs.mean(0)), "no image of class 7"
    assert torch.allclose(second.inputs[0], public.inputs[2::3].mean(0))
    assert torch.equal(first.labels, truths[0].labels)
    blind = controls(public, truths, 10, stream(0))
    assert set(blind) == {"random guess", "mean image"}
    for name, guesses in blind.items():
        assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(guesses, made[name], strict=True)), "the same draws"
    with pytest.raises(ValueError, match="needs the labels"):
        controls(Images(public.inputs), truths, 10, stream(0), class_is_read=True)


def test_interval_agrees_with_scipy():
    values = torch.randn(40, generator=stream(0, "v"), dtype=torch.float64).tolist()
    low, high = interval(values, seed=0)
    oracle = stats.bootstrap(
        (values,), statistic=lambda x, axis: x.mean(axis), n_resamples=5000, method="percentile", rng=0
    ).confidence_interval
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=0.03)
    assert all(math.isnan(end) for end in interval([], seed=0))
    assert interval([2.0], seed=0) == (2.0, 2.0)
