"""Epsilon is dp-accounting's own, an audit finds half the noise, and nobody beats the identification bound."""

import math

import dp_accounting as dp
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from benchmarks.epsilon_audit import epsilon_found
from fl_privacy.accounting import Use, guarantee, identification_bound, mechanism
from fl_privacy.data import load
from fl_privacy.defences import chain
from fl_privacy.identification import blind_share, recovered
from fl_privacy.metrics.psnr import psnr
from fl_privacy.metrics.ssim import ssim
from fl_privacy.observation import Images
from fl_privacy.seeding import stream

DELTA = 1e-5


def dp_sgd(sigma, norm=1.0):
    return chain([{"name": "dp_sgd", "norm": norm, "noise_multiplier": sigma}])


def clipped(scale, norm=1.0):
    return chain([{"name": "clip", "norm": norm}, {"name": "gaussian_noise", "scale": scale}])


@pytest.mark.parametrize(("scale", "rounds"), [(1.0, 1), (4.0, 30), (20.0, 100)])
def test_epsilon_of_a_client_is_that_of_dp_accounting(scale, rounds):
    accountant = PLDAccountant()
    accountant.compose(dp.GaussianDpEvent(scale / 2), rounds)  # replacing a message moves it by up to twice the clip
    found = guarantee(clipped(scale), Use(rounds=rounds, examples=8, held=100, passes=5), DELTA)
    assert found.unit == "client"
    assert found.epsilon == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-3)
    assert found.mu == pytest.approx(1 / scale)
    assert guarantee(clipped(3 * scale, norm=3.0), Use(rounds=rounds), DELTA).epsilon == pytest.approx(found.epsilon)


@pytest.mark.parametrize(
    ("use", "sigma"), [(Use(30, 8, 100), 2.0), (Use(100, 1, 50, 2), 3.0), (Use(5, 10, 10, 3), 2.0)]
)
def test_epsilon_of_an_example_is_that_of_dp_accounting(use, sigma):
    accountant = RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    steps = dp.SelfComposedDpEvent(dp.GaussianDpEvent(sigma / 2), use.passes)
    sampled = dp.SampledWithoutReplacementDpEvent(use.held, use.examples, steps)
    accountant.compose(sampled if use.examples < use.held else steps, use.rounds)
    whole = PLDAccountant()
    whole.compose(dp.GaussianDpEvent(sigma / 2), use.rounds * use.passes)
    found = guarantee(dp_sgd(sigma), use, DELTA)
    assert found.unit == "example"
    expected = min(accountant.get_epsilon(DELTA), whole.get_epsilon(DELTA))
    assert found.epsilon == pytest.approx(expected, rel=1e-3)
    assert found.mu == pytest.approx(math.sqrt(use.passes) / sigma)


@given(sigma=st.floats(0.5, 20), rounds=st.integers(1, 50))
@settings(deadline=None, max_examples=20)
def test_more_noise_costs_less_and_more_rounds_cost_more(sigma, rounds):
    def epsilon(sigma, rounds):
        return guarantee(clipped(sigma), Use(rounds=rounds)).epsilon

    assert epsilon(2 * sigma, rounds) < epsilon(sigma, rounds) <= epsilon(sigma, rounds + 1)
    assert epsilon(2 * sigma, 4 * rounds) == pytest.approx(epsilon(sigma, rounds), rel=1e-6)


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ([], "none: no defence"),
        ([{"name": "gaussian_noise", "scale": 1.0}], "none: no norm bound"),
        ([{"name": "gaussian_noise", "scale": 1.0}, {"name": "clip", "norm": 1.0}], "none: no norm bound"),
        ([{"name": "clip", "norm": 1.0}, {"name": "laplace_noise", "scale": 1.0}], "none: no Gaussian noise"),
        ([{"name": "sign"}], "none: no Gaussian noise"),
        ([{"name": "dp_sgd", "norm": 1.0}], "none: no Gaussian noise"),
        ([{"name": "clip"}, {"name": "gaussian_noise", "scale": 1.0}], "none: no norm bound"),
    ],
)
def test_where_nothing_is_guaranteed_the_reason_is_told(specs, words):
    found = guarantee(chain(specs), Use())
    assert (found.epsilon, found.delta, found.mu) == (None, None, None)
    assert found.words.startswith(words)


def test_what_may_stand_between_clip_and_noise():
    def between(*specs):
        return mechanism(
            chain([{"name": "clip", "norm": 2.0}, *specs, {"name": "gaussian_noise", "scale": 1.0}])
        ).noise_multiplier

    assert between({"name": "prune", "share": 0.1}) == between({"name": "sign"}) == 0.5
    assert between({"name": "quantise", "bits": 4}) == 0.0, "rounding at random can make a norm larger"
    assert between({"name": "clip", "norm": 1.0}) == 1.0


@pytest.mark.parametrize("name", ["prune", "sign", "clip"])
def test_norm_bounds_hold(name):
    strong = {"prune": {"share": 0.3}, "sign": {}, "clip": {"norm": 0.7}}[name]
    known = chain([{"name": name, **strong}])
    for seed in range(20):
        payload = {"a": torch.randn(30, generator=stream(seed)) ** 3, "b": torch.rand(4, 5, generator=stream(seed, 1))}
        before, after = (
            float(torch.cat([v.flatten() for v in p.values()]).norm()) for p in (payload, known.on_release(payload, 0))
        )
        assert after <= known.defences[0].norm_bound(before) * (1 + 1e-5)


def scores(known, gradient, count, seed):
    """What a batch of two releases along the direction of its last example, (count,)."""
    batch = {"w": torch.stack([torch.zeros(8), gradient])}
    released = [known.on_example_gradients(batch, stream(seed, draw))["w"] for draw in range(count)]
    return torch.stack(released)[:, 0] * 2


@pytest.mark.parametrize(("share_of_noise", "caught"), [(1.0, False), (0.5, True)])
def test_an_audit_catches_half_the_noise(share_of_noise, caught):
    """Two batches that differ in one example, the worst one, as far apart as the clip lets it be; delta as large as
    thousands of draws can tell."""
    delta, far = 0.1, torch.zeros(8)
    far[0] = 5.0
    claimed = guarantee(dp_sgd(2.0), Use(), delta).epsilon
    real = dp_sgd(2.0 * share_of_noise)
    found = epsilon_found(scores(real, far, 3000, 1), scores(real, -far, 3000, 2), delta)
    assert (found > claimed) is caught


def test_the_identification_bound_is_reached_and_never_beaten():
    """Images at +-1 on many axes, a sum with noise: the best attacker, by likelihood, against the bound."""
    rng, count, trials = stream(0, "identify"), 10, 4000
    for sigma in (0.5, 1.0, 2.0):
        prior = torch.eye(count)  # one of ten examples, each of norm 1: a blind guess is right once in ten
        chosen = torch.randint(count, (trials,), generator=rng)
        seen = prior[chosen] + sigma * torch.randn(trials, count, generator=rng)
        rate = float((seen.argmax(1) == chosen).float().mean())
        limit = identification_bound(1 / count, 1 / sigma)
        assert rate <= limit + 3 * math.sqrt(limit * (1 - limit) / trials)
        assert rate > 1 / count
    sign = torch.sign(torch.randn(trials, generator=rng))  # two examples at +-1 from nothing: reached at mu = 1 / sigma
    right = float((torch.sign(sign + torch.randn(trials, generator=rng)) == sign).float().mean())
    assert right == pytest.approx(identification_bound(0.5, 1.0), abs=0.03)
    assert identification_bound(0.3, 0.0) == pytest.approx(0.3)
    assert identification_bound(0.3, 2.0) == pytest.approx(norm.cdf(norm.ppf(0.3) + 2.0))


def test_the_best_blind_guess_is_near_where_images_lie():
    rng = stream(0, "blind")
    base = torch.rand(1, 1, 16, 16, generator=rng)
    alike = (base + 0.02 * torch.randn(60, 1, 16, 16, generator=rng)).clamp(0, 1)
    others = torch.rand(140, 1, 16, 16, generator=rng)
    share = blind_share(Images(torch.cat([alike, others]), torch.zeros(200, dtype=torch.long)))
    assert share == pytest.approx(61 / 201)


def test_no_image_of_a_set_is_a_better_guess(one_thread):
    digits = load("digits", None, {"size": 16}).train
    images = Images(digits.images(slice(0, 300)), digits.labels[:300])
    share = blind_share(images)
    for index in range(0, 300, 7):
        guess = images.inputs[index : index + 1].expand(300, -1, -1, -1)
        values = {"psnr": psnr(guess, images.inputs), "ssim": ssim(guess, images.inputs)}
        assert float(recovered(values).float().sum()) <= share * 301
