"""NoPeek adds its weight times the distance correlation, acts on the client only, and does what it is for."""

import pytest
import torch
from torch import nn

from fl_privacy.defences.base import Chain, chain
from fl_privacy.defences.noise import UniformNoise
from fl_privacy.defences.nopeek import NoPeek
from fl_privacy.metrics.distance_correlation import distance_correlation
from fl_privacy.seeding import seeded, stream


@pytest.mark.parametrize("estimator", ["euclidean", "squared", "unbiased"])
def test_the_term_is_weight_times_distance_correlation(estimator):
    x, z = torch.randn(8, 1, 4, 4, generator=stream(0)), torch.randn(8, 5, generator=stream(1))
    term = chain([{"name": "nopeek", "weight": 2.5, "estimator": estimator}]).extra_loss(x, z)
    torch.testing.assert_close(term, 2.5 * distance_correlation(x, z, estimator))


def test_weight_zero_adds_no_term_and_releases_are_untouched():
    x, z = torch.randn(8, 3), torch.randn(8, 5)
    assert Chain((NoPeek(),)).extra_loss(x, z) is None
    assert Chain((NoPeek(weight=1.0),)).on_release({"activation": z}, 0)["activation"] is z


def test_training_on_the_term_lowers_the_distance_correlation_of_fresh_data():
    with seeded(0, "net"):
        net = nn.Sequential(nn.Linear(20, 16), nn.Tanh())
    x, fresh = torch.randn(256, 20, generator=stream(0, "x")), torch.randn(256, 20, generator=stream(0, "fresh"))

    @torch.no_grad()
    def leak():
        return float(distance_correlation(fresh, net(fresh), "unbiased"))

    before = leak()
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(100):
        optimiser.zero_grad()
        NoPeek(weight=1.0, estimator="unbiased").extra_loss(x, net(x)).backward()
        optimiser.step()
    assert leak() < before / 2


@pytest.mark.parametrize("settings", [{"weight": -1.0}, {"weight": float("inf")}, {"estimator": "cosine"}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=r"weight|estimator"):
        NoPeek(**settings)


def test_uniform_noise_has_its_range_mean_and_deviation():
    payload = {"activation": torch.zeros(200_000, dtype=torch.float64)}
    noise = UniformNoise(scale=0.3).on_release(payload, stream(0))["activation"]
    assert noise.abs().max() <= 0.3
    assert float(noise.mean()) == pytest.approx(0, abs=0.002)
    assert float(noise.std()) == pytest.approx(0.3 / 3**0.5, rel=0.01)
    assert UniformNoise().on_release(payload, stream(0)) is payload
