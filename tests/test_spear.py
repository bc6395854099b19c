"""SPEAR against images that are known, its matrix against one mixed by hand, and where it must find nothing."""

import dataclasses

import pytest
import torch
from torch import nn

from fl_privacy.attacks.gradient.closed_form import LinearLayer
from fl_privacy.attacks.gradient.spear import Spear, sparse_columns
from fl_privacy.defences import chain
from fl_privacy.evaluation import Truth, align
from fl_privacy.federated.client import gradient
from fl_privacy.observation import ChannelName, Observation, Spec
from fl_privacy.seeding import seeded, stream

SHAPE = (1, 8, 8)


def seen_of(batch, width=120, activation=None, defence=None):
    with seeded(0, "net"):
        model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, width),
            activation or nn.ReLU(),
            nn.Linear(width, 30),
            nn.ReLU(),
            nn.Linear(30, 5),
        )
    x = torch.rand(batch, *SHAPE, generator=stream(0, "images"))
    y = torch.randint(5, (batch,), generator=stream(0, "labels"))
    payload, _ = gradient(model, x, y)
    payload = defence.on_release(payload, 0) if defence else payload
    spec = Spec(image_shape=SHAPE, classes=5, batch_size=batch)
    seen = Observation(channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=0, model=model)
    return dataclasses.replace(seen, defence=defence), Truth(x, y)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8])
def test_every_image_of_a_batch_comes_back(batch):
    seen, truth = seen_of(batch)
    (guess,) = Spear()([seen], stream(0))
    assert (align(guess, truth).inputs - truth.inputs).abs().max() < 1e-3
    assert guess.loss < 1e-5
    assert Spear().loss(seen, torch.rand(truth.inputs.shape, generator=stream(9)), truth.labels) > 0.01


def test_it_reads_what_single_neurons_do_not_tell():
    seen, truth = seen_of(8, width=90)
    (rows,) = LinearLayer()([seen], stream(0))
    (guess,) = Spear()([seen], stream(0))
    assert (align(guess, truth).inputs - truth.inputs).abs().max() < 1e-3
    assert rows.inputs is None or (align(rows, truth).inputs - truth.inputs).abs().max() > 0.1


@pytest.mark.parametrize("batch", [2, 4, 7])
def test_sparse_columns_are_those_that_were_mixed(batch):
    rng = stream(0, "mixed")
    sparse = torch.randn(80, batch, generator=rng).double() * (torch.rand(80, batch, generator=rng) < 0.5)
    mixing = torch.randn(batch, batch, generator=rng).double()
    found = sparse_columns(sparse @ mixing, 20_000, rng, lambda _: True)
    product = (mixing @ found).abs()  # a permutation, but for scales
    assert torch.allclose(product.amax(0), product.sum(0), rtol=1e-6)
    assert sorted(product.argmax(0).tolist()) == list(range(batch))


def test_without_zeros_under_noise_and_beyond_the_rank_there_are_no_images():
    for seen, _ in (
        seen_of(4, activation=nn.Sigmoid()),
        seen_of(4, defence=chain([{"name": "gaussian_noise", "scale": 0.1}])),
    ):
        (guess,) = Spear(tries=5000)([seen], stream(0))
        assert guess.inputs is None
    seen, _ = seen_of(3)
    still = dataclasses.replace(seen, payload={name: 0 * value for name, value in seen.payload.items()})
    (guess,) = Spear(tries=5000)([still], stream(0))
    assert guess.inputs is None
    seen, _ = seen_of(12, width=10)
    with pytest.raises(ValueError, match="has no rank of 12"):
        Spear()([seen], stream(0))
