"""CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import torch

from fl_privacy.data.base import DATASETS, DataSet
from fl_privacy.data.torchvision_sets import image_set, splits


@DATASETS.register("cifar10", embedded=False, places=("cifar-10-batches-py",))
def cifar10(root: Path | None, *, size: int | None = None, download: bool = False) -> DataSet:
    """Small photographs: 50,000 + 10,000 colour images of 32x32, 10 classes.

    torchvision unpickles the files, after it has compared their MD5 sums with the published ones.
    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    from torchvision.datasets import CIFAR10  # slow to import, and only the sets that it reads need it

    parts = splits("cifar10", CIFAR10, root, download)
    train, test = (image_set(torch.from_numpy(part.data), part.targets, size) for part in parts)
    return DataSet("cifar10", train, test, 10)
