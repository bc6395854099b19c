"""WideResNet-28-k in the pre-activation form of DeepMind's model zoo."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.models.base import MODELS
from fl_privacy.models.normalise import Normalise

BLOCKS = 4


class PreActivationBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, twice, and a shortcut that branches off after the first ReLU where it must project."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU(inplace=True))
        # 'same' padding of a stride-2 convolution on an even side is one row and column at the far end only
        self.far_end = stride == 2
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 0 if self.far_end else 1, bias=False)
        self.conv2 = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        )
        projects = channels_in != channels
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        entered = self.enter(x)
        kept = x if self.shortcut is None else self.shortcut(entered)
        out: Tensor = self.conv2(self.conv1(F.pad(entered, (0, 1, 0, 1)) if self.far_end else entered))
        return out.add_(kept)


@MODELS.register("wide_resnet")
def wide_resnet(
    image_shape: tuple[int, int, int],
    classes: int,
    width: int = 5,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> nn.Sequential:
    """WideResNet-28-`width`: a 3x3 stem, three groups of four pre-activation blocks, average, linear; no dropout.

    9.13 million parameters at width 5, 3x32x32 and 10 classes. `mean` and `std` per channel put a normalising stage in
    front; empty leaves it out. Sides must be multiples of 4.

    Source: Zagoruyko and Komodakis 2016; Malekzadeh and Gunduz 2022 (whose F this is, at width 5, and 1 for MNIST).
    """
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    if mean:
        stages["normalise"] = Normalise(mean, std)
    stages["stem"] = nn.Conv2d(image_shape[0], 16, 3, 1, 1, bias=False)
    channels = 16
    for index, stride in enumerate((1, 2, 2)):
        out = 16 * width * 2**index
        first = PreActivationBlock(channels, out, stride)
        rest = [PreActivationBlock(out, out, 1) for _ in range(BLOCKS - 1)]
        stages[f"group{index + 1}"] = nn.Sequential(first, *rest)
        channels = out
    stages["pool"] = nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    stages["head"] = nn.Linear(channels, classes)
    return nn.Sequential(stages)
