"""NoPeek's reconstruction testbed: its shape, and what its loader's fault does."""

from dataclasses import replace

import pytest
import torch
from intercepted import MEAN_IMAGE_DB, PRIVATE, observe, quality
from torch import nn

from fl_privacy.attacks.activation.autoencoder import AutoencoderAsPublished, Hourglass
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
    summarise_reasons, untold = (
        quality(QUICK([observe(PRIVATE, chain, spatial=True, known=known)], stream(1))) for known in (True, False)
    )
    assert summarise_reasons > untold + 0.5


def published(channels, out):
    """The testbed's network as its code lists it, with every border as a layer of its own."""

    def normed(layer, width):
        return [layer, nn.BatchNorm2d(width), nn.ReLU()]

    def block():
        layers = []
        for _ in range(2):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(512, 512, 3, bias=False), nn.BatchNorm2d(512), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    head = nn.Sequential(
        *normed(nn.Conv2d(channels, 32, 7, padding=0, bias=False), 32),
        *[each for w in (32, 64, 128, 256) for each in normed(nn.Conv2d(w, 2 * w, 3, 2, 1, bias=False), 2 * w)],
    )
    up = {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "bias": False}
    tail = nn.Sequential(
        *[e for w in (512, 256, 128, 64) for e in normed(nn.ConvTranspose2d(w, w // 2, **up), w // 2)],
        *normed(nn.ConvTranspose2d(32, 32, **up), 32),
        *[e for a, b, k in ((32, 16, 7), (16, 8, 5), (8, out, 5), (out, out, 5))
          for e in (nn.ReflectionPad2d(3), nn.Conv2d(a, b, k))],
    )  # fmt: skip
    return head, nn.ModuleList(block() for _ in range(3)), tail


def test_at_the_published_size_it_is_the_published_network():
    ours, parts = Hourglass((64, 25, 25), (3, 70, 70)).eval(), nn.ModuleList(published(64, 3)).eval()
    theirs, mine = list(parts.state_dict().values()), list(ours.state_dict().values())
    assert [value.shape for value in mine] == [value.shape for value in theirs]
    parts.load_state_dict(dict(zip(parts.state_dict(), mine, strict=True)))
    z = torch.randn(2, 64, 25, 25, generator=stream(0, "maps"))
    head, blocks, tail = parts
    maps = head(z)
    for block in blocks:
        maps = maps + block(maps)
    assert tail(maps).shape == (2, 3, 70, 70)
    assert torch.allclose(ours(z), tail(maps), atol=1e-6)
    assert Hourglass((64, 25, 25), (3, 50, 50))(z).shape == (2, 3, 50, 50)


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
