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
@pytest.mark.parametrize("name", PAYLOAD_DEFENCES)
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
    ],
)
def test_bad_settings_teach(spec, error):
    with pytest.raises(ValueError, match=error):
        chain([spec])


def test_an_unknown_defence_lists_the_known():
    with pytest.raises(UnknownName, match="gaussian_noise"):
        chain([{"name": "gausian_noise"}])
