"""A user's own decoder and the combination of detectors: known values, chance, and what they may not depend on."""

import math

import pytest
import torch

from fl_privacy.joint_training.likelihood_ratio import fitted_ratio
from fl_privacy.joint_training.own_decoder import decodability


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def test_answers_that_are_the_image_tell_all_and_answers_without_it_nothing(rng):
    answers = torch.randn(200, 4, generator=rng)
    images = (answers @ torch.randn(4, 64, generator=rng)).view(200, 1, 8, 8)
    assert decodability(answers, images, seed=0) > 0.98
    other = torch.randn(200, 4, generator=rng)
    assert abs(decodability(other, images, seed=0)) < 0.08


def test_the_class_alone_tells_nothing_beyond_the_class(rng):
    labels = torch.arange(200) % 4
    images = torch.randn(4, 64, generator=rng)[labels] + 0.3 * torch.randn(200, 64, generator=rng)
    hot = torch.nn.functional.one_hot(labels, 4).float()
    assert abs(decodability(hot, images.view(200, 1, 8, 8), seed=0)) < 0.05


def test_half_of_what_the_class_leaves_open_is_a_half(rng):
    labels, detail = torch.arange(400) % 2, torch.randn(400, 2, generator=rng)
    answers = torch.stack([10 * labels - 5 + detail[:, 0], 5 - 10 * labels + detail[:, 0]], 1)
    images = torch.stack([detail[:, 0], detail[:, 1], 3.0 * labels, 0 * detail[:, 0]], 1).view(400, 1, 2, 2)
    assert decodability(answers, images, seed=0) == pytest.approx(0.5, abs=0.12)


def test_scale_and_order_do_not_matter_and_the_seed_decides(rng):
    answers, images = torch.randn(60, 3, generator=rng), torch.rand(60, 1, 4, 4, generator=rng)
    found = decodability(answers, images, seed=1)
    assert found == decodability(answers, images, seed=1)
    assert found == pytest.approx(decodability(3 * answers, images, seed=1), abs=1e-3)
    with pytest.raises(ValueError, match="at least 20"):
        decodability(answers[:10], images[:10], seed=0)
    with pytest.raises(ValueError, match="as many of both"):
        decodability(answers[:30], images, seed=0)


def test_the_ratio_of_two_normal_laws_is_the_known_one():
    rng = torch.Generator().manual_seed(1)
    low, high = torch.randn(2, 20_000, 2, generator=rng, dtype=torch.float64)
    shift = torch.tensor([1.0, 2.0], dtype=torch.float64)
    rows = [[{"a": float(a), "b": float(b)} for a, b in kind] for kind in (low, high + shift)]
    ratio = fitted_ratio(*rows, names=["a", "b"])
    for point in ([0.0, 0.0], [1.0, 2.0], [0.5, 1.0], [-2.0, 3.0]):
        expected = float(torch.tensor(point, dtype=torch.float64) @ shift - shift @ shift / 2)
        assert ratio.of(dict(zip("ab", point, strict=True))) == pytest.approx(expected, abs=0.1)


def test_a_score_that_never_varies_does_no_harm_and_one_model_is_too_few():
    kinds = [[{"a": 0.1 * n, "b": 1.0} for n in range(3)], [{"a": 5 + 0.1 * n, "b": 1.0} for n in range(3)]]
    ratio = fitted_ratio(*kinds, names=["a", "b"])
    assert ratio.of({"a": 0.0, "b": 1.0}) < 0 < ratio.of({"a": 5.0, "b": 1.0})
    assert math.isfinite(ratio.of({"a": 0.0, "b": 1.0}))
    with pytest.raises(ValueError, match="two models of each kind"):
        fitted_ratio(kinds[0][:1], kinds[1], names=["a"])
    with pytest.raises(KeyError):
        ratio.of({"a": 1.0})
