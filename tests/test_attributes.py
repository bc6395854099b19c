"""The reader of attributes: it reads what is there, and of noise no more than chance."""

import pytest
import torch

from benchmarks.attributes import read
from fl_privacy.seeding import stream


def releases(count, name, signal):
    truth = torch.arange(count) % 3
    noise = torch.randn(count, 4, 8, 8, generator=stream(0, name))
    return noise + signal * truth[:, None, None, None], truth


@pytest.mark.parametrize(("signal", "least", "most"), [(1.0, 0.95, 1.0), (0.0, 0.15, 0.5)])
def test_an_attribute_is_read_where_it_is_and_not_where_it_is_not(signal, least, most):
    found = read(*releases(300, "own", signal), *releases(150, "private", signal), seed=0)
    assert least <= found["balanced"] <= most
    assert found["chance"] == found["most_frequent"] == pytest.approx(1 / 3)
