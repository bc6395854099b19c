"""A small convolutional network that learns quickly: the suite's default victim."""

from collections import OrderedDict
from typing import Literal

from torch import nn

from fl_privacy.models.base import MODELS, features_out

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid}


@MODELS.register("convnet")
def convnet(
    image_shape: tuple[int, int, int],
    classes: int,
    activation: Literal["tanh", "relu", "silu", "sigmoid"] = "tanh",
    width: int = 8,
) -> nn.Sequential:
    """Two 5x5 convolutions of stride 2 (`width` and twice as many channels) and one linear layer, no normalisation.

    With torch's default initialisation it learns the digits in some thirty rounds of federated SGD, so that one run can
    show what a defence costs; the papers' sigmoid LeNets with wide weights hardly learn in that time.
    """
    act = ACTIVATIONS[activation]
    body = nn.Sequential(
        OrderedDict(
            conv1=nn.Sequential(nn.Conv2d(image_shape[0], width, 5, stride=2, padding=2), act()),
            conv2=nn.Sequential(nn.Conv2d(width, 2 * width, 5, stride=2, padding=2), act()),
            flatten=nn.Flatten(),
        )
    )
    body.add_module("head", nn.Linear(features_out(body, image_shape), classes))
    return body
