"""Activations of a small client segment for the embedded 8x8 digits, as an adversary observes them."""

from collections import OrderedDict
from dataclasses import replace

import torch
from sklearn.datasets import load_digits
from torch import nn

from fl_privacy.metrics import psnr
from fl_privacy.observation import ChannelName, Images, LocalTraining, Observation, Spec
from fl_privacy.seeding import seeded

IMAGES = torch.from_numpy(load_digits().images[:, None]).float() / 16
PUBLIC, PRIVATE = IMAGES[:800], IMAGES[1000:1016]
SPEC = Spec(image_shape=(1, 8, 8), classes=10, batch_size=8, local=LocalTraining(mode="eval"))


def segment(spatial=False):
    with seeded(0, "segment"):
        net = nn.Sequential(OrderedDict(conv=nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())))
        if not spatial:
            net.add_module("fc", nn.Sequential(nn.Flatten(), nn.Linear(288, 96), nn.Tanh()))
    return net.eval()


def observe(images, chain=None, round=0, spatial=False, known=True):
    net = segment(spatial)
    with torch.no_grad():
        payload = {"activation": net(images)}
    if chain is not None:
        payload = chain.on_release(payload, seed=100 + round)
    return Observation(
        channel=ChannelName.ACTIVATION,
        payload=payload,
        spec=replace(SPEC, batch_size=len(images)),
        round=round,
        client=0,
        model=net,
        query=net,
        public=Images(PUBLIC),
        defence=chain if known else None,
    )


def quality(guesses, images=PRIVATE):
    return float(psnr(torch.cat([guess.inputs for guess in guesses]), images).mean())


MEAN_IMAGE_DB = float(psnr(PUBLIC.mean(0, keepdim=True).expand_as(PRIVATE), PRIVATE).mean())
