"""Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path

from fl_privacy.data.base import DATASETS, DataSet
from fl_privacy.data.torchvision_sets import image_set, splits


@DATASETS.register("fashion_mnist", embedded=False, places=("FashionMNIST/raw",))
def fashion_mnist(root: Path | None, *, size: int | None = None, download: bool = False) -> DataSet:
    """Clothing: 60,000 + 10,000 grey images of 28x28, 10 classes.

    Source: Xiao et al., Fashion-MNIST, 2017.
    """
    from torchvision.datasets import FashionMNIST  # slow to import, and only the sets that it reads need it

    parts = splits("fashion_mnist", FashionMNIST, root, download)
    train, test = (image_set(part.data, part.targets, size) for part in parts)
    return DataSet("fashion_mnist", train, test, 10)
