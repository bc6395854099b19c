"""Local differential privacy of one image's activations: what a clip of every row and noise after it guarantee."""

import math

import pytest
import torch

from fl_privacy.accounting import gaussian_epsilon, release_guarantee
from fl_privacy.defences import chain
from fl_privacy.defences.clip_each import ClipEach
from fl_privacy.seeding import stream

LAPLACE = {"name": "laplace_noise", "scale": 0.5}
GAUSSIAN = {"name": "gaussian_noise", "scale": 2.0}
TANH = {1: 500.0, 2: 500**0.5}


@pytest.mark.parametrize("order", [1, 2])
def test_every_row_is_clipped_alone_and_keeps_its_direction(order):
    rows = torch.randn(6, 4, 3, generator=stream(0)) * torch.arange(6)[:, None, None]
    clipped = ClipEach(2.0, order).without_noise({"activation": rows})["activation"]
    norms = torch.linalg.vector_norm(clipped.flatten(1), order, dim=1)
    assert norms.max() <= 2 + 1e-5
    assert torch.equal(clipped[0], rows[0]), "a row of zeros stays, and is no NaN"
    cosine = torch.cosine_similarity(clipped[1:].flatten(1), rows[1:].flatten(1))
    assert cosine.min() > 1 - 1e-5
    with pytest.raises(ValueError, match="above 0"):
        ClipEach(0.0)


def test_laplace_noise_after_a_clip_in_l1_is_pure_and_adds_up_over_releases():
    defended = chain([{"name": "clip_each", "norm": 1.5, "order": 1}, LAPLACE])
    found = release_guarantee(defended)
    assert (found.epsilon, found.delta) == (pytest.approx(6.0), 0.0)
    assert release_guarantee(defended, releases=4).epsilon == pytest.approx(24.0)


def test_the_densities_of_laplace_noise_keep_the_promise():
    worst = 0.0
    for point in torch.linspace(-4, 4, 81).tolist():  # one number, clipped to [-1.5, 1.5]
        worst = max(worst, (abs(point - 1.5) - abs(point + 1.5)) / 0.5)
    found = release_guarantee(chain([{"name": "clip_each", "norm": 1.5, "order": 1}, LAPLACE]))
    assert worst == pytest.approx(found.epsilon)


def test_gaussian_noise_after_a_clip_in_l2_is_that_of_its_accountant():
    found = release_guarantee(chain([{"name": "clip_each", "norm": 0.5}, GAUSSIAN]), releases=4)
    assert found.epsilon == pytest.approx(gaussian_epsilon(2.0 / 0.5 / 2 / 2, 1e-5))
    assert found.mu == pytest.approx(1.0)
    in_l1 = release_guarantee(chain([{"name": "clip_each", "norm": 0.5, "order": 1}, GAUSSIAN]), releases=4)
    assert in_l1.epsilon == found.epsilon, "an L1 norm bounds the L2 norm"


def test_a_bounded_activation_is_its_own_clip():
    assert release_guarantee(chain([LAPLACE]), bound=TANH).epsilon == pytest.approx(2000)
    assert release_guarantee(chain([{"name": "clip_each", "norm": 500.0, "order": 1}, LAPLACE])).epsilon == 2000


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([], "no defence"),
        ([LAPLACE], "clip_each before the noise"),
        ([GAUSSIAN, {"name": "clip_each", "norm": 1.0}], "clip_each before the noise"),
        ([{"name": "clip_each", "norm": 1.0}, LAPLACE], "clip_each before the noise"),
        ([{"name": "clip_each", "norm": 1.0}, {"name": "uniform_noise", "scale": 9.0}], "no Gaussian or Laplace"),
    ],
)
def test_there_is_none_where_nothing_is_bounded(members, why):
    found = release_guarantee(chain(members))
    assert found.epsilon is None
    assert why in found.words


def test_impossible_uses_are_refused():
    with pytest.raises(ValueError, match="at least 1 release"):
        release_guarantee(chain([LAPLACE]), releases=0)
    assert math.isinf(ClipEach().norm)
