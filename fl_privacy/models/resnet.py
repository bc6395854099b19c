"""ResNet-18 for small images, with ReLU or, as GRNN attacks it, with sigmoid everywhere."""

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from fl_privacy.models.base import MODELS

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            activation(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.main(x) + self.shortcut(x))
        return out


@MODELS.register("resnet18")
def resnet18(
    image_shape: tuple[int, int, int],
    classes: int,
    activation: Literal["relu", "sigmoid"] = "relu",
    width: int = 64,
) -> nn.Sequential:
    """ResNet-18 with a 3x3 stem of stride 1 and no max-pooling; `activation='sigmoid'` is GRNN's victim.

    11.17 million parameters at width 64 and 10 classes.

    Source: He et al. 2016; Ren et al. 2022 (Rand2AI/GRNN) for the sigmoid form.
    """
    act = ACTIVATIONS[activation]
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(nn.Conv2d(image_shape[0], width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), act())
    )
    channels = width
    for index, stride in enumerate((1, 2, 2, 2)):
        out = width * 2**index
        stages[f"stage{index + 1}"] = nn.Sequential(
            BasicBlock(channels, out, stride, act), BasicBlock(out, out, 1, act)
        )
        channels = out
    stages["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    stages["head"] = nn.Linear(channels, classes)
    return nn.Sequential(stages)
