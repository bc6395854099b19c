"""The published width-1 pair in plain operations: borders by padding, and every ReLU and sum into a new tensor."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.joint_training import Pair
from fl_privacy.models.normalise import Normalise

BLOCKS = 4


class Block(nn.Module):
    """A block of F."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(channels_in), nn.ReLU()
        self.pad = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(channels), nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False) if channels_in != channels else None

    def forward(self, x: Tensor) -> Tensor:
        entered = self.relu1(self.norm1(x))
        out = self.conv2(self.relu2(self.norm2(self.conv1(F.pad(entered, self.pad)))))
        return torch.add(x if self.shortcut is None else self.shortcut(entered), out)


class TransposedBlock(nn.Module):
    """A block of G."""

    def __init__(self, channels_in: int, channels: int, first_group: bool) -> None:
        super().__init__()
        doubles = channels_in != channels
        self.norm1, self.relu1 = nn.BatchNorm2d(channels_in), nn.ReLU()
        self.conv1 = nn.ConvTranspose2d(channels_in, channels, *((4, 2) if doubles else (3, 1)), 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(channels), nn.ReLU()
        self.conv2 = nn.ConvTranspose2d(channels, channels, 3, 1, 1, bias=False)
        geometry = (1, 3, 1) if first_group else (2, 2, 0)
        self.shortcut = nn.ConvTranspose2d(channels_in, channels, *geometry, bias=False) if doubles else None

    def forward(self, x: Tensor) -> Tensor:
        entered = self.relu1(self.norm1(x))
        out = self.conv2(self.relu2(self.norm2(self.conv1(entered))))
        return torch.add(x if self.shortcut is None else self.shortcut(entered), out)


def textbook_pair(mean: tuple[float, ...], std: tuple[float, ...], classes: int = 10) -> Pair:
    """F and G for grey images of 32x32; their parameters come in the order of the library's.

    Source: mmalekzadeh/vicious-classifiers, TDRA/models.py (whose F is DeepMind's).
    """
    blocks = [
        Block(before if block == 0 else after, after, stride if block == 0 else 1)
        for before, after, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        for block in range(BLOCKS)
    ]
    ends = [nn.BatchNorm2d(64), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, classes)]
    classifier = nn.Sequential(Normalise(mean, std), nn.Conv2d(1, 16, 3, 1, 1, bias=False), *blocks, *ends)
    transposed = [
        TransposedBlock(before if block == 0 else after, after, before == 64)
        for before, after in ((64, 32), (32, 16), (16, 8))
        for block in range(BLOCKS)
    ]
    starts = [nn.Linear(classes, 1024), nn.Unflatten(1, (64, 4, 4))]
    return Pair(
        classifier, nn.Sequential(*starts, *transposed, nn.ConvTranspose2d(8, 1, 3, 1, 1, bias=False), nn.Sigmoid())
    )
