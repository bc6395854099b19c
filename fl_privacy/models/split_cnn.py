"""The split CNN of Titcombe et al."""

from collections import OrderedDict
from typing import Literal

from torch import nn

from fl_privacy.models.base import MODELS, features_out
from fl_privacy.models.normalise import Normalise

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
PUBLISHED_CUT = "fc1"


@MODELS.register("split_cnn")
def split_cnn(
    image_shape: tuple[int, int, int],
    classes: int,
    softmax: bool = False,
    cut_activation: Literal["tanh", "relu"] = "tanh",
    mean: float = MNIST_MEAN,
    std: float = MNIST_STD,
) -> nn.Sequential:
    """Two 3x3 convolutions, max-pooling and 500 tanh units, published cut 'fc1'; then 128 ReLU units and the classes.

    4,627,316 + 65,418 parameters at 1x28x28 and 10 classes. `softmax=True` ends in a softmax, as the published code
    does in front of a cross entropy that applies its own: the loss then has a floor of 1.461 at 10 classes.

    Source: Titcombe et al. 2021; TTitcombe/Model-Inversion-SplitNN, src/dpsnn/models.py (ReLUSplitNN for 'relu').
    """
    stages = OrderedDict(
        normalise=Normalise((mean,), (std,)),
        conv1=nn.Sequential(nn.Conv2d(image_shape[0], 32, 3), nn.ReLU()),
        conv2=nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        flatten=nn.Flatten(),
    )
    body = nn.Sequential(stages)
    bend = nn.Tanh() if cut_activation == "tanh" else nn.ReLU()
    body.add_module("fc1", nn.Sequential(nn.Linear(features_out(body, image_shape), 500), bend))
    body.add_module("fc2", nn.Sequential(nn.Linear(500, 128), nn.ReLU()))
    head = nn.Linear(128, classes)
    body.add_module("head", nn.Sequential(head, nn.Softmax(1)) if softmax else head)
    return body
