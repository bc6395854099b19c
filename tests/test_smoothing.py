"""Smooth max-pooling and ReLU: torch's own where they are sharp, the mean where it is flat; and what a search gains."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_map import observe, observe_update
from torch import nn

from fl_privacy.attacks.gradient import map as map_module
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.gradient.matching import gradient_matcher
from fl_privacy.attacks.gradient.smoothing import BESIDE, _windows, kinks_of, softened
from fl_privacy.data import load
from fl_privacy.evaluation import Truth, align
from fl_privacy.metrics import psnr
from fl_privacy.observation import LocalTraining
from fl_privacy.seeding import stream


def network(pool, side=16, bend=nn.Tanh):
    body = [
        nn.Conv2d(1, 6, 3, padding=1),
        bend(),
        pool,
        nn.Conv2d(6, 8, 3, padding=1),
        bend(),
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
    torch.testing.assert_close(
        softened(match, 1e7, [1.0])(images, targets), match(images, targets), rtol=1e-6, atol=1e-9
    )
    average = copy.deepcopy(model)
    for place in (2, 5):
        average[0][place] = nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding, count_include_pad=False)
    wanted = gradient_matcher(average, victims)(images, targets)
    torch.testing.assert_close(softened(match, 0.0, [1.0])(images, targets), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_padding_is_no_pixel_whatever_the_size_of_the_others(scale):
    pool, images = nn.MaxPool2d(3, 2, 1), scale * torch.randn(1, 1, 8, 8, generator=stream(0, "padded")).double()
    as_match = softened(lambda x, _: pool(x), 1.0, [scale])
    smooth = as_match(images, torch.empty(0))
    assert torch.isfinite(smooth).all()
    torch.testing.assert_close(
        smooth / scale, softened(lambda x, _: pool(x), 1.0, [1.0])(images / scale, torch.empty(0))
    )
    assert (smooth <= pool(images)).all()
    assert (smooth >= -F.max_pool2d(-images, 3, 2, 1)).all(), "no mean is below the least of its window"


@pytest.mark.parametrize(
    "place", [lambda x: F.relu(x), torch.relu, lambda x: x.relu(), nn.ReLU(), nn.ReLU(inplace=True)]
)
def test_relu_is_softplus_wherever_it_is_called(place):
    x = torch.linspace(-3, 3, 7)
    found = softened(lambda images, _: place(images.clone()), 2.0, [0.5])(x, torch.empty(0))
    torch.testing.assert_close(found, (1 + (4 * x).exp()).log() / 4)


@pytest.mark.parametrize("kin", [nn.LeakyReLU(), nn.LeakyReLU(0.3, inplace=True), nn.ReLU6(), nn.Hardtanh()], ids=str)
def test_its_kin_are_made_of_it(kin):
    x = torch.linspace(-8, 8, 9)
    sharp, smooth = (softened(lambda images, _: kin(images.clone()), each, [1.0]) for each in (1e6, 1.0))
    torch.testing.assert_close(sharp(x, torch.empty(0)), kin(x.clone()))
    assert (smooth(x, torch.empty(0)) - kin(x.clone())).abs().max() > 0.2
    assert len(kinks_of(kin, x)) == (2 if isinstance(kin, nn.Hardtanh) else 1)


@pytest.mark.parametrize("victims", [1, 3], ids=["plain", "vmap"])
def test_sharp_relu_gives_the_gradient_of_relu(victims):
    model = network(nn.AvgPool2d(2), bend=nn.ReLU).double()
    images = torch.rand(victims, 1, 1, 16, 16, generator=stream(0, "images")).double()
    targets = torch.eye(10, dtype=torch.double)[:victims, None]
    match = gradient_matcher(model, victims)
    torch.testing.assert_close(softened(match, 1e9, [1.0])(images, targets), match(images, targets))


def test_each_call_has_its_own_unit_in_every_pass():
    """Of max-pooling how far the pixels are below the largest, of ReLU the deviation of its input over the images."""
    images = torch.zeros(2, 1, 4, 4)
    images[..., ::2, ::2] = 1.0  # one of four pixels of each window, the others lower by one
    images[1] *= 3
    model = nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2), nn.Tanh())
    assert kinks_of(model, images) == pytest.approx((1.5, 1.0))
    assert kinks_of(nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.Tanh()), images) == ()
    assert kinks_of(nn.MaxPool2d(2, padding=1), images + 5)[0] < 2, "padding is no pixel"
    two = nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(1), nn.MaxPool2d(2, 1, 1))
    first, second = (kinks_of(pool, x)[0] for pool, x in zip((two[0], two[2]), (images, two[:2](images)), strict=True))
    wanted = tuple((unit * max(first, second)) ** 0.5 for unit in (first, second))
    assert first != second
    assert kinks_of(two, images) == pytest.approx(wanted), "of several max-poolings with the widest"
    x, units = torch.tensor([[-1.0, 2.0]]), [0.5, 2.0]
    twice = softened(lambda x, _: torch.stack([torch.relu(torch.relu(x)) for _ in range(2)]), 1.0, units)
    wanted = F.softplus(F.softplus(x, 2.0), 0.5)
    torch.testing.assert_close(twice(x, torch.empty(0)), torch.stack([wanted, wanted]))


def test_a_call_whose_input_never_changes_is_left_as_it_is():
    model = nn.Sequential(nn.MaxPool2d(2), nn.ReLU())
    units = kinks_of(model, torch.ones(2, 1, 4, 4))
    assert units == (0, 0)
    images = torch.rand(2, 1, 4, 4) - 0.5
    assert torch.equal(softened(lambda x, _: model(x), 1.0, units)(images, torch.empty(0)), model(images))


class Called(nn.Module):
    """Max-pooling as a function, which no search for modules would find."""

    def forward(self, x):
        return F.max_pool2d(x, 2)


def test_pooling_that_is_called_as_a_function_is_found():
    images = torch.rand(1, 1, 4, 4)
    assert kinks_of(Called(), images) == kinks_of(nn.MaxPool2d(2), images) != ()


KINKED = {"max-pooling": lambda: network(nn.MaxPool2d(2)), "relu": lambda: network(nn.AvgPool2d(2), bend=nn.ReLU)}


@pytest.mark.parametrize(("kind", "batch", "count"), [("max-pooling", 1, 4), ("relu", 4, 1)])
def test_it_does_so_through_local_steps_too(kind, batch, count, monkeypatch):
    """In the mean: a single image may end in the same place by both ways."""
    digits = load("digits", None, {"size": 16})
    model, how = KINKED[kind](), LocalTraining(learning_rate=0.05, epochs=2, momentum=0.9, batch_size=batch)
    images = digits.test.images(slice(0, count * batch)).split(batch)
    labels = digits.test.labels[: count * batch].split(batch)
    seen = [observe_update(model, x, y, how) for x, y in zip(images, labels, strict=True)]

    def decibels():
        guesses = [MaximumAPosteriori(outer=12)([each], stream(0, "attack"))[0] for each in seen]
        aligned = [align(guess, Truth(x, y)).inputs for guess, x, y in zip(guesses, images, labels, strict=True)]
        return float(psnr(torch.cat(aligned), torch.cat(images)).mean())

    softly = decibels()
    monkeypatch.setattr(map_module, "kinks_of", lambda *_: ())
    plainly = decibels()
    assert softly > plainly + 1


@pytest.mark.parametrize("kind", KINKED)
@pytest.mark.parametrize("batch", [1, 2])
def test_the_search_gets_more_than_one_through_the_model_as_it_is(kind, batch, monkeypatch):
    digits = load("digits", None, {"size": 16})
    model, count = KINKED[kind](), 2
    images = digits.test.images(slice(0, count * batch)).view(count, batch, 1, 16, 16)
    labels = digits.test.labels[: count * batch].view(count, batch)
    seen, attack = observe(model, images, labels), MaximumAPosteriori(restarts=1, grnn=0)

    def decibels():
        found = attack(seen, stream(0, "attack"))
        pairs = zip(found, images, labels, strict=True)
        aligned = [align(guess, Truth(*truth)).inputs for guess, *truth in pairs]
        return torch.cat([psnr(each, truth) for each, truth in zip(aligned, images, strict=True)]).mean()

    softly = decibels()
    monkeypatch.setattr(map_module, "kinks_of", lambda *_: ())
    plainly = decibels()
    assert softly > plainly + 2
