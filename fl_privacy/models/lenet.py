"""The two LeNets of the gradient-inversion papers. They share a name in the literature and little else."""

from collections import OrderedDict

from torch import nn

from fl_privacy.models.base import MODELS, features_out


@MODELS.register("lenet_dlg")
def lenet_dlg(image_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """DLG's LeNet: three 5x5 convolutions of 12 channels, strides 2, 2, 1, sigmoid, and one linear layer.

    15,826 parameters at 3x32x32 and 10 classes.

    Source: Zhu et al. 2019 (mit-han-lab/dlg); GRNN's authors use it in FedKL.
    """
    body = nn.Sequential(
        OrderedDict(
            conv1=nn.Sequential(nn.Conv2d(image_shape[0], 12, 5, stride=2, padding=2), nn.Sigmoid()),
            conv2=nn.Sequential(nn.Conv2d(12, 12, 5, stride=2, padding=2), nn.Sigmoid()),
            conv3=nn.Sequential(nn.Conv2d(12, 12, 5, padding=2), nn.Sigmoid()),
            flatten=nn.Flatten(),
        )
    )
    body.add_module("head", nn.Linear(features_out(body, image_shape), classes))
    return body


@MODELS.register("lenet_grnn")
def lenet_grnn(image_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """GRNN's LeNet: two 5x5 convolutions with sigmoid and max-pooling, three linear layers.

    62,006 parameters at 3x32x32 and 10 classes.

    Source: Ren et al. 2022 (Rand2AI/GRNN), where it is fixed to 3x32x32.
    """
    body = nn.Sequential(
        OrderedDict(
            conv1=nn.Sequential(nn.Conv2d(image_shape[0], 6, 5), nn.Sigmoid(), nn.MaxPool2d(2)),
            conv2=nn.Sequential(nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.MaxPool2d(2)),
            flatten=nn.Flatten(),
        )
    )
    body.add_module("fc1", nn.Sequential(nn.Linear(features_out(body, image_shape), 120), nn.Sigmoid()))
    body.add_module("fc2", nn.Sequential(nn.Linear(120, 84), nn.Sigmoid()))
    body.add_module("head", nn.Linear(84, classes))
    return body
