"""Cuts rejoin to the same outputs, for every stage of every catalogued model and for a user's own."""

from collections import OrderedDict
from functools import cache

import pytest
import torch
from torch import nn

from fl_privacy.models import MODELS, build_model
from fl_privacy.split.cutting import cut, rejoin, stages

SHAPES = {"split_cnn": (1, 28, 28)}
SETTINGS = {"resnet18": {"width": 8}, "wide_resnet": {"width": 1, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}}


@cache
def small(name):
    return build_model(name, SHAPES.get(name, (3, 32, 32)), 10, 0, SETTINGS.get(name))


CUTS = [
    (name, stage) for name in MODELS if isinstance(small(name), nn.Sequential) for stage in stages(small(name))[:-1]
]


@pytest.mark.parametrize(("name", "stage"), CUTS)
def test_every_cut_of_every_model_gives_the_same_outputs_and_state(name, stage):
    model = small(name).eval()
    x = torch.rand(2, *SHAPES.get(name, (3, 32, 32)), generator=torch.Generator().manual_seed(0))
    client, server = cut(model, stage)
    assert torch.equal(server(client(x)), model(x))
    assert torch.equal(rejoin(client, server)(x), model(x))
    assert {**client.state_dict(), **server.state_dict()}.keys() == model.state_dict().keys()
    assert not client.state_dict().keys() & server.state_dict().keys()


def test_a_users_sequence_without_names_is_cut_by_position_and_into_three():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.Linear(5, 2))
    front, middle, head = cut(model, "1", "2")
    x = torch.randn(2, 3)
    assert torch.equal(head(middle(front(x))), model(x))
    assert [list(part.state_dict()) for part in (front, middle, head)] == [
        ["0.weight", "0.bias"],
        ["2.weight", "2.bias"],
        ["3.weight", "3.bias"],
    ]
    assert front[0] is model[0]


def test_errors_teach():
    model = nn.Sequential(OrderedDict(a=nn.Linear(2, 2), b=nn.ReLU(), c=nn.Linear(2, 1)))
    with pytest.raises(ValueError, match="stages are a, b, c"):
        cut(model, "d")
    with pytest.raises(ValueError, match="last stage"):
        cut(model, "c")
    with pytest.raises(ValueError, match="order"):
        cut(model, "b", "a")
    with pytest.raises(TypeError, match="Sequential"):
        cut(nn.Linear(2, 2), "a")
    with pytest.raises(ValueError, match="called a"):
        rejoin(*(nn.Sequential(OrderedDict(a=nn.ReLU())) for _ in range(2)))
