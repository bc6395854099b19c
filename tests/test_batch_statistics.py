"""Running statistics that come with an update: what they tell of the batch, and what the attacks make of it."""

import dataclasses

import pytest
import torch
from torch import nn

from fl_privacy.attacks.gradient.batch_statistics import moments_apart, sent_statistics
from fl_privacy.attacks.gradient.exposure import exposed, is_open
from fl_privacy.attacks.gradient.likelihood import likelihood
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.gradient.peeling import Peeling
from fl_privacy.attacks.gradient.simulated import simulated_client
from fl_privacy.attacks.inversion.priors import power_law
from fl_privacy.defences import chain
from fl_privacy.observation import ChannelName, LocalTraining, Observation, Spec
from fl_privacy.seeding import seeded, stream

SHAPE, CLASSES = (2, 8, 8), 5


def network(activation, momentum=0.1):
    conv, norm = nn.Conv2d, nn.BatchNorm2d
    with seeded(0, "network"):
        return nn.Sequential(
            conv(2, 16, 3, padding=1), norm(16, momentum=momentum), activation(), conv(16, 16, 3, stride=2, padding=1),
            norm(16, momentum=momentum), activation(), nn.Flatten(), nn.Linear(256, CLASSES),
        )  # fmt: skip


def update_of(model, batch=1, local=None, **facts):
    """What a client sends for images of noise, by its own function, and those images with their labels."""
    x, y = torch.rand(batch, *SHAPE, generator=stream(0, "images")), torch.arange(batch) % CLASSES
    local = local or LocalTraining(learning_rate=0.1)
    spec = Spec(image_shape=SHAPE, classes=CLASSES, batch_size=batch, local=local)
    blank = Observation(
        channel=ChannelName.UPDATE, payload=dict(model.named_parameters()), spec=spec, round=1, client=0, model=model,
        **facts,
    )  # fmt: skip
    return dataclasses.replace(blank, payload=simulated_client(blank)(x, y, 0)), x, y


def inputs_of(model, x):
    """The inputs of every layer of batch normalisation, by its name."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda module, inputs, name=name: found.update({name: inputs[0]}))
    with torch.no_grad():
        model(x)
    return found


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_the_moments_of_a_batch_follow_from_what_was_sent(momentum):
    model = network(nn.Tanh, momentum)
    seen, x, _ = update_of(model, batch=3)
    told, inputs = sent_statistics(seen), inputs_of(network(nn.Tanh), x)
    assert set(told) == {"1", "4"}
    for name, moments in told.items():
        assert torch.allclose(moments.mean.float(), inputs[name].mean((0, 2, 3)), atol=1e-5)
        assert torch.allclose(moments.variance.float(), inputs[name].var((0, 2, 3)), rtol=1e-4)


def test_where_nothing_is_certain_nothing_is_told():
    model = network(nn.Tanh)
    seen, _, _ = update_of(model)
    assert sent_statistics(seen)
    assert not sent_statistics(dataclasses.replace(seen, channel=ChannelName.GRADIENT))
    assert not sent_statistics(dataclasses.replace(seen, defence=chain([{"name": "clip", "norm": 1.0}])))
    bare = {name: value for name, value in seen.payload.items() if "running" not in name}
    assert not sent_statistics(dataclasses.replace(seen, payload=bare))
    for local in (LocalTraining(learning_rate=0.1, steps=2), LocalTraining(learning_rate=0.1, mode="eval")):
        assert not sent_statistics(update_of(model, local=local)[0])
    assert moments_apart([dataclasses.replace(seen, payload=bare)]) is None


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, lambda: nn.LeakyReLU(0.2), nn.ReLU])
def test_an_image_comes_back_through_normalisation_by_its_own_moments(activation):
    seen, x, y = update_of(network(activation))
    (guess,) = Peeling()([seen], stream(0))
    assert float((guess.inputs - x).square().mean().sqrt()) < 1e-3, "60 dB"
    assert guess.labels.tolist() == y.tolist()
    with pytest.raises(ValueError, match="unless an update comes with its running statistics"):
        Peeling()([dataclasses.replace(seen, channel=ChannelName.GRADIENT)], stream(0))


def test_every_victim_of_one_model_is_solved_with_its_own_moments():
    model = network(nn.Tanh)
    seen, _, _ = update_of(model)
    client = simulated_client(seen)
    images = [torch.rand(1, *SHAPE, generator=stream(i, "several")) for i in range(2)]
    several = [dataclasses.replace(seen, payload=client(x, torch.tensor([1]), 0)) for x in images]
    for x, guess in zip(images, Peeling()(several, stream(0)), strict=True):
        assert float((guess.inputs - x).square().mean().sqrt()) < 1e-3


def test_moments_are_part_of_the_likelihood_and_fix_the_contrast_of_a_batch():
    """The normalised features of an image are those of the same at half its contrast."""
    seen, x, y = update_of(network(nn.Tanh), batch=2)
    apart = moments_apart([seen])
    assert float(apart(x[None]).abs().max()) < 1e-4
    bare = dataclasses.replace(seen, payload={n: v for n, v in seen.payload.items() if "running" not in n})
    pale = (0.5 * (x - x.mean((2, 3), keepdim=True)) + x.mean((2, 3), keepdim=True))[None]
    prior, labels = power_law(SHAPE), y[None]
    squares = []
    for each in (seen, bare):
        given = likelihood([each])
        residual = given.residual(prior, labels)
        assert given.nats(residual(prior.coordinates(x[None]))) < given.nats(residual(prior.coordinates(pale)))
        squares.append(float(residual(prior.coordinates(pale)).detach().square().mean()))
    assert squares[0] > 1.3 * squares[1]


def test_map_uses_them():
    seen, x, _ = update_of(network(nn.Tanh), batch=2)
    bare = dataclasses.replace(seen, payload={n: v for n, v in seen.payload.items() if "running" not in n})
    quick = MaximumAPosteriori(adam=60, lbfgs=100, restarts=1, grnn=0)
    errors = []
    for each in (seen, bare):
        (guess,) = quick([each], stream(0))
        errors.append(float((guess.inputs - x).square().mean()))
    assert errors[0] < errors[1]


def test_where_the_gradient_leaves_the_brightness_open_it_is_that_of_images():
    """Half as bright fits a gradient through batch normalisation as well; what tanh comes before is not touched."""
    rng, prior = stream(0, "smooth"), power_law((2, 16, 16))
    with seeded(0, "network"):
        normal = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(1568, CLASSES))
        plain = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Tanh(), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(1568, CLASSES))
    x, labels = prior.images(torch.randn(4, 1, 512, generator=rng)).clamp(0, 1), torch.zeros(4, 1, dtype=torch.long)
    dark = prior.coordinates(0.5 * x)
    for model, is_found in ((normal, True), (plain, False)):
        spec = Spec(image_shape=(2, 16, 16), classes=CLASSES, batch_size=1)
        blank = Observation(channel=ChannelName.GRADIENT, payload={}, spec=spec, round=1, client=0, model=model)
        blank = dataclasses.replace(blank, payload={n: p.detach() for n, p in model.named_parameters()})
        seen = [
            dataclasses.replace(blank, payload=simulated_client(blank)(each, label, 0))
            for each, label in zip(x, labels, strict=True)
        ]
        given = likelihood(seen)
        assert is_open(seen, given)
        start = dark if is_found else prior.coordinates(x)
        found = exposed(given.residual(prior, labels), prior, start)
        if is_found:
            assert float((prior.images(found) - x).square().mean()) < 0.3 * float((0.5 * x).square().mean())
        else:
            assert torch.equal(found, start)
