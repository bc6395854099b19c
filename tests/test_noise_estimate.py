"""The noise on activations as an adversary hears it that nobody tells: its law, its scale, and what it is worth."""

from dataclasses import replace

import pytest
import torch
from intercepted import IMAGES, MEAN_IMAGE_DB, PRIVATE, PUBLIC, observe, quality, segment

from fl_privacy.attacks.activation.averaging import Averaging
from fl_privacy.attacks.activation.decoder import Decoder
from fl_privacy.attacks.activation.most_probable import MostProbable
from fl_privacy.attacks.activation.noise_estimate import (
    KURTOSIS,
    estimate_noise,
    overheard,
    own_activations,
    shared_tensors,
)
from fl_privacy.defences.base import Chain
from fl_privacy.defences.noise import GaussianNoise, LaplaceNoise, UniformNoise
from fl_privacy.observation import Images
from fl_privacy.seeding import stream

RELEASED = IMAGES[1000:1064]
DEVIATION = {"laplace": 2**0.5, "gaussian": 1.0, "uniform": 3**-0.5}
NOISE = {"laplace": LaplaceNoise, "gaussian": GaussianNoise, "uniform": UniformNoise}


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("law", KURTOSIS)
@pytest.mark.parametrize("deviation", [0.1, 0.5, 1.5])
def test_the_law_is_told_and_the_scale_is_within_a_tenth(law, deviation, spatial):
    scale = deviation / DEVIATION[law]
    heard = overheard([observe(part, Chain((NOISE[law](scale),)), spatial=spatial) for part in RELEASED.split(16)])
    assert heard.law == law
    assert heard.deviation == pytest.approx(deviation, rel=0.1)
    (defence,) = heard.chain.defences
    assert isinstance(defence, NOISE[law])
    assert defence.scale == pytest.approx(scale, rel=0.1)


@pytest.mark.parametrize("spatial", [False, True])
def test_nothing_is_heard_where_nothing_is_added(spatial):
    heard = overheard([observe(part, spatial=spatial) for part in RELEASED.split(16)])
    assert heard.deviation == 0
    assert heard.chain is None


def test_the_standard_error_is_that_of_repeated_draws():
    chain = Chain((LaplaceNoise(0.4),))
    heard = [overheard([observe(RELEASED, chain, round=i)]) for i in range(30)]
    spread = torch.tensor([each.deviation for each in heard]).std()
    assert float(spread) < 2 * heard[0].standard_error, "images differ too, which the error counts in"


def test_two_images_are_too_few():
    with torch.no_grad():
        own = segment()(PUBLIC[:2])
    with pytest.raises(ValueError, match="at least 8 images"):
        estimate_noise(own, own)


def test_a_decoder_that_estimates_the_noise_comes_near_to_one_that_knows_it():
    settings = {"steps": 150, "batch_size": 64, "width": 16, "blocks": 1, "copies": 2}
    chain = Chain((LaplaceNoise(0.5),))
    knowing = quality(Decoder(**settings)([observe(PRIVATE, chain)], stream(1)))
    untold = observe(PRIVATE, chain, known=False)
    naive = quality(Decoder(**settings)([untold], stream(1)))
    estimating = quality(Decoder(**settings, estimate_noise=True)([untold], stream(1)))
    assert estimating > naive + 0.5
    assert estimating > knowing - 0.3
    told = quality(Decoder(**settings, estimate_noise=True)([observe(PRIVATE, chain)], stream(1)))
    assert told == knowing, "what is granted is not estimated"


def test_averaging_estimates_the_noise_of_one_release():
    settings = {"steps": 150, "batch_size": 64, "width": 16, "blocks": 1, "copies": 1}
    chain = Chain((LaplaceNoise(0.4),))
    known, untold = ([observe(PRIVATE, chain, round=i, known=known) for i in range(4)] for known in (True, False))
    knowing = quality(Averaging(repeats=4, **settings)(known, stream(1))[:1])
    estimating = quality(Averaging(repeats=4, estimate_noise=True, **settings)(untold, stream(1))[:1])
    assert estimating == pytest.approx(knowing, abs=0.3)


def test_an_adversary_who_owns_too_little_is_told():
    few = replace(observe(PRIVATE, known=False), public=Images(PUBLIC[:4]))
    with pytest.raises(ValueError, match=r"set public\.count"):
        Decoder(steps=1, estimate_noise=True)([few], stream(0))


def shared(members, count):
    """Releases of private images to each of which one of a few Laplace tensors was added, and which one that is."""
    rng = stream(0, "tensors")
    first, second = (torch.empty(members, 96).exponential_(generator=rng) for _ in range(2))
    tensors = 2 * (first - second)
    seen = observe(IMAGES[1000 : 1000 + count], known=False)
    whose = torch.randint(members, (count,), generator=rng)
    return replace(seen, payload={"activation": seen.payload["activation"] + tensors[whose]}), whose


@pytest.mark.parametrize("count", [16, 64])
def test_releases_that_share_a_noise_tensor_are_found(count):
    seen, whose = shared(4, count)
    groups = shared_tensors(seen.payload["activation"], own_activations(seen))
    assert torch.equal(groups[:, None] == groups, whose[:, None] == whose)


@pytest.mark.parametrize("chain", [None, Chain((LaplaceNoise(0.2),)), Chain((LaplaceNoise(2.0),))])
def test_without_shared_tensors_there_are_no_groups(chain):
    seen = observe(RELEASED, chain, known=False)
    assert shared_tensors(seen.payload["activation"], own_activations(seen)) is None


def test_whoever_finds_the_tensors_rebuilds_through_them():
    seen, _ = shared(2, 16)
    attack = MostProbable(outer=6, inner=10)
    found = quality(attack([seen], stream(1)))
    deaf = quality(replace(attack, estimate_noise=False)([seen], stream(1)))
    assert found > deaf + 5
    assert found > MEAN_IMAGE_DB + 3
