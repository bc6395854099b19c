"""Partitions: disjoint, complete, seeded, of the promised sizes and skew; and the batches drawn from them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.data import PARTITIONS, client_batch, partition
from fl_privacy.settings import UnknownName

LABELS = torch.arange(1000) % 10


@st.composite
def cases(draw):
    """Labels of any skew, with gaps and single classes, and no more clients than examples."""
    classes = draw(st.integers(1, 5))
    labels = draw(st.lists(st.integers(0, classes), min_size=1, max_size=60))
    return torch.tensor(labels), draw(st.integers(1, len(labels))), draw(st.integers(0, 2**40))


def assert_partition(parts, labels, clients):
    assert len(parts) == clients
    assert all(len(part) for part in parts), "nobody is left without data"
    assert all(part.tolist() == sorted(set(part.tolist())) for part in parts)
    assert sorted(index for part in parts for index in part.tolist()) == list(range(len(labels)))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_iid_covers_everything_once_in_equal_parts(case):
    labels, clients, seed = case
    parts = partition("iid", labels, clients, seed, {})
    assert_partition(parts, labels, clients)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@settings(max_examples=80, deadline=None)
@given(cases(), st.sampled_from([1e-6, 0.01, 0.3, 1.0, 100.0, 1e6]), st.data())
def test_dirichlet_covers_everything_once_and_keeps_the_minimum(case, alpha, more):
    labels, clients, seed = case
    least = more.draw(st.integers(1, len(labels) // clients))
    parts = partition("dirichlet", labels, clients, seed, {"alpha": alpha, "min_size": least})
    assert_partition(parts, labels, clients)
    assert min(map(len, parts)) >= least


@settings(max_examples=60, deadline=None)
@given(cases(), st.data())
def test_shards_cover_everything_once_and_hold_few_classes(case, more):
    labels, clients, seed = case
    each = more.draw(st.integers(1, len(labels) // clients))
    parts = partition("shards", labels, clients, seed, {"per_client": each})
    assert_partition(parts, labels, clients)
    assert max(map(len, parts)) - min(map(len, parts)) <= each


@pytest.mark.parametrize("name", list(PARTITIONS))
def test_a_partition_is_a_function_of_its_seed(name):
    assert PARTITIONS.summary(name)
    torch.manual_seed(1)
    first = partition(name, LABELS, 7, 3, {})
    torch.manual_seed(2)
    again, other = (partition(name, LABELS, 7, seed, {}) for seed in (3, 4))
    assert all(map(torch.equal, first, again))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, other, strict=True))


def skew(alpha: float, seed: int) -> float:
    """Mean total-variation distance of the clients' class shares from the overall: 0 is IID, 0.9 one class each."""
    parts = partition("dirichlet", LABELS, 10, seed, {"alpha": alpha})
    shares = torch.stack([LABELS[part].bincount(minlength=10) / len(part) for part in parts])
    return float((shares - 0.1).abs().sum(1).mean() / 2)


def test_dirichlet_skew_grows_as_alpha_falls():
    means = [sum(skew(alpha, seed) for seed in range(8)) / 8 for alpha in (0.03, 0.1, 0.5, 2.0, 20.0, 1000.0)]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.75
    assert means[-1] < 0.05


def test_dirichlet_shares_have_the_laws_variance():
    """A share of Dirichlet(alpha) over K clients has the variance (1/K)(1 - 1/K) / (K alpha + 1)."""
    labels = torch.zeros(20_000, dtype=torch.int64)
    clients, alpha = 4, 0.7
    shares = torch.tensor(
        [
            [len(part) / len(labels) for part in partition("dirichlet", labels, clients, seed, {"alpha": alpha})]
            for seed in range(400)
        ]
    )
    expected = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    assert abs(float(shares.var()) / expected - 1) < 0.15


def test_a_client_with_two_shards_holds_two_classes():
    for part in partition("shards", LABELS, 5, 0, {"per_client": 2}):
        assert len(LABELS[part].unique()) <= 2
        assert len(part) == 200


def test_partition_errors_teach():
    with pytest.raises(ValueError, match="3 examples cannot be dealt to 4 clients"):
        partition("iid", LABELS[:3], 4, 0, {})
    with pytest.raises(ValueError, match="to 0 clients"):
        partition("iid", LABELS, 0, 0, {})
    with pytest.raises(UnknownName, match="Did you mean 'dirichlet'"):
        partition("dirichlett", LABELS, 4, 0, {})
    with pytest.raises(UnknownName, match="'rng' of partition 'iid' is given by the suite"):
        partition("iid", LABELS, 4, 0, {"rng": 1})
    with pytest.raises(UnknownName, match=r"'alhpa'. Did you mean 'alpha'"):
        partition("dirichlet", LABELS, 4, 0, {"alhpa": 1})
    for alpha in (0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="alpha must be above 0"):
            partition("dirichlet", LABELS, 4, 0, {"alpha": alpha})
    for least in (0, 251):
        with pytest.raises(ValueError, match="min_size must be 1 to 250"):
            partition("dirichlet", LABELS, 4, 0, {"min_size": least})
    for each in (0, 251):
        with pytest.raises(ValueError, match="per_client must be 1 to 250"):
            partition("shards", LABELS, 4, 0, {"per_client": each})


def everything_to_everyone(labels, clients, rng):
    """A user's faulty partition."""
    return [torch.arange(len(labels))] * clients


def into_arrays(labels, clients, rng):
    """A user's partition of another form."""
    return [part.numpy() for part in torch.arange(len(labels)).tensor_split(clients)]


def nowhere(labels, clients, rng):
    """A user's partition that returns nothing."""


def test_a_users_faulty_partition_is_caught():
    for name in ("into_arrays", "nowhere"):
        with pytest.raises(ValueError, match=f"{name}' must return a list of index tensors, one a client"):
            partition(f"test_partition:{name}", LABELS, 2, 0, {})
    with pytest.raises(ValueError, match="must deal each of 1000 examples to one of 2 clients"):
        partition("test_partition:everything_to_everyone", LABELS, 2, 0, {})


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**40), st.integers(0, 9), st.integers(0, 99), st.data())
def test_a_batch_has_no_repeats_and_belongs_to_the_client(held, seed, client, number, more):
    indices = torch.arange(held) * 3 + 5
    size = more.draw(st.integers(1, held))
    batch = client_batch(indices, seed, client, number, size)
    assert len(set(batch.tolist())) == size
    assert set(batch.tolist()) <= set(indices.tolist())
    assert torch.equal(batch, client_batch(indices, seed, client, number, size))


def test_batches_differ_by_seed_client_and_round_and_a_short_client_is_an_error():
    indices = torch.arange(500)
    drawn = [client_batch(indices, *names, 8).tolist() for names in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert len({tuple(batch) for batch in drawn}) == 4
    for size in (0, 6):
        with pytest.raises(ValueError, match=f"client 3 holds 5 examples.* not {size}"):
            client_batch(indices[:5], 0, 3, 1, size)
