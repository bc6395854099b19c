"""Output defences: what they keep, what they hide, and that an adaptive adversary can train through them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_privacy.defences import DEFENCES, chain
from fl_privacy.defences.outputs import ArgMax, Rounding, Sigmoid, Softmax, Temperature, TopK, Truncation

RNG = torch.Generator().manual_seed(0)
ALL = [Rounding(2), Truncation(2), Softmax(), Temperature(3.0), TopK(2), ArgMax()]
NEUTRAL = [Rounding(), Truncation(), Temperature(), TopK()]


def release(defence, outputs: Tensor) -> Tensor:
    return defence.on_release({"outputs": outputs}, RNG)["outputs"]


def test_known_answers():
    row = torch.tensor([[0.125, -0.987, 0.5]])
    assert torch.equal(release(Rounding(2), row), torch.tensor([[0.12, -0.99, 0.5]]))
    assert torch.equal(release(Truncation(2), row), torch.tensor([[0.12, -0.98, 0.5]]))
    assert torch.equal(release(Rounding(0), row), torch.tensor([[0.0, -1.0, 0.0]]))
    assert torch.equal(release(TopK(2, fill=-5.0), row), torch.tensor([[0.125, -5.0, 0.5]]))
    assert torch.equal(release(ArgMax(), row), torch.tensor([[0.0, 0.0, 1.0]]))
    assert torch.equal(release(Temperature(0.5), row), row * 2)
    assert torch.allclose(release(Softmax(), row), row.exp() / row.exp().sum())


def test_ties_keep_the_first():
    flat = torch.ones(1, 4)
    assert torch.equal(release(ArgMax(), flat), torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert torch.equal(release(TopK(2), flat), torch.tensor([[1.0, 1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("defence", NEUTRAL, ids=lambda d: type(d).__name__)
def test_neutral_settings_change_no_bit(defence):
    outputs = torch.randn(5, 10, generator=RNG)
    assert release(defence, outputs) is outputs


@pytest.mark.parametrize("defence", ALL, ids=lambda d: type(d).__name__)
@given(shape=st.sampled_from([(), (0,), (1,), (3,), (0, 4), (4, 1), (5, 10), (2, 3, 4)]), half=st.booleans())
@settings(max_examples=16, deadline=None)
def test_names_shapes_and_dtypes_stay(defence, shape, half):
    dtype = torch.float16 if half else torch.float32
    payload = {"a": torch.zeros(shape, dtype=dtype), "b": torch.ones(shape, dtype=dtype)}
    before = {name: value.clone() for name, value in payload.items()}
    released = defence.on_release(payload, RNG)
    assert list(released) == ["a", "b"]
    for name, value in released.items():
        assert value.shape == shape
        assert value.dtype == dtype
        assert torch.equal(payload[name], before[name])


@given(decimals=st.integers(0, 7), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_rounding_moves_by_half_a_unit_at_most_and_truncation_by_one_towards_zero(decimals, seed):
    outputs = torch.randn(20, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10
    rounded, cut = release(Rounding(decimals), outputs), release(Truncation(decimals), outputs)
    assert float((rounded - outputs).abs().max()) <= 0.5 * 10**-decimals + 1e-9
    assert float((cut - outputs).abs().max()) < 10**-decimals + 1e-9
    assert bool((cut.abs() <= outputs.abs() + 1e-9).all())
    assert torch.equal(release(Rounding(decimals), rounded), rounded)


def test_sigmoids_say_each_class_by_itself():
    outputs = torch.tensor([[0.0, 4.0, -4.0]], requires_grad=True)
    released = release(Sigmoid(), outputs)
    assert torch.equal(released, torch.sigmoid(outputs))
    released[0, 1].backward()
    assert outputs.grad[0].ne(0).tolist() == [False, True, False]


def test_arg_max_leaks_the_class_and_nothing_more():
    outputs = torch.randn(200, 10, generator=RNG)
    released = release(ArgMax(), outputs)
    assert torch.equal(released.argmax(1), outputs.argmax(1))
    assert len(torch.unique(released, dim=0)) <= 10


@pytest.mark.parametrize("defence", [Rounding(1), Truncation(0), ArgMax()], ids=lambda d: type(d).__name__)
def test_gradients_pass_straight_through_what_quantises(defence):
    outputs = torch.randn(3, 4, requires_grad=True)
    weights = torch.randn(3, 4)
    (release(defence, outputs) * weights).sum().backward()
    assert torch.equal(outputs.grad, weights)


def test_they_chain_by_name_and_name_their_faults():
    made = chain([{"name": "temperature", "temperature": 2}, {"name": "softmax"}, {"name": "rounding", "decimals": 1}])
    sent = made.on_release({"outputs": torch.tensor([[4.0, 0.0]])}, 0)["outputs"]
    assert torch.equal(sent, torch.tensor([[0.9, 0.1]]))
    assert "rounding(decimals=1)" in made.label
    for name, setting in [("rounding", {"decimals": -1}), ("top_k", {"k": 0}), ("temperature", {"temperature": 0.0})]:
        with pytest.raises(ValueError, match=next(iter(setting))):
            DEFENCES.configure(name, setting)
