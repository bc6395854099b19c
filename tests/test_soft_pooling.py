"""Smooth max-pooling: torch's own where it is sharp, the mean where it is flat; and what it gives a search."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_map import observe
from torch import nn

from fl_privacy.attacks.gradient import map as map_module
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.gradient.matching import gradient_matcher
from fl_privacy.attacks.gradient.soft_pooling import BESIDE, _windows, pooling_spread, softened
from fl_privacy.data import load
from fl_privacy.evaluation import Truth, align
from fl_privacy.federated.local_training import train_locally
from fl_privacy.metrics import psnr
from fl_privacy.observation import ChannelName, LocalTraining, Observation, Spec
from fl_privacy.seeding import stream


def network(pool, side=16):
    body = [
        nn.Conv2d(1, 6, 3, padding=1),
        nn.Tanh(),
        pool,
        nn.Conv2d(6, 8, 3, padding=1),
        nn.Tanh(),
        copy.deepcopy(pool),
    ]
    features = nn.Sequential(*body, nn.Flatten())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in features:
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
        return nn.Sequential(features, nn.Linear(features(torch.zeros(1, 1, side, side)).shape[1], 10))


@pytest.mark.parametrize(
    "how",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (3, 2), "stride": (1, 2)},
        {"kernel_size": 2, "dilation": 2},
        {"kernel_size": [2], "stride": [2]},
    ],
)
@pytest.mark.parametrize("size", [(7, 7), (8, 11)])
def test_the_largest_of_each_window_is_torchs_max_pooling(how, size):
    images = torch.randn(2, 3, *size, generator=stream(0, "windows"))
    windows = _windows(images, **how)
    assert windows is not None
    torch.testing.assert_close(windows.amax(-1), F.max_pool2d(images, **how), rtol=0, atol=0)
    assert (windows > BESIDE).any(-1).all(), "a window of nothing but padding"


@pytest.mark.parametrize("odd", [{"ceil_mode": True}, {"return_indices": True}])
def test_windows_of_several_sizes_and_indices_are_left_to_torch(odd):
    assert _windows(torch.randn(1, 1, 5, 5), 2, **odd) is None


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1)], ids=["2", "3, padded"])
@pytest.mark.parametrize("victims", [1, 3], ids=["plain", "vmap"])
def test_a_sharp_one_gives_the_gradient_of_max_pooling_and_a_flat_one_that_of_the_mean(pool, victims):
    model = network(pool).double()
    images = torch.rand(victims, 1, 1, 16, 16, generator=stream(0, "images")).double()
    targets = torch.eye(10, dtype=torch.double)[:victims, None]
    match = gradient_matcher(model, victims)
    torch.testing.assert_close(softened(match, 1e7)(images, targets), match(images, targets), rtol=1e-6, atol=1e-9)
    average = copy.deepcopy(model)
    for place in (2, 5):
        average[0][place] = nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding, count_include_pad=False)
    wanted = gradient_matcher(average, victims)(images, targets)
    torch.testing.assert_close(softened(match, 0.0)(images, targets), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_padding_is_no_pixel_whatever_the_size_of_the_others(scale):
    pool, images = nn.MaxPool2d(3, 2, 1), scale * torch.randn(1, 1, 8, 8, generator=stream(0, "padded")).double()
    as_match = softened(lambda x, _: pool(x), 1 / scale)
    smooth = as_match(images, torch.empty(0))
    assert torch.isfinite(smooth).all()
    torch.testing.assert_close(smooth / scale, softened(lambda x, _: pool(x), 1.0)(images / scale, torch.empty(0)))
    assert (smooth <= pool(images)).all()
    assert (smooth >= -F.max_pool2d(-images, 3, 2, 1)).all(), "no mean is below the least of its window"


def test_the_spread_is_of_the_windows_with_most_of_it_and_none_without_max_pooling():
    images = torch.zeros(1, 1, 4, 4)
    images[..., ::2, ::2] = 1.0  # one of four pixels of each window, the others lower by one
    assert pooling_spread(nn.MaxPool2d(2), images) == pytest.approx(0.75)
    assert pooling_spread(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), images) == 0
    assert pooling_spread(nn.MaxPool2d(2, padding=1), images + 5) < 1, "padding is no pixel"


class Called(nn.Module):
    """Max-pooling as a function, which no search for modules would find."""

    def forward(self, x):
        return F.max_pool2d(x, 2)


def test_pooling_that_is_called_as_a_function_is_found():
    images = torch.rand(1, 1, 4, 4)
    assert pooling_spread(Called(), images) == pooling_spread(nn.MaxPool2d(2), images) > 0


def test_it_does_so_through_local_steps_too(monkeypatch):
    digits = load("digits", None, {"size": 16})
    model, how = network(nn.MaxPool2d(2)), LocalTraining(learning_rate=0.05, epochs=2, momentum=0.9)
    images, labels = digits.test.images(slice(0, 1)), digits.test.labels[:1]
    trained = copy.deepcopy(model)
    train_locally(trained, images, labels, how, stream(0, "shuffle"))
    update = {name: trained.get_parameter(name).detach() - p.detach() for name, p in model.named_parameters()}
    spec = Spec(image_shape=(1, 16, 16), classes=10, batch_size=1, local=how)
    seen = Observation(channel=ChannelName.UPDATE, payload=update, spec=spec, round=1, client=0, model=model)

    def decibels():
        (guess,) = MaximumAPosteriori(outer=12)([seen], stream(0, "attack"))
        return float(psnr(guess.inputs, images)[0])

    softly = decibels()
    monkeypatch.setattr(map_module, "pooling_spread", lambda *_: 0.0)
    assert softly > decibels() + 1


@pytest.mark.parametrize("batch", [1, 2])
def test_the_search_gets_more_than_one_that_pools_hard_from_the_start(batch, monkeypatch):
    digits = load("digits", None, {"size": 16})
    model, count = network(nn.MaxPool2d(2)), 2
    images = digits.test.images(slice(0, count * batch)).view(count, batch, 1, 16, 16)
    labels = digits.test.labels[: count * batch].view(count, batch)
    seen, attack = observe(model, images, labels), MaximumAPosteriori(restarts=1, grnn=0)

    def decibels():
        found = attack(seen, stream(0, "attack"))
        pairs = zip(found, images, labels, strict=True)
        aligned = [align(guess, Truth(*truth)).inputs for guess, *truth in pairs]
        return torch.cat([psnr(each, truth) for each, truth in zip(aligned, images, strict=True)]).mean()

    softly = decibels()
    monkeypatch.setattr(map_module, "pooling_spread", lambda *_: 0.0)
    assert softly > decibels() + 2
