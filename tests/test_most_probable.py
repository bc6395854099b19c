"""White-box inversion of activations with a prior and the law of the noise, on the embedded 8x8 digits."""

from dataclasses import replace

import pytest
import torch
from intercepted import IMAGES, PRIVATE, PUBLIC, observe, quality

from fl_privacy.attacks.activation import most_probable
from fl_privacy.attacks.activation.likelihood import Noise, measured
from fl_privacy.attacks.activation.most_probable import MostProbable
from fl_privacy.attacks.activation.noise_estimate import NoiseEstimate
from fl_privacy.attacks.activation.rmle import Rmle
from fl_privacy.attacks.inversion.neighbours import near
from fl_privacy.attacks.inversion.priors import corrected, public
from fl_privacy.data import load
from fl_privacy.defences.base import Chain
from fl_privacy.defences.clip import Clip
from fl_privacy.defences.clip_each import ClipEach
from fl_privacy.defences.noise import GaussianNoise, LaplaceNoise, UniformNoise
from fl_privacy.observation import Images, LocalTraining
from fl_privacy.seeding import stream

QUICK = MostProbable(outer=6, inner=10)
LOUD = Chain((LaplaceNoise(0.2),))
MANY = IMAGES[1000:1064]


@pytest.mark.parametrize("chain", [None, LOUD])
def test_it_beats_inversion_by_total_variation(chain):
    seen = [observe(PRIVATE, chain)]
    assert quality(QUICK(seen, stream(1))) > quality(Rmle(iterations=300, tv=1e-2)(seen, stream(1))) + 1


def test_what_is_estimated_of_the_noise_does_as_well_as_what_is_known():
    known, untold = (quality(QUICK([observe(MANY, LOUD, known=known)], stream(1)), MANY) for known in (True, False))
    deaf = MostProbable(outer=12, inner=10, estimate_noise=False)([observe(MANY, LOUD, known=False)], stream(1))
    assert untold == pytest.approx(known, abs=0.3)
    assert known > quality(deaf, MANY) + 0.3


def test_neighbours_know_more_than_all_images_and_these_more_than_none():
    seen = [observe(MANY, LOUD)]
    found = [
        quality(replace(QUICK, prior=name)(seen, stream(1)), MANY) for name in ("neighbours", "public", "power_law")
    ]
    assert found == sorted(found, reverse=True)
    bare = [replace(seen[0], public=None)]
    again = quality(MostProbable(prior="power_law", outer=6, inner=10)(bare, stream(1)), MANY)
    assert again == found[-1], "it needs no images"
    with pytest.raises(ValueError, match="needs the observation's public"):
        QUICK(bare, stream(1))


def test_behind_deafening_noise_neighbours_are_chance():
    seen = [observe(MANY, Chain((LaplaceNoise(0.5),)))]
    near_by, everyone = (
        quality(replace(QUICK, prior=name)(seen, stream(1)), MANY) for name in ("neighbours", "public")
    )
    assert everyone > near_by


def test_images_of_another_kind_are_found_out_and_do_no_harm():
    letters = load("glyphs", None, {"size": 8}).train
    own = Images(letters.images(torch.randperm(len(letters), generator=stream(2))[: len(PUBLIC)]))
    seen = observe(MANY, None, known=False)
    strange = replace(seen, public=own)
    with_none = quality(replace(QUICK, prior="power_law", estimate_noise=False)([seen], stream(1)), MANY)
    assert quality(QUICK([strange], stream(1)), MANY) == pytest.approx(with_none, abs=0.1)
    assert quality(QUICK([seen], stream(1)), MANY) > with_none + 1, "and those of its kind help"


def test_what_is_certain_of_a_defence_counts_when_the_own_images_are_judged():
    chain = Chain((ClipEach(norm=0.5),))
    seen = observe(MANY, chain)
    problem = QUICK._few(seen, seen.payload["activation"], Noise())
    u = problem.prior.coordinates(MANY[: most_probable.PROBED])
    assert float(problem.residual(u[:, None]).abs().max()) < 1e-3


def test_noise_that_images_without_it_refute_is_not_believed(monkeypatch):
    wrong = NoiseEstimate("gaussian", 0.3, 0.01, 0.0)
    monkeypatch.setattr(most_probable, "overheard", lambda seen: wrong)
    assert QUICK._noise([observe(MANY, None, known=False)]).deviation is None
    quiet = Chain((GaussianNoise(0.3),))
    assert QUICK._noise([observe(MANY, quiet, known=False)]).deviation == 0.3


def test_every_image_has_the_prior_of_its_own_neighbours():
    base, chosen = public(PUBLIC), torch.arange(40).view(4, 10)
    prior = near(base, PUBLIC, chosen)
    u = torch.randn(4, 64, generator=stream(0))
    for row, each in zip(chosen, range(4), strict=True):
        alone = corrected(base, PUBLIC[row] - PUBLIC[row].mean(0), PUBLIC[row].mean(0))
        torch.testing.assert_close(prior.images(u)[each], alone.images(u[each]), atol=1e-5, rtol=0)
    torch.testing.assert_close(prior.coordinates(prior.images(u)), u, atol=1e-2, rtol=0)
    with pytest.raises(ValueError, match="at least 8"):
        near(base, PUBLIC, chosen[:, :4])


def test_the_law_of_known_noise_is_measured():
    z = torch.zeros(16, 96)
    for defence, deviation, heavy in (
        (LaplaceNoise(0.5), 0.5 * 2**0.5, True),
        (GaussianNoise(0.5), 0.5, False),
        (UniformNoise(0.5), 0.5 * 3**-0.5, False),
    ):
        found = measured(Chain((defence,)), z)
        assert found.deviation == pytest.approx(deviation, rel=0.05)
        assert found.heavy is heavy
    assert measured(Chain((Clip(1.0),)), z + 1).deviation is None


def test_its_loss_is_that_of_its_guess_and_of_each_observation_alone():
    seen = [observe(part, LOUD) for part in PRIVATE.split(8)]
    ready = QUICK.prepare(seen, stream(0))
    for guess, each in zip(ready(seen, stream(1)), seen, strict=True):
        assert guess.loss == pytest.approx(ready.loss(each, guess.inputs, torch.empty(0)), rel=1e-3)


@pytest.mark.parametrize("tie", ["batch statistics", "a clip"])
def test_images_that_are_tied_together_are_sought_together(tie):
    chain = Chain((Clip(3.0),)) if tie == "a clip" else None
    seen = [observe(part, chain) for part in PRIVATE.split(8)]
    if chain is None:
        seen = [replace(each, spec=replace(each.spec, local=LocalTraining(mode="train"))) for each in seen]
    guesses = MostProbable(outer=12, inner=20)(seen, stream(1))
    assert [len(guess.inputs) for guess in guesses] == [8, 8]
    assert quality(guesses) > quality(Rmle(iterations=300, tv=1e-2)(seen, stream(1)))
