"""What is handed in is looked at first: a model that cannot be trained, an odd update; each is told with its mend."""

from __future__ import annotations

import copy

import pytest
import torch
from odd_models import CLASSES, DRAWN, KNOWN, SHAPE, Attention, Pair, all_frozen_of, dropout, norm, plain
from torch import nn

from fl_privacy.federated.client import gradient
from fl_privacy.sanity import check_model, check_update, typical_slope
from fl_privacy.seeding import seeded, stream

X = torch.rand(2, *SHAPE, generator=stream(0, "sanity"))
Y = torch.tensor([0, 1])


def head(outputs, *more):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, outputs), *more)


class Says(nn.Module):
    """A model whose forward is the given function of the images and a proper classifier."""

    def __init__(self, forward):
        super().__init__()
        self.net, self.says = head(CLASSES), forward

    def forward(self, x):
        return self.says(x, self.net)


WRONG = {
    "fewer outputs": (lambda: head(3), r"3 outputs, fewer than the 4 classes.*nn\.Linear\(width, classes\)"),
    "one logit": (lambda: head(1), r"one logit.*torch\.cat"),
    "100 logits": (lambda: head(100), "100 outputs, more than the 4 classes"),
    "a tuple": (Pair, r"returns a tuple.*return self\.net\(x\)\[0\]"),
    "a dict": (lambda: Says(lambda x, net: {"logits": net(x)}), "returns a dict"),
    "None": (lambda: Says(lambda x, net: None), "returns a NoneType"),
    "a numpy array": (lambda: Says(lambda x, net: net(x).detach().numpy()), "returns a ndarray"),
    "one row for all": (lambda: Says(lambda x, net: net(x).mean(0)), r"shape \(4,\) for 2 images.*one row an image"),
    "images in three dimensions": (lambda: Says(lambda x, net: net(x)[:, None]), r"shape \(2, 1, 4\)"),
    "(H, W, C)": (
        lambda: Says(lambda x, net: net(x.permute(0, 3, 1, 2)[:, :1, :, :8]) if x.shape[3] == 1 else x @ x[:, :, :1]),
        r"\(H, W, C\): images are \(N, C, H, W\).*permute\(0, 2, 3, 1\)",
    ),
    "three channels": (
        lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, CLASSES)),
        "three channels, and these images are grey",
    ),
    "rows of pixels": (lambda: nn.Sequential(nn.Linear(64, CLASSES)), r"rows of pixels.*nn\.Flatten\(\)"),
    "another size": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(99, CLASSES)), r"image_shape \(1, 8, 8\)"),
    "without a gradient": (lambda: Says(lambda x, net: net(x).detach()), r"without a gradient.*\.detach\(\)"),
    "labels": (lambda: Says(lambda x, net: net(x).long()), r"int64.*before argmax"),
    "frozen": (lambda: all_frozen_of(SHAPE, CLASSES), "every parameter of the model is frozen"),
    "NaN": (lambda: Says(lambda x, net: (net(x) - 1e9).log()), "NaN or infinity"),
    "NaN backwards": (lambda: Says(lambda x, net: net(x) + (net(x) * 0).sqrt()), "gradient of the model is NaN"),
    "double precision": (lambda: head(CLASSES).double(), r"of type torch\.float32: .*torch\.float64.*\.float\(\)"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES)), "lazy layers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_cannot_be_trained_is_told_what_to_change(name):
    make, words = WRONG[name]
    with pytest.raises(ValueError, match=f"(?s){words}"):
        check_model(make(), X, Y, CLASSES)


def test_batch_normalisation_of_a_single_value_is_told_before_anything_runs():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    with pytest.raises(ValueError, match=r"batches of 1: batch normalisation.*'batch_size' above 1.*GroupNorm"):
        check_model(model, X[:1], Y[:1], CLASSES)
    assert check_model(model, X, Y, CLASSES) == []
    assert check_model(model.eval(), X[:1], Y[:1], CLASSES) == []


@pytest.mark.parametrize("name", [*KNOWN, *DRAWN])
def test_odd_models_that_can_be_trained_pass_without_a_word(name):
    assert check_model({**KNOWN, **DRAWN}[name](), X, Y, CLASSES) == []


@pytest.mark.parametrize("make", [norm, dropout, Attention, plain])
def test_nothing_is_left_behind(make):
    """No statistics, no gradient, no mode, no draw of any generator."""
    with seeded(0, "model"):
        model = make()
    before, twin = torch.get_rng_state(), copy.deepcopy(model)
    check_model(model, X, Y, CLASSES)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in model.state_dict().items())
    assert all(each.grad is None for each in model.parameters())
    assert [m.training for m in model.modules()] == [m.training for m in twin.modules()]


def test_a_softmax_head_is_warned_of_and_a_logarithm_of_it_is_none():
    (warning,) = check_model(head(CLASSES, nn.Softmax(1)), X, Y, CLASSES)
    assert "ends in a softmax" in warning
    assert check_model(head(CLASSES, nn.LogSoftmax(1)), X, Y, CLASSES) == []


def test_a_model_that_learns_nothing_is_warned_of():
    model = head(CLASSES)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    model[3].bias.requires_grad_(False)
    (warning,) = check_model(model, X, Y, CLASSES)
    assert "no parameter of the model has a gradient" in warning


RATE = 0.1


def stepped(rate=RATE, scale=1.0):
    """A model's weights, and what one step of descent changes in them."""
    with seeded(0, "model"):
        model = plain()
    slopes, _ = gradient(model, X, Y)
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    slope = typical_slope(lambda x, y: gradient(model, x, y)[0], SHAPE, CLASSES)
    return {name: -rate * scale * value for name, value in slopes.items()}, weights, slope


def test_an_honest_update_is_not_doubted():
    update, weights, slope = stepped()
    assert check_update(update, weights, RATE, slope=slope) == []
    assert check_update(update, weights, RATE) == []


def test_weights_given_as_an_update_are_told():
    update, weights, slope = stepped()
    new = {name: weights[name] + value for name, value in update.items()}
    (doubt,) = check_update(new, weights, RATE, slope=slope)
    assert doubt.certain
    assert "new weights minus old ones" in doubt.words


@pytest.mark.parametrize(("value", "words"), [(0.0, "zero everywhere"), (float("nan"), "NaN")])
def test_an_update_that_holds_nothing_is_told(value, words):
    _, weights, _ = stepped()
    (doubt,) = check_update({name: torch.full_like(each, value) for name, each in weights.items()}, weights, RATE)
    assert doubt.certain
    assert words in doubt.words


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_learning_rate_that_is_wrong_by_more_than_100_is_told(factor):
    update, weights, slope = stepped(RATE)
    (doubt,) = check_update(update, weights, RATE * factor, slope=slope)
    assert not doubt.certain  # a clip would explain it
    assert "learning rate" in doubt.words
    assert check_update(update, weights, RATE * 3, slope=slope) == []


def test_an_update_of_another_model_is_refused():
    update, weights, _ = stepped()
    for wrong in ({}, {"elsewhere": torch.zeros(3)}, {name: value[..., :1] for name, value in update.items()}):
        with pytest.raises(ValueError, match="does not fit the model"):
            check_update(wrong, weights, RATE)
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        check_update(update, weights, 0.0)
