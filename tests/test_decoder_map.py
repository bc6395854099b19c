"""A decoder's guess, refined through a stolen client segment of several layers of ReLU, on the embedded 8x8 digits."""

from dataclasses import replace

import pytest
import torch
from intercepted import IMAGES, PRIVATE, PUBLIC, observe, quality
from torch import nn

from fl_privacy.attacks.activation.decoder import Decoder
from fl_privacy.attacks.activation.decoder_map import DecoderMap
from fl_privacy.attacks.activation.most_probable import MostProbable
from fl_privacy.data import load
from fl_privacy.defences.base import Chain
from fl_privacy.defences.clip import Clip
from fl_privacy.defences.noise import GaussianNoise, LaplaceNoise, UniformNoise
from fl_privacy.observation import Images
from fl_privacy.seeding import seeded, stream
from fl_privacy.split.segments import ACTIVATION

QUICK = DecoderMap(outer=6, inner=10, steps=150, batch_size=64, width=16, adam=60, lbfgs=60)
MAP = MostProbable(prior="public", outer=6, inner=10)
DECODER = Decoder(steps=150, batch_size=64, width=16)


def deep(images=PRIVATE, chain=None, known=True):
    """Activations of four convolutions with ReLU: half of what enters each is lost."""
    with seeded(1, "segment"):
        layers = [nn.Conv2d(c, 12, 3, 1, 1) for c in (1, 12, 12, 12)]
    net = nn.Sequential(
        *(module for layer in layers for module in (layer, nn.BatchNorm2d(12, momentum=None), nn.ReLU()))
    )
    net.train()(PUBLIC)  # statistics of the public images
    net.eval()
    seen = observe(images, None)
    with torch.no_grad():
        payload = {ACTIVATION: net(images)}
    payload = payload if chain is None else chain.on_release(payload, 3)
    return replace(seen, payload=payload, model=net, query=net, defence=chain if known else None)


def test_through_layers_of_relu_it_beats_both_its_parts():
    seen = [deep()]
    refined, alone, decoded = (quality(attack(seen, stream(1))) for attack in (QUICK, MAP, DECODER))
    assert refined > alone + 5
    assert refined > decoded + 5


def test_every_image_keeps_the_more_probable_of_both_searches():
    seen, labels = [deep()], torch.zeros(len(PRIVATE))
    ready = QUICK.prepare(seen, stream(1))
    (kept,), (first,) = ready(seen, stream(2)), MAP(seen, stream(2))
    changed = (kept.inputs != first.inputs).flatten(1).any(1)
    assert changed.any()
    for index in range(len(PRIVATE)):
        alone = deep(PRIVATE[index : index + 1])
        losses = [ready.loss(alone, each.inputs[index : index + 1], labels[:1]) for each in (kept, first)]
        assert losses[0] < losses[1] if changed[index] else losses[0] == losses[1]


def test_a_decoder_trains_on_draws_of_noise_that_was_heard():
    chain = Chain((LaplaceNoise(0.3),))
    told, untold, deaf = (
        quality(attack([deep(chain=chain, known=known)], stream(1)))
        for attack, known in ((QUICK, True), (QUICK, False), (replace(QUICK, estimate_noise=False), False))
    )
    assert untold == pytest.approx(told, abs=1.0)
    assert min(told, untold) > deaf


@pytest.mark.parametrize("noise", [LaplaceNoise(0.5), GaussianNoise(0.7), UniformNoise(1.2)])
def test_the_law_that_was_heard_is_the_one_that_is_drawn(noise):
    heard = MostProbable().prepare([deep(IMAGES[1000:1064], Chain((noise,)), known=False)], stream(1)).heard
    (drawn,) = heard.chain.defences
    assert type(drawn) is type(noise)
    assert drawn.scale == pytest.approx(noise.scale, rel=0.1)


def test_without_a_query_it_asks_the_stolen_segment_and_without_images_it_refuses():
    seen = deep()
    asked, stolen = (QUICK([each], stream(1))[0].inputs for each in (seen, replace(seen, query=None)))
    assert torch.equal(asked, stolen)
    for prior in ("public", "power_law"):
        with pytest.raises(ValueError, match="needs the observation's public"):
            replace(QUICK, prior=prior)([replace(seen, public=None)], stream(1))


def test_images_that_a_clip_ties_together_are_refined_together():
    seen = [deep(chain=Chain((Clip(20.0),)))]
    assert float(seen[0].payload[ACTIVATION].norm()) == pytest.approx(20.0, rel=1e-4), "the clip bites"
    assert quality(QUICK(seen, stream(1))) > quality(MAP(seen, stream(1)))


def test_own_images_of_another_kind_serve_as_well():
    letters = load("glyphs", None, {"size": 8}).train
    own = Images(letters.images(torch.randperm(len(letters), generator=stream(2))[: len(PUBLIC)]))
    strange = [replace(deep(), public=own)]
    refined, alone, decoded = (quality(attack(strange, stream(1))) for attack in (QUICK, MAP, DECODER))
    assert refined > max(alone, decoded) + 5


@pytest.mark.parametrize("setting", ["steps", "batch_size", "width", "adam"])
def test_settings_are_checked(setting):
    with pytest.raises(ValueError, match=setting):
        DecoderMap(**{setting: 0})
