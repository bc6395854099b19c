"""Equation 18 against counting by hand, and where it is not a bound."""

import itertools
import math

import pytest
import torch

from fl_privacy.metrics.entropy_bound import entropy_bound, probability_vectors, rounded_entropy_bound, rounded_vectors

SMALL = [(0, 1), (0, 3), (0, 7), (1, 1), (1, 2), (1, 3), (1, 5), (2, 2), (2, 3)]


@pytest.mark.parametrize(("decimals", "classes"), SMALL)
def test_equation_18_equals_enumeration(decimals, classes):
    units = 10**decimals
    counted = sum(sum(vector) == units for vector in itertools.product(range(units + 1), repeat=classes))
    assert probability_vectors(decimals, classes) == counted


def test_the_rounded_bound_equals_enumeration_of_near_sums():
    for classes, units in [(2, 10), (3, 10), (4, 10), (5, 1)]:
        near = sum(
            abs(sum(vector) - units) <= classes // 2
            for vector in itertools.product(range(units + classes + 1), repeat=classes)
        )
        assert rounded_vectors(round(math.log10(units)), classes) == near


def test_rounding_each_entry_sends_more_vectors_than_equation_18_counts_but_not_more_than_the_bound():
    shares = [vector for vector in itertools.product(range(121), repeat=3) if sum(vector) == 120]
    grid = torch.tensor(shares, dtype=torch.float64) / 120
    sent = {tuple(row) for row in (grid * 10).round().int().tolist()}
    assert probability_vectors(1, 3) < len(sent) <= rounded_vectors(1, 3)
    assert (3, 3, 3) in sent


def test_bits_of_large_and_degenerate_cases():
    assert entropy_bound(2, 1) == 0.0
    assert entropy_bound(0, 1024) == pytest.approx(10.0, abs=1e-12)
    # Stirling by log-gamma, where it is accurate
    nats = math.lgamma(1e6 + 200) - math.lgamma(200) - math.lgamma(1e6 + 1)
    assert entropy_bound(6, 200) == pytest.approx(nats / math.log(2), rel=1e-9)
    assert entropy_bound(15, 10) > entropy_bound(7, 10) > entropy_bound(1, 10)
    assert rounded_entropy_bound(3, 10) > entropy_bound(3, 10)


@pytest.mark.parametrize(("decimals", "classes"), [(-1, 3), (2, 0)])
def test_settings_out_of_range_are_named(decimals, classes):
    with pytest.raises(ValueError, match="at least"):
        probability_vectors(decimals, classes)
