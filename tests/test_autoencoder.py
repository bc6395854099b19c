"""NoPeek's reconstruction testbed: its shape, and what its loader's fault does."""

from dataclasses import replace

import pytest
import torch
from intercepted import MEAN_IMAGE_DB, PRIVATE, observe, quality

from fl_privacy.attacks.autoencoder import AutoencoderAsPublished, Hourglass
from fl_privacy.defences.base import Chain
from fl_privacy.defences.noise import UniformNoise
from fl_privacy.seeding import stream

QUICK = AutoencoderAsPublished(epochs=8, public_images=400)


def test_it_rebuilds_from_maps_and_repeats_bit_for_bit():
    seen = [observe(part, spatial=True) for part in PRIVATE.split(8)]
    guesses = QUICK(seen, stream(1))
    assert quality(guesses) > MEAN_IMAGE_DB + 2
    again = QUICK.prepare(seen, stream(1))(seen, stream(2))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(guesses, again, strict=True))


def test_a_misaligned_loader_makes_an_open_model_look_defended():
    failed = quality(replace(QUICK, misaligned=True)([observe(PRIVATE, spatial=True)], stream(1)))
    assert failed < MEAN_IMAGE_DB + 0.5


def test_it_learns_through_a_defence_that_it_knows_of():
    chain = Chain((UniformNoise(2.0),))
    told, untold = (
        quality(QUICK([observe(PRIVATE, chain, spatial=True, known=known)], stream(1))) for known in (True, False)
    )
    assert told > untold + 0.5


def test_the_published_shape_goes_down_four_times_and_doubles_the_side():
    net = Hourglass((64, 25, 25), (3, 50, 50))
    widths = [layer.out_channels for layer in net.body if hasattr(layer, "out_channels")]
    assert widths == [32, 64, 128, 256, 512, 256, 128, 64, 32, 32]
    assert [layer.out_channels for layer in net.leave] == [16, 8, 3, 3]
    assert net.body(torch.zeros(2, 64, 25, 25)).shape == (2, 32, 64, 64)
    assert net(torch.zeros(2, 64, 25, 25)).shape == (2, 3, 50, 50)


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 8, 8), (3, 32, 32)])
@pytest.mark.parametrize("released", [(2, 4, 4), (4, 5, 9), (2, 40, 40)])
def test_any_maps_give_any_image(shape, released):
    assert Hourglass(released, shape)(torch.randn(2, *released)).shape == (2, *shape)


@pytest.mark.parametrize("released", [(96,), (8, 3, 3)])
def test_vectors_and_tiny_maps_are_refused_with_a_way_out(released):
    with pytest.raises(ValueError, match="cut the model at an earlier stage, or attack with 'decoder'"):
        Hourglass(released, (1, 8, 8))


@pytest.mark.parametrize(
    "settings", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": float("nan")}, {"public_images": -1}]
)
def test_settings_that_train_nothing_are_refused(settings):
    with pytest.raises(ValueError, match=r"must be (at least [01]|above 0) and finite"):
        AutoencoderAsPublished(**settings)
