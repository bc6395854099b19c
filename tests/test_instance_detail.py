"""Which image of its class a guess is: known answers, its chance level, and that neither blur nor contrast count."""

import pytest
import torch
from scipy.stats import binomtest

from fl_privacy.metrics import MatchedSet, instances_found
from fl_privacy.metrics.intervals import wilson


@pytest.fixture
def truth():
    return torch.rand(120, 1, 6, 6, generator=torch.Generator().manual_seed(0))


LABELS = torch.arange(120) % 3


def found(guesses, truth, labels=LABELS):
    return instances_found(MatchedSet(guesses=guesses, truth=truth, labels=labels, seed=1))


def test_a_copy_is_found_always_and_another_image_by_chance(truth):
    copy = found(truth.clone(), truth)
    assert (copy["instance_right"], copy["instance_images"], copy["instance_candidates"]) == (1, 120, 40)
    assert copy["instance_chance"] == pytest.approx(1 / 40)
    other = torch.rand(120, 1, 6, 6, generator=torch.Generator().manual_seed(5))
    assert found(other, truth)["instance_right"] <= 0.08


def test_who_tells_the_class_alone_is_right_by_chance_exactly(truth):
    means = torch.stack([truth[label == LABELS].mean(0) for label in range(3)])[LABELS]
    told = found(means, truth)
    assert told["instance_right"] == pytest.approx(told["instance_chance"])
    assert found(torch.full_like(truth, 0.3), truth)["instance_right"] == pytest.approx(told["instance_chance"])


def test_neither_contrast_nor_brightness_nor_another_class_counts(truth):
    pale = 0.4 + 0.1 * truth + 0.2 * LABELS.view(-1, 1, 1, 1)
    assert found(pale, truth)["instance_right"] == 1
    twins = truth.clone()
    twins[1::3] = twins[0::3]  # of another class, and so no rival
    assert found(twins, twins)["instance_right"] == 1


def test_half_of_the_detail_is_found_more_often_than_by_chance_and_less_than_always(truth):
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    row = found(truth + 0.6 * noise, truth)
    assert row["instance_right_high"] < 1
    assert row["instance_right_low"] > row["instance_chance"]
    assert (row["instance_right_low"], row["instance_right_high"]) == pytest.approx(
        wilson(row["instance_right"] * 120, 120)
    )


def test_images_that_are_equally_like_share_the_hit(truth):
    pairs = truth.clone()
    pairs[60:] = pairs[:60]  # 60 is a multiple of 3: the twin is of the same class
    assert found(pairs, pairs)["instance_right"] == pytest.approx(0.5)


def test_large_classes_are_asked_about_in_groups_of_at_most_a_hundred():
    truth = torch.rand(250, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    row = found(truth, truth, torch.zeros(250, dtype=torch.long))
    assert row["instance_candidates"] == 84
    assert row["instance_chance"] == pytest.approx(3 / 250)
    alone = found(truth[:3], truth[:3], torch.arange(3))
    assert alone == {}


@pytest.mark.parametrize(("hits", "trials"), [(0, 5), (3, 10), (10, 10), (57, 120)])
def test_wilson_equals_scipy(hits, trials):
    expected = binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson(hits, trials) == pytest.approx((expected.low, expected.high))


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0, 0)
