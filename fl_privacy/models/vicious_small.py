"""A small classifier that a CPU trains in minutes, alone or together with the decoder `small`."""

from collections import OrderedDict

from torch import nn

from fl_privacy.models.base import MODELS, features_out


@MODELS.register("vicious_small")
def vicious_small(image_shape: tuple[int, int, int], classes: int, width: int = 32, hidden: int = 256) -> nn.Sequential:
    """Three convolutions (5x5 and 3x3 of stride 2, 3x3), batch normalisation, ReLU and one hidden layer.

    0.86 million parameters at 1x28x28, width 32 and 10 classes, most of them in the hidden layer: it must carry an
    image as well as a class. Takes any side from 4 pixels up.
    """
    channels, wide = image_shape[0], 2 * width
    body = nn.Sequential(
        OrderedDict(
            conv1=nn.Sequential(nn.Conv2d(channels, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            conv2=nn.Sequential(nn.Conv2d(width, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()),
            conv3=nn.Sequential(nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()),
            flatten=nn.Flatten(),
        )
    )
    features = features_out(body, image_shape)
    body.add_module("hidden", nn.Sequential(nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()))
    body.add_module("head", nn.Linear(hidden, classes))
    return body
