"""Peeling against images that are known, and each of its parts against torch."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fl_privacy.attacks.gradient.affine import as_affine
from fl_privacy.attacks.gradient.head import read_head
from fl_privacy.attacks.gradient.layer_chain import Layer, layer_chain
from fl_privacy.attacks.gradient.monotone import INVERSES
from fl_privacy.attacks.gradient.peeling import Peeling
from fl_privacy.defences import chain
from fl_privacy.federated.client import gradient
from fl_privacy.models import build_model
from fl_privacy.models.normalise import Normalise
from fl_privacy.observation import ChannelName, LocalTraining, Observation, Spec
from fl_privacy.seeding import seeded, stream

SHAPE = (2, 8, 8)


def seen_by(model, shape=SHAPE, label=3, classes=5, defence=None, seed=0, smooth=False):
    """A gradient of one image of noise, or of a smooth one, and that image."""
    rng, y = stream(seed, "image"), torch.tensor([label])
    x = torch.rand(1, *shape, generator=rng)
    if smooth:
        x = F.interpolate(x[..., ::3, ::3], shape[1:], mode="bicubic").clamp(0, 1)
    payload, _ = gradient(model, x, y)
    spec = Spec(image_shape=shape, classes=classes, batch_size=1, local=LocalTraining(learning_rate=0.1))
    payload = defence.on_release(payload, 99) if defence else payload
    made = Observation(
        channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=0, model=model, defence=defence
    )
    return made, x


def error(seen, x, **settings):
    """Root mean squared error of the one guess, and the guess."""
    (guess,) = Peeling(**settings)([seen], stream(0))
    return float((guess.inputs - x).double().square().mean().sqrt()), guess


class Functional(nn.Module):
    """Functions and methods in place of modules, as user code writes it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2)
        self.head = nn.Linear(72, 5)

    def forward(self, x):
        x = F.leaky_relu(self.first(x), 0.3)
        x = torch.tanh(self.second(x)).view(x.size(0), -1)
        return self.head(x)


def chains():
    """Models that determine an image of 2x8x8, by name."""
    conv = nn.Conv2d
    return {
        "sigmoid": nn.Sequential(conv(2, 8, 3, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(512, 5)),
        "tanh, strides": nn.Sequential(
            conv(2, 8, 5, stride=2, padding=2), nn.Tanh(), conv(8, 8, 3, padding=1), nn.Tanh(), nn.Flatten(),
            nn.Linear(128, 5),
        ),
        "leaky ReLU, dilation and groups": nn.Sequential(
            conv(2, 8, 3, padding="same", dilation=2), nn.LeakyReLU(0.1), conv(8, 16, 3, groups=4), nn.LeakyReLU(0.1),
            nn.Flatten(), nn.Linear(576, 5),
        ),
        "functions": Functional(),
        "normalised input, batch norm in eval mode": nn.Sequential(
            Normalise((0.4, 0.6), (0.2, 0.3)), conv(2, 8, 3, padding=1), nn.BatchNorm2d(8).eval(), nn.Tanh(),
            nn.Flatten(), nn.Linear(512, 5),
        ),
        "average pooling of the features before the activation": nn.Sequential(
            conv(2, 12, 3, padding=1), nn.AvgPool2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(192, 5)
        ),
        "linear layers": nn.Sequential(nn.Flatten(), nn.Linear(128, 20), nn.Tanh(), nn.Linear(20, 5)),
        "no bias anywhere": nn.Sequential(
            conv(2, 8, 3, padding=1, bias=False), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(512, 5, bias=False)
        ),
        "GELU above a linear layer": nn.Sequential(
            conv(2, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(512, 30), nn.GELU(), nn.Linear(30, 5)
        ),
        "ReLU, wide enough": nn.Sequential(
            conv(2, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 5)
        ),
        "two activations in a row": nn.Sequential(
            conv(2, 8, 3, padding=1), nn.LeakyReLU(0.5), nn.Tanh(), nn.Flatten(), nn.Linear(512, 5)
        ),
    }  # fmt: skip


with seeded(0, "chains"):
    CHAINS = chains()


@pytest.mark.parametrize("name", CHAINS)
def test_an_image_comes_back_exactly(name):
    for label in (0, 3):
        seen, x = seen_by(CHAINS[name], label=label)
        wrong, guess = error(seen, x)
        assert wrong < 1e-4, "80 dB"
        assert guess.labels.tolist() == [label]
        assert guess.loss < 1e-4
        assert Peeling().loss(seen, torch.rand(x.shape, generator=stream(9)), guess.labels) > 0.1


def test_the_error_is_what_the_bound_says_and_float64_is_nearly_exact():
    for precision, below in ((torch.float32, 1e-4), (torch.float64, 1e-7)):
        with seeded(1, "model"):
            model = nn.Sequential(
                nn.Conv2d(2, 8, 5, stride=2, padding=2), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten()
            )
            model.append(nn.Linear(32, 5)).to(precision)
        x, y = torch.rand(1, *SHAPE, generator=stream(0, "image"), dtype=precision), torch.tensor([1])
        spec = Spec(image_shape=SHAPE, classes=5, batch_size=1)
        payload, _ = gradient(model, x, y)
        seen = Observation(channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=0, model=model)
        (guess,) = Peeling()([seen], stream(0))
        reached = float((guess.inputs - x).square().mean().sqrt())
        assert reached < below
        if precision == torch.float32:
            assert 0.1 < reached / float(guess.bound.sqrt()) < 10


def test_a_clip_is_undone_and_an_update_is_read_as_a_gradient():
    model = CHAINS["sigmoid"]
    plain, x = seen_by(model)
    clipped, _ = seen_by(model, defence=chain([{"name": "clip", "norm": 1e-3}]))
    moved = {name: -0.1 * value for name, value in plain.payload.items()}
    update = dataclasses.replace(plain, channel=ChannelName.UPDATE, payload=moved)
    for seen in (clipped, update):
        wrong, guess = error(seen, x)
        assert wrong < 1e-4
        assert guess.loss < 1e-4
    several = dataclasses.replace(update.spec, local=LocalTraining(learning_rate=0.1, steps=3))
    with pytest.raises(ValueError, match="this update is of several steps"):
        Peeling()([dataclasses.replace(update, spec=several)], stream(0))


@pytest.mark.parametrize("law", ["gaussian_noise", "laplace_noise"])
def test_noise_that_is_known_costs_decibels_and_raises_nothing(law):
    model = CHAINS["tanh, strides"]
    reached = []
    for scale in (1e-4, 1e-2, 1.0, 100.0):
        seen, x = seen_by(model, defence=chain([{"name": law, "scale": scale}]), smooth=True)
        reached.append(error(seen, x)[0])
        ignorant = dataclasses.replace(seen, defence=None)
        assert reached[-1] <= error(ignorant, x)[0] + 0.01, "an attacker who knows the law does no worse"
    assert reached[0] < reached[1] < 0.35
    assert reached[0] < 0.05
    assert reached[3] < 0.35, "what noise has drowned leaves the prior"


def test_zero_and_huge_gradients_give_finite_guesses():
    for factor in (0.0, 1e-30, 1e30):
        seen, _ = seen_by(CHAINS["sigmoid"])
        seen = dataclasses.replace(seen, payload={name: factor * value for name, value in seen.payload.items()})
        (guess,) = Peeling()([seen], stream(0))
        assert torch.isfinite(guess.inputs).all()


def test_the_truth_is_not_needed_where_a_prior_must_fill():
    """Average pooling after an activation, and ReLUs that are mostly off, leave equations open: the loss says so."""
    with seeded(0, "open"):
        models = [
            nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 5)),
            nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)),
        ]
    for model in models:
        seen, x = seen_by(model)
        wrong, guess = error(seen, x)
        assert 1e-3 < wrong < 0.5
        assert guess.loss > 1e-4 or float(guess.bound) > 1e-4


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(128, 5)

    def forward(self, x):
        return self.head((x + self.conv(x)).flatten(1))


class Depends(Skip):
    def forward(self, x):
        return self.head((self.conv(x) if x.sum() > 0 else x).flatten(1))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(128, 5)

    def forward(self, x):
        return self.head(torch.tanh(self.conv(torch.tanh(self.conv(x)))).flatten(1))


def shared():
    model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 2, 3, padding=1), nn.Tanh())
    model[2].weight = model[0].weight
    return model.append(nn.Flatten()).append(nn.Linear(128, 5))


REFUSED = {
    "skip connections": Skip(),
    "cannot read this model as a graph": Depends(),
    "is used twice": Twice(),
    "share a weight": shared(),
    "MaxPool2d cannot be undone": nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    ),
    "GELU cannot be undone": nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(256, 5)
    ),
    "own statistics": nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(256, 5)
    ),
    "has a mask": nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 5)),
    "no head to read": nn.Sequential(nn.Flatten(), nn.Linear(128, 5), nn.Tanh()),
    "pads by 'reflect'": nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.Tanh(), nn.Flatten(), nn.Linear(256, 5)
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_peeled_is_refused_with_the_reason(reason):
    seen, _ = seen_by(REFUSED[reason])
    with pytest.raises(ValueError, match=reason):
        Peeling()([seen], stream(0))


def test_a_layer_too_large_and_a_batch_are_refused():
    seen, _ = seen_by(CHAINS["sigmoid"])
    with pytest.raises(ValueError, match="raise 'largest'"):
        Peeling(largest=100)([seen], stream(0))
    several = dataclasses.replace(seen, spec=dataclasses.replace(seen.spec, batch_size=2))
    with pytest.raises(ValueError, match="at most 1 example"):
        Peeling()([several], stream(0))


def test_victims_of_one_call_are_each_as_alone():
    seen, _ = seen_by(CHAINS["sigmoid"])
    other, _ = seen_by(CHAINS["sigmoid"], label=1, seed=5)
    both = Peeling()([seen, other], stream(0))
    for each, guess in zip((seen, other), both, strict=True):
        assert torch.equal(Peeling()([each], stream(3))[0].inputs, guess.inputs)


AFFINE = {
    "convolution": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "asymmetric": nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(0, 1), dilation=(2, 1)),
    "same": nn.Conv2d(4, 6, (4, 3), padding="same", bias=False),
    "groups": nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": nn.Conv2d(4, 4, 3, groups=4),
    "average pooling": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "adaptive pooling": nn.AdaptiveAvgPool2d(2),
    "batch normalisation": nn.BatchNorm2d(4).eval(),
    "normalisation": Normalise((0.5,), (0.2,)),
}


@pytest.mark.parametrize("name", AFFINE)
def test_matrices_do_what_their_layers_do(name):
    module = AFFINE[name].double()
    if isinstance(module, nn.BatchNorm2d):
        module.running_mean.uniform_(), module.running_var.uniform_(0.5, 2), module.weight.data.uniform_(-1, 1)
    x = torch.rand(1, 4, 9, 8, generator=stream(0), dtype=torch.float64)
    y = module(x).detach()
    map_ = as_affine(Layer("x", module, (4, 9, 8), tuple(y.shape[1:])))
    assert np.allclose(map_.matrix @ x.numpy().ravel() + map_.offset, y.numpy().ravel())


@pytest.mark.parametrize("kind", INVERSES)
def test_activations_are_undone(kind):
    module = kind()
    z = torch.linspace(-3, 3, 40, dtype=torch.float64, requires_grad=True)
    a = module(z)
    (slope,) = torch.autograd.grad(a.sum(), z)
    back = INVERSES[kind](module, a.detach().numpy(), np.full(40, 1e-20))
    told = np.isfinite(back.variance)
    assert np.allclose(back.z[told], z.detach().numpy()[told], atol=1e-6)
    assert np.allclose(back.slope, slope.numpy(), atol=1e-9)
    assert told.all() or (kind is nn.ReLU and (z.detach().numpy()[~told] <= 0).all())


@pytest.mark.parametrize("biased", [True, False])
def test_the_head_is_read_at_any_scale(biased):
    rng = np.random.default_rng(0)
    weight, bias, features = rng.normal(size=(7, 12)), rng.normal(size=7), rng.normal(size=12)
    logits = weight @ features + bias
    delta = np.exp(logits) / np.exp(logits).sum() - np.eye(7)[4]
    for scale in (1.0, 0.01) if biased else (1.0,):
        read = read_head(weight, bias, scale * np.outer(delta, features), scale * delta if biased else None)
        assert read.label == 4
        assert np.allclose(read.features, features, atol=1e-6)
        assert np.allclose(read.delta, delta, atol=1e-6)
        assert read.scale == pytest.approx(scale)


def test_a_chain_is_the_same_function_as_its_model():
    model = build_model("lenet_dlg", (1, 16, 16), 10, 0)
    x = torch.rand(3, 1, 16, 16, generator=stream(0))
    y = x.double()
    for layer in layer_chain(model, (1, 16, 16), True):
        y = layer.module(y.flatten(1) if isinstance(layer.module, nn.Linear) else y)
    assert torch.allclose(y.float(), model(x), atol=1e-5)
