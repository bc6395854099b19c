import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fl_privacy.defences import DEFENCES, Chain, chain
from fl_privacy.defences.clip import Clip
from fl_privacy.defences.noise import GaussianNoise, LaplaceNoise
from fl_privacy.seeding import stream
from fl_privacy.settings import UnknownName

PAYLOADS = {
    "ordinary": {"w": torch.randn(4, 3, generator=stream(0, "w")), "b": torch.randn(4, generator=stream(0, "b"))},
    "zero": {"w": torch.zeros(4, 3)},
    "0-d": {"scale": torch.tensor(2.0)},
    "empty tensor": {"w": torch.zeros(0, 3)},
    "nothing": {},
}
PAYLOAD_DEFENCES = [name for name in DEFENCES if not DEFENCES.facts(name).get("outputs_only")]


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("name", [n for n in PAYLOAD_DEFENCES if not DEFENCES.facts(n).get("always_acts")])
def test_neutral_settings_change_nothing_bit_for_bit(name, payload):
    defence = DEFENCES.configure(name, {})
    before = {key: value.clone() for key, value in payload.items()}
    after = defence.on_release(payload, stream(0, "x"))
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


STRONG = {
    "gaussian_noise": {"scale": 1.0},
    "laplace_noise": {"scale": 1.0},
    "uniform_noise": {"scale": 1.0},
    "clip": {"norm": 0.1},
    "clip_each": {"norm": 0.1, "order": 1},
    "prune": {"share": 0.3},
    "quantise": {"bits": 3},
    "sign": {},
    "dp_sgd": {"norm": 0.1, "noise_multiplier": 1.0},
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("name", STRONG)
def test_names_shapes_dtypes_and_input_survive(name, payload):
    defence = DEFENCES.configure(name, STRONG[name])
    before = {key: value.clone() for key, value in payload.items()}
    torch.manual_seed(0)
    untouched = torch.get_rng_state()
    after = defence.on_release(payload, stream(0, "x"))
    assert torch.equal(torch.get_rng_state(), untouched), "a defence draws from its own stream only"
    assert all(torch.equal(payload[key], before[key]) for key in before), "the input must not be changed in place"
    assert list(after) == list(before)
    for key, value in after.items():
        assert value.shape == before[key].shape
        assert value.dtype == before[key].dtype
        assert torch.isfinite(value).all()
    again = defence.on_release(payload, stream(0, "x"))
    assert all(torch.equal(after[key], again[key]) for key in after)


@pytest.mark.parametrize(
    ("defence", "law"), [(GaussianNoise(0.7), stats.norm(0, 0.7)), (LaplaceNoise(0.7), stats.laplace(0, 0.7))]
)
def test_noise_follows_its_law(defence, law):
    draws = defence.on_release({"x": torch.zeros(20_000)}, stream(3, "law"))["x"].double().numpy()
    assert stats.kstest(draws, law.cdf).pvalue > 1e-3
    assert draws.mean() == pytest.approx(0, abs=4 * law.std() / math.sqrt(20_000))
    assert draws.var() == pytest.approx(law.var(), rel=0.06)
    assert stats.kurtosis(draws) == pytest.approx(float(law.stats(moments="k")), abs=0.6)


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=0, max_size=20),
    norm=st.floats(1e-3, 1e3),
)
@settings(deadline=None)
def test_clip_bounds_the_norm_and_keeps_the_direction(values, norm):
    payload = {
        "a": torch.tensor(values[::2], dtype=torch.float32),
        "b": torch.tensor(values[1::2], dtype=torch.float32),
    }
    out = Clip(norm).on_release(payload, stream(0))
    before = torch.cat([*payload.values()]).double()
    after = torch.cat([*out.values()]).double()
    assert after.norm() <= norm * (1 + 1e-5)
    if before.norm() <= norm:
        assert torch.equal(before, after)
    else:
        assert after.norm() == pytest.approx(norm, rel=1e-4)
        assert torch.allclose(after * before.norm() / norm, before, rtol=1e-3, atol=1e-3)


def test_a_chain_runs_in_order_with_a_stream_a_member():
    noisy = chain([{"name": "gaussian_noise", "scale": 1.0}, {"name": "gaussian_noise", "scale": 1.0}])
    released = noisy.on_release({"x": torch.zeros(1000)}, 7)["x"]
    assert released.std() == pytest.approx(math.sqrt(2), rel=0.1), "two members must not draw the same noise"
    clipped = chain([{"name": "gaussian_noise", "scale": 9.0}, {"name": "clip", "norm": 1.0}])
    assert clipped.on_release({"x": torch.ones(50)}, 7)["x"].norm() <= 1 + 1e-5
    assert clipped.label == "gaussian_noise(scale=9.0) + clip(norm=1.0)"
    assert not torch.equal(released, noisy.on_release({"x": torch.zeros(1000)}, 8)["x"])


def test_the_empty_chain():
    payload = {"x": torch.ones(3)}
    assert Chain().on_release(payload, 0) is payload
    assert Chain().label == "none"
    assert not Chain()
    assert Chain().extra_loss(torch.ones(2, 3), torch.ones(2, 3)) is None


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"name": "gaussian_noise", "scale": -1.0}, "at least 0"),
        ({"name": "laplace_noise", "scale": math.inf}, "finite"),
        ({"name": "clip", "norm": 0.0}, "above 0"),
        ({"name": "prune", "share": 0.0}, "prunes nothing"),
        ({"name": "quantise", "bits": 1}, "1 bit is 'sign'"),
        ({"name": "sign", "scale": -1.0}, "mean magnitude"),
    ],
)
def test_bad_settings_teach(spec, error):
    with pytest.raises(ValueError, match=error):
        chain([spec])


def test_an_unknown_defence_lists_the_known():
    with pytest.raises(UnknownName, match="gaussian_noise"):
        chain([{"name": "gausian_noise"}])


def entries(rows=40, columns=30, name="entries"):
    return torch.randn(rows, columns, generator=stream(0, name))


@given(share=st.floats(0.01, 0.99), size=st.integers(1, 60))
@settings(deadline=None)
def test_pruning_keeps_exactly_the_largest_of_each_tensor(share, size):
    payload = {"a": torch.randn(size, generator=stream(size, "a")), "b": 1e-3 * entries(5, 4)}
    released = chain([{"name": "prune", "share": share}]).on_release(payload, 0)
    for name, value in payload.items():
        order = value.abs().flatten().sort(descending=True).values
        kept = math.ceil(share * value.numel())
        expected = torch.where(value.abs() >= order[kept - 1], value, 0.0)
        assert torch.equal(released[name], expected)
        assert int((released[name] != 0).sum()) == kept


def test_a_pruned_release_shows_its_mask_and_a_noisy_one_does_not():
    pruning, x, guess = chain([{"name": "prune", "share": 0.2}]), {"w": entries()}, {"w": entries(name="guess")}
    released = pruning.on_release(x, 0)
    assert torch.equal(pruning.as_seen(guess, released)["w"], guess["w"] * (released["w"] != 0))
    assert torch.equal(pruning.as_seen(x, released)["w"], released["w"]), "the truth explains the release"
    noisy = chain([{"name": "prune", "share": 0.2}, {"name": "gaussian_noise", "scale": 1.0}])
    assert torch.equal(noisy.as_seen(guess, noisy.on_release(x, 0))["w"], pruning.without_noise(guess)["w"])


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_quantisation_is_unbiased_and_on_its_grid(bits):
    payload, quantise = {"w": entries(), "b": 1e-4 * entries(4, 4)}, chain([{"name": "quantise", "bits": bits}])
    draws = [quantise.on_release(payload, seed) for seed in range(400)]
    for name, value in payload.items():
        levels, step = 2 ** (bits - 1) - 1, float(value.abs().max()) / (2 ** (bits - 1) - 1)
        found = torch.stack([each[name] for each in draws])
        multiples = found / step
        assert torch.allclose(multiples, multiples.round(), atol=1e-3)
        assert int(multiples.round().abs().max()) == levels
        assert float((found - value).abs().max()) <= step * (1 + 1e-5)
        part = value / step - (value / step).floor()
        assert torch.allclose(found.mean(0), value, atol=step * 0.5 * 5 / 20)
        assert float(found.var(0).mean()) == pytest.approx(float((part * (1 - part)).mean()) * step**2, rel=0.05)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_a_release_hides_of_rounding_is_about_its_variance(bits):
    payload, quantise = {"w": entries(100, 100)}, chain([{"name": "quantise", "bits": bits}])
    released = quantise.on_release(payload, 1)
    error = float((released["w"] - payload["w"]).square().mean())
    assert torch.equal(quantise.on_release(released, 2)["w"], released["w"]), "a second release shows none of it"
    assert error / 2 < float(quantise.hidden_variance(released)["w"]) < 2 * error


def test_signs_have_the_mean_magnitude_and_a_slope():
    value = entries().requires_grad_()
    for scale, size in ((0.0, float(value.detach().abs().mean())), (0.25, 0.25)):
        sign = chain([{"name": "sign", "scale": scale}])
        released = sign.on_release({"w": value}, 0)["w"]
        assert torch.allclose(released, size * value.sign())
        (slope,) = torch.autograd.grad(released.sum(), value)
        near, far = value.detach().abs() < 0.1, value.detach().abs() > 2
        assert float(slope[near].min()) > 4 * float(slope[far].max()), "values near 0 can change their sign"


def test_a_second_derivative_passes_through_quantised_values():
    value = entries(3, 3).requires_grad_()
    for name in ({"name": "quantise", "bits": 4}, {"name": "sign"}, {"name": "prune", "share": 0.5}):
        released = chain([name]).on_release({"w": (value**2)}, 0)["w"]
        (slope,) = torch.autograd.grad(released.square().sum(), value, create_graph=True)
        (again,) = torch.autograd.grad(slope.sum(), value)
        assert bool(again.abs().sum() > 0)
