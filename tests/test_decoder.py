"""Inversion of activations: decoders, optimisation and averaging, on the embedded 8x8 digits."""

from dataclasses import replace

import pytest
import torch
from intercepted import MEAN_IMAGE_DB, PRIVATE, PUBLIC, observe, quality

from fl_privacy.attacks import ATTACKS
from fl_privacy.attacks.activation.augmentation import warped
from fl_privacy.attacks.activation.averaging import Averaging, averaged, repeats_of
from fl_privacy.attacks.activation.decoder import Decoder, defended
from fl_privacy.attacks.activation.rmle import Rmle
from fl_privacy.defences.base import Chain
from fl_privacy.defences.noise import LaplaceNoise
from fl_privacy.models.activation_decoders import AffineDecoder, ConvolutionalDecoder
from fl_privacy.observation import ChannelName, LocalTraining
from fl_privacy.seeding import stream

SMALL = {"steps": 150, "batch_size": 64, "width": 16, "blocks": 1, "copies": 2}
QUICK = Decoder(**SMALL)
OPTIMISED = Rmle(iterations=150, tv=1e-3)
BUDGET = {
    "decoder_as_published": {"epochs": 10, "batch_size": 32, "learning_rate": 1e-3},
    "decoder": SMALL,
    "averaging": {**SMALL, "repeats": 1},
    "rmle": {"iterations": 150, "tv": 1e-3},
    "activation_map": {"outer": 6, "inner": 10},
    "decoder_map": {"outer": 6, "inner": 10, "steps": 60, "batch_size": 64, "width": 16, "adam": 20, "lbfgs": 20},
    "autoencoder_as_published": {"epochs": 8, "public_images": 400},
}
ACTIVATION_ATTACKS = [name for name in ATTACKS if ChannelName.ACTIVATION in ATTACKS[name].channels]
MAPS_ALONE = "autoencoder_as_published"  # cannot read vectors


@pytest.mark.parametrize(
    ("name", "spatial"),
    [(name, spatial) for name in ACTIVATION_ATTACKS for spatial in (False, True) if spatial or name != MAPS_ALONE],
)
def test_beats_the_mean_image_repeats_bit_for_bit_and_leaves_the_observation_alone(name, spatial):
    attack = ATTACKS.configure(name, BUDGET.get(name, {}))
    seen = [observe(part, spatial=spatial) for part in PRIVATE.split(8)]
    before = [o.payload["activation"].clone() for o in seen]
    weights = {name: value.clone() for name, value in seen[0].model.state_dict().items()}
    guesses = attack(seen, stream(1))
    assert quality(guesses) > MEAN_IMAGE_DB + 2
    torch.manual_seed(99)
    again = attack.prepare(seen, stream(1))(seen, stream(2))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(guesses, again, strict=True))
    assert all(torch.equal(o.payload["activation"], b) for o, b in zip(seen, before, strict=True))
    assert all(torch.equal(value, weights[name]) for name, value in seen[0].model.state_dict().items())


def test_the_adaptive_decoder_beats_the_same_one_trained_without_the_noise():
    chain = Chain((LaplaceNoise(0.5),))
    adaptive = quality(QUICK([observe(PRIVATE, chain)], stream(1)))
    naive = quality(QUICK([observe(PRIVATE, chain, known=False)], stream(1)))
    assert adaptive > naive + 0.5


def test_several_decoders_together_beat_one_of_them():
    seen = [observe(PRIVATE, Chain((LaplaceNoise(0.3),)))]
    alone, together = (quality(replace(QUICK, members=count)(seen, stream(1))) for count in (1, 3))
    assert together > alone
    with pytest.raises(ValueError, match="members must be at least 1"):
        Decoder(members=0)


def test_averaging_more_releases_of_one_input_recovers_more():
    chain = Chain((LaplaceNoise(0.4),))
    settings = {"steps": 150, "batch_size": 64, "width": 16, "blocks": 1, "copies": 1}
    found = []
    for repeats in (1, 4, 16):
        seen = [observe(PRIVATE, chain, round=i) for i in range(repeats)]
        guesses = Averaging(repeats=repeats, **settings)(seen, stream(1))
        assert len(guesses) == repeats
        assert all(torch.equal(guess.inputs, guesses[0].inputs) for guess in guesses)
        found.append(quality(guesses[:1]))
    assert found[0] + 1 < found[1] < found[2] - 1, found


def test_repeats_are_grouped_by_client_in_the_order_of_rounds():
    order = [(1, 2), (0, 0), (1, 0), (0, 1), (1, 1), (1, 3)]
    seen = [replace(observe(PRIVATE[:1]), client=c, round=r) for c, r in order]
    assert repeats_of(seen, 2) == [[1, 3], [2, 4], [0, 5]]
    with pytest.raises(ValueError, match="groups of 3"):
        repeats_of(seen, 3)
    values = [replace(seen[0], payload={"activation": torch.full((1, 2), v)}) for v in (1.0, 3.0)]
    assert torch.equal(averaged(values).payload["activation"], torch.full((1, 2), 2.0))


def test_training_noise_is_fresh_and_averaged_over_draws():
    z, rng = torch.zeros(4000, 5), stream(0)
    chain = Chain((LaplaceNoise(1.0),))
    once, twice, mean = (defended(z, chain, draws, rng) for draws in (1, 1, 16))
    assert not torch.equal(once, twice)
    assert float(once.var()) == pytest.approx(2, rel=0.1)
    assert float(mean.var()) == pytest.approx(2 / 16, rel=0.1)
    assert defended(z, None, 1, rng) is z


def test_the_published_decoder_has_its_size_and_is_affine():
    net = AffineDecoder((500,), (1, 28, 28))
    assert sum(p.numel() for p in net.parameters()) == 4_674_993  # papers.md 2.2
    a, b = torch.randn(2, 3, 500, generator=stream(0))
    with torch.no_grad():
        torch.testing.assert_close(net((a + b) / 2), (net(a) + net(b)) / 2, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="even sides"):
        AffineDecoder((500,), (1, 27, 27))


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 8, 8), (3, 16, 12)])
@pytest.mark.parametrize("released", [(10,), (4, 3, 3), (2, 20, 20)])
def test_the_stronger_decoder_takes_any_activation_and_image_shape(shape, released):
    net = ConvolutionalDecoder(released, shape, width=4, blocks=1)
    out = net(torch.randn(2, *released))
    assert tuple(out.shape) == (2, *shape)


def test_rmle_groups_by_model_and_treats_training_mode_observations_alone():
    pair = [observe(part) for part in PRIVATE.split(8)]
    joint = OPTIMISED(pair, stream(0))
    alone = [OPTIMISED([o], stream(0))[0] for o in pair]
    for a, b in zip(joint, alone, strict=True):
        torch.testing.assert_close(a.inputs, b.inputs, rtol=0, atol=1e-3)
    training = [replace(o, spec=replace(o.spec, local=LocalTraining(mode="train"))) for o in pair]
    assert len(OPTIMISED(training, stream(0))) == 2


def test_rmle_loss_is_what_it_minimised_and_falls():
    seen = observe(PRIVATE)
    guess = OPTIMISED([seen], stream(0))[0]
    assert guess.loss == pytest.approx(OPTIMISED.loss(seen, guess.inputs, torch.empty(0)), rel=1e-6)
    assert guess.trace[-1] < guess.trace[0] / 10
    assert len(guess.trace) == OPTIMISED.iterations


def test_warps_are_small_stay_in_range_and_come_from_their_stream():
    images = PUBLIC[:50]
    moved = warped(images, stream(0))
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert torch.equal(moved, warped(images, stream(0)))
    assert 0 < (moved - images).square().mean() < (images[1:] - images[:-1]).square().mean()


@pytest.mark.parametrize(("attack", "lacks"), [(QUICK, "query"), (QUICK, "public"), (OPTIMISED, "model")])
def test_what_the_threat_model_withholds_is_refused(attack, lacks):
    with pytest.raises(ValueError, match=f"needs the observation's {lacks}"):
        attack([replace(observe(PRIVATE), **{lacks: None})], stream(0))
