import pytest
import torch
from torch import nn

from fl_privacy.models import MODELS, build_model
from fl_privacy.seeding import stream
from fl_privacy.settings import UnknownName

CLASSIFIERS = [name for name in MODELS if MODELS.facts(name).get("kind", "classifier") == "classifier"]


SMALL = {"resnet18": {"width": 8}, "wide_resnet": {"width": 1}}


def images(shape, count=2):
    return torch.rand(count, *shape, generator=stream(0, "images"))


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_stages_rejoin_to_the_same_outputs(name, shape):
    model = build_model(name, shape, 7, 0, SMALL.get(name)).eval()
    assert isinstance(model, nn.Sequential)
    x = images(shape)
    with torch.no_grad():
        whole = model(x)
        assert whole.shape == (2, 7)
        for cut in range(1, len(model)):
            assert torch.equal(model[cut:](model[:cut](x)), whole)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_seed_decides_the_weights(name):
    torch.manual_seed(0)
    first = build_model(name, (1, 28, 28), 3, 1, SMALL.get(name)).state_dict()
    torch.manual_seed(99)
    again = build_model(name, (1, 28, 28), 3, 1, SMALL.get(name)).state_dict()
    other = build_model(name, (1, 28, 28), 3, 2, SMALL.get(name)).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    # the counts that the papers' own definitions give
    [("lenet_dlg", 10, 15_826), ("lenet_dlg", 100, 85_036), ("lenet_grnn", 10, 62_006), ("lenet_grnn", 100, 69_656)],
)
def test_published_sizes(name, classes, parameters):
    assert count(build_model(name, (3, 32, 32), classes, seed=0)) == parameters


def test_resnet18_is_the_published_one():
    model = build_model("resnet18", (3, 32, 32), 10, 0, {"activation": "sigmoid"})
    assert count(model) == 11_173_962
    assert not [m for m in model.modules() if isinstance(m, nn.ReLU)]


def test_wide_initialisation_reaches_every_parameter():
    model = build_model("lenet_dlg", (1, 28, 28), 10, 0, {"init": "wide"})
    values = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert values.abs().max() <= 0.5
    assert values.std() == pytest.approx(1 / 12**0.5, rel=0.02)


def test_bad_settings_teach():
    with pytest.raises(ValueError, match="'init' takes 'default' or 'wide'"):
        build_model("lenet_dlg", (1, 28, 28), 10, 0, {"init": "large"})
    with pytest.raises(ValueError, match="one of 'relu', 'sigmoid'"):
        build_model("resnet18", (1, 28, 28), 10, 0, {"activation": "tanh"})
    with pytest.raises(UnknownName, match="lenet_dlg"):
        build_model("lenet", (1, 28, 28), 10, 0)
