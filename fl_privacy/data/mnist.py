"""MNIST."""

from __future__ import annotations

from pathlib import Path

from fl_privacy.data.base import DATASETS, DataSet
from fl_privacy.data.torchvision_sets import image_set, splits


@DATASETS.register("mnist", embedded=False, places=("MNIST/raw",))
def mnist(root: Path | None, *, size: int | None = None, download: bool = False) -> DataSet:
    """Handwritten digits: 60,000 + 10,000 grey images of 28x28, 10 classes.

    Source: LeCun et al., Gradient-based learning applied to document recognition, 1998.
    """
    from torchvision.datasets import MNIST  # slow to import, and only the sets that it reads need it

    train, test = (image_set(part.data, part.targets, size) for part in splits("mnist", MNIST, root, download))
    return DataSet("mnist", train, test, 10)
