"""The images that a first linear layer's gradient holds, against images that are known."""

import dataclasses

import pytest
import torch
from torch import nn

from fl_privacy.attacks.gradient.closed_form import LinearLayer
from fl_privacy.defences import chain
from fl_privacy.federated.client import gradient
from fl_privacy.models.normalise import Normalise
from fl_privacy.observation import ChannelName, LocalTraining, Observation, Spec
from fl_privacy.seeding import seeded, stream

SHAPE = (1, 6, 6)


def net(activation, width=40, first=()):
    with seeded(0, "net"):
        return nn.Sequential(*first, nn.Flatten(), nn.Linear(36, width), activation, nn.Linear(width, 4))


def seen_of(model, batch, defence=None):
    x = torch.rand(batch, *SHAPE, generator=stream(0, "images"))
    y = torch.randint(4, (batch,), generator=stream(0, "labels"))
    payload, _ = gradient(model, x, y)
    seen = Observation(
        channel=ChannelName.GRADIENT,
        payload=defence.on_release(payload, 1) if defence else payload,
        spec=Spec(image_shape=SHAPE, classes=4, batch_size=batch, local=LocalTraining(learning_rate=0.1)),
        round=1,
        client=0,
        model=model,
        defence=defence,
    )
    return seen, x


def read(seen):
    (guess,) = LinearLayer()([seen], stream(0))
    return guess


def nearest(guess, x):
    """For every true image the greatest error of a pixel in the guessed image that is nearest."""
    return (guess.inputs.flatten(1)[None] - x.flatten(1)[:, None]).abs().amax(2).amin(1)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Sigmoid(), nn.GELU()])
@pytest.mark.parametrize("first", [(), (Normalise((0.4,), (0.3,)),)])
def test_one_image_is_exact_behind_any_activation(activation, first):
    seen, x = seen_of(net(activation, first=first), 1)
    guess = read(seen)
    assert (guess.inputs - x).abs().max() < 1e-5
    assert guess.loss < 1e-5
    assert LinearLayer().loss(seen, torch.rand(x.shape, generator=stream(9)), torch.tensor([0])) > 0.1


def test_neurons_that_fire_for_one_image_alone_give_it_away():
    """The oracle: which images fire which neuron, from the forward pass that the attack does not see."""
    model = net(nn.ReLU(), width=600)
    with torch.no_grad():
        model[1].bias -= 0.55
    for batch in (2, 4):
        seen, x = seen_of(model, batch)
        fires = model[:2](x) > 0
        owned = (fires & (fires.sum(0) == 1)).sum(1)
        assert (owned >= 2).any(), "the case tests something"
        wrong = nearest(read(seen), x)
        assert (wrong[owned >= 2] < 1e-4).all()
        assert seen.spec.batch_size == len(wrong)


def test_mixtures_are_no_images():
    for activation in (nn.Sigmoid(), nn.Tanh()):
        seen, _ = seen_of(net(activation), 3)
        guess = read(seen)
        assert guess.inputs is None
        assert guess.labels is None


def test_the_loss_of_a_batch_is_zero_at_the_truth_alone():
    seen, x = seen_of(net(nn.Sigmoid()), 3)
    labels = torch.zeros(3, dtype=torch.long)
    assert LinearLayer().loss(seen, x, labels) < 1e-5
    assert LinearLayer().loss(seen, x.roll(1, 3), labels) > 1e-2


def test_noise_costs_and_raises_nothing():
    wrong = []
    for scale in (1e-6, 1e-3, 10.0):
        seen, x = seen_of(net(nn.ReLU()), 1, chain([{"name": "gaussian_noise", "scale": scale}]))
        wrong.append(float((read(seen).inputs - x).abs().mean()))
    assert wrong[0] < wrong[1] < wrong[2]
    seen, _ = seen_of(net(nn.ReLU()), 3, chain([{"name": "gaussian_noise", "scale": 10.0}]))
    assert read(seen).inputs is None, "what agrees within its error is not there"


def test_zero_gradients_and_updates():
    seen, x = seen_of(net(nn.ReLU()), 1)
    moved = {name: -0.1 * value for name, value in seen.payload.items()}
    assert (read(dataclasses.replace(seen, channel=ChannelName.UPDATE, payload=moved)).inputs - x).abs().max() < 1e-4
    nothing = {name: 0 * value for name, value in seen.payload.items()}
    assert torch.isfinite(read(dataclasses.replace(seen, payload=nothing)).inputs).all()


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Flatten(), nn.Linear(36, 4)),
        nn.Sequential(nn.Flatten(), nn.Linear(36, 4, bias=False)),
        nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(36, 4)),
    ],
)
def test_a_layer_that_takes_no_pixels_is_refused(model):
    seen, _ = seen_of(model, 1)
    with pytest.raises(ValueError, match="takes the pixels themselves"):
        read(seen)
