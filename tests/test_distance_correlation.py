"""Distance correlation against dcor, a pairwise loop, and known answers."""

import numpy as np
import pytest
import torch
from dcor_oracle import ask
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_privacy.metrics.distance_correlation import distance_correlation, measure
from fl_privacy.seeding import stream

ESTIMATORS = ("euclidean", "squared", "unbiased")


def rows(n, d, *names):
    return torch.randn(n, d, dtype=torch.float64, generator=stream(0, *names))


def oracle(x, z, estimator):
    x, z = x.flatten(1).numpy(), z.flatten(1).numpy()
    if estimator == "euclidean":
        return ask("distance_correlation", x, z)
    if estimator == "unbiased":
        return ask("u_distance_correlation_sqr", x, z)
    # double-centred squared distances are -2 times the centred Gram matrix: the root of linear CKA
    a, b = x - x.mean(0), z - z.mean(0)
    cross, own_x, own_z = (np.linalg.norm(m) for m in (a.T @ b, a.T @ a, b.T @ b))
    return cross / np.sqrt(own_x * own_z)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("n", "d", "k"), [(4, 1, 1), (5, 3, 2), (32, 784, 500), (128, 20, 5)])
def test_equals_an_independent_implementation_to_1e_9(estimator, n, d, k):
    x = rows(n, d, "x") + 100.0
    z = torch.tanh(x[:, :1] - 100.0) + rows(n, k, "z")
    assert float(distance_correlation(x, z, estimator)) == pytest.approx(oracle(x, z, estimator), abs=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_identical_rows_give_the_oracles_value_and_a_finite_gradient(estimator):
    x = rows(12, 6, "x").repeat_interleave(2, 0)
    z = rows(8, 4, "z").repeat(3, 1).requires_grad_()
    value = distance_correlation(x, z, estimator)
    value.backward()
    assert float(value.detach()) == pytest.approx(oracle(x, z.detach(), estimator), abs=1e-9)
    assert torch.isfinite(z.grad).all()
    assert z.grad.abs().max() > 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_do_not_vary_give_zero_with_a_zero_gradient(estimator, dtype):
    z = torch.full((6, 3), 0.1, dtype=dtype).requires_grad_()
    value = distance_correlation(rows(6, 4, "x").to(dtype), z, estimator)
    value.backward()
    assert float(value.detach()) == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_gradient_is_right(estimator):
    x, z = rows(7, 3, "x"), rows(7, 2, "z").requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: distance_correlation(x, rows, estimator), (z,))


def test_squared_is_blind_to_even_dependence_and_euclidean_is_not():
    x = rows(2000, 5, "x")
    value = {e: float(distance_correlation(x, x.abs(), e)) for e in ("euclidean", "squared")}
    # papers.md section 5: .352 against .059
    assert value["euclidean"] > 0.3
    assert value["squared"] < 0.1


@given(
    st.integers(4, 12).flatmap(
        lambda n: st.tuples(
            *(hnp.arrays(np.float64, (n, 3), elements=st.floats(-1e3, 1e3, width=32)) for _ in range(2))
        )
    ),
    st.sampled_from(ESTIMATORS),
)
@settings(max_examples=80, deadline=None)
def test_any_rows_give_a_finite_value_in_range_that_is_symmetric(pair, estimator):
    x, z = map(torch.from_numpy, pair)
    value = float(distance_correlation(x, z, estimator))
    assert value <= 1 + 1e-9
    assert value >= (-1 - 1e-9 if estimator == "unbiased" else 0)
    assert value == pytest.approx(float(distance_correlation(z, x, estimator)), abs=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_shift_a_scale_and_a_rotation_change_nothing(estimator):
    x, z = rows(20, 4, "x"), rows(20, 4, "z") + rows(20, 4, "x")
    rotation = torch.linalg.qr(rows(4, 4, "q"))[0]
    moved = distance_correlation(7 * x @ rotation + 3, z, estimator)
    assert float(moved) == pytest.approx(float(distance_correlation(x, z, estimator)), abs=1e-9)


def test_measure_means_over_whole_batches_and_reports_n_and_the_floor():
    x = rows(100, 50, "x")
    z = rows(100, 30, "z")
    found = measure(x, z, stream(0), n=32)
    parts = [oracle(a, b, "euclidean") for a, b in zip(x.split(32), z.split(32), strict=True)][:3]
    assert (found.n, found.batches) == (32, 3)
    assert found.value == pytest.approx(np.mean(parts), abs=1e-9)
    assert found.standard_error == pytest.approx(np.std(parts, ddof=1) / 3**0.5, abs=1e-9)
    # independent data: the biased value is nothing but its floor, and the unbiased one has none
    assert found.value > 0.8
    assert found.floor == pytest.approx(found.value, abs=0.05)
    assert abs(measure(x, z, stream(0), n=100, estimator="unbiased").floor) < 0.05


def test_the_floor_is_below_the_value_of_dependent_data_and_repeats():
    x = rows(64, 5, "x")
    first, again = (measure(x, x @ rows(5, 3, "w"), stream(3), n=64) for _ in range(2))
    assert first.floor < first.value - 0.3
    assert (first.value, first.floor) == (again.value, again.floor)


def test_errors_teach():
    with pytest.raises(ValueError, match="needs 4 rows"):
        distance_correlation(rows(3, 2, "x"), rows(3, 2, "z"), "unbiased")
    with pytest.raises(ValueError, match="pairs row with row"):
        distance_correlation(rows(3, 2, "x"), rows(4, 2, "z"))
    with pytest.raises(ValueError, match="one of euclidean, squared, unbiased"):
        distance_correlation(rows(5, 2, "x"), rows(5, 2, "z"), "cosine")
    with pytest.raises(ValueError, match="lower n"):
        measure(rows(5, 2, "x"), rows(5, 2, "z"), stream(0), n=32)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e-20, 1e-12, 1e-6, 1e-3, 1e3, 1e6, 1e12, 1e20, 1e30, 1e37])
def test_no_scale_leaves_float32(estimator, scale):
    x = rows(64, 20, "x").float()
    z = torch.tanh(x[:, :5]) + rows(64, 5, "z").float()
    far = z * torch.tensor(scale, dtype=torch.float32)
    close = 2e-3 if scale < 1e-40 else 1e-5  # the smallest numbers of float32 have few digits
    assert float(distance_correlation(x, scale * x, estimator)) == pytest.approx(1, abs=close)
    assert float(distance_correlation(x, far, estimator)) == pytest.approx(
        oracle(x.double(), z.double(), estimator), abs=close
    )
    assert float(distance_correlation(far, far, estimator)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_extreme_scale_has_the_gradient_of_an_ordinary_one(estimator):
    x, z = rows(16, 6, "x").float(), rows(16, 4, "z").float()
    slopes = []
    for power in (0, 60, -60):
        moved = (z * 2.0**power).requires_grad_()
        distance_correlation(x, moved, estimator).backward()
        slopes.append(moved.grad * 2.0**power)
    assert slopes[0].abs().max() > 0
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-4, atol=1e-9)
    assert torch.allclose(slopes[0], slopes[2], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_power_of_two_changes_no_bit(estimator):
    """The digests of models trained with NoPeek hang on the bits of the loss and of its gradient."""
    x, z = rows(32, 10, "x").float(), rows(32, 7, "z").float()
    found = []
    for power in (0, -7, 3, 14):
        moved = (z * 2.0**power).requires_grad_()
        value = distance_correlation(x, moved, estimator)
        value.backward()
        found.append((value.detach(), moved.grad * 2.0**power))
    for value, slope in found[1:]:
        assert torch.equal(value, found[0][0])
        assert torch.equal(slope, found[0][1])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_large_constant_and_values_that_are_no_numbers(estimator):
    x = rows(6, 4, "x").float()
    for constant in (1e30, 3e38, 1e-30, 1e-45):
        assert float(distance_correlation(x, torch.full((6, 3), constant), estimator)) == 0
    for wrong in (float("nan"), float("inf")):
        bad = x.clone()
        bad[2, 1] = wrong
        with pytest.raises(ValueError, match="NaN or infinite"):
            distance_correlation(x, bad, estimator)
        with pytest.raises(ValueError, match="NaN or infinite"):
            measure(bad, x, stream(0), n=6, estimator=estimator)
    with pytest.raises(ValueError, match="needs"):
        distance_correlation(x[:1], x[:1], estimator)
