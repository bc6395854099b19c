"""EMNIST letters."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fl_privacy.data.base import DATASETS, DataSet
from fl_privacy.data.torchvision_sets import image_set, splits


@DATASETS.register("emnist", embedded=False, places=("EMNIST/raw/emnist-letters-train-images-idx3-ubyte",))
def emnist(root: Path | None, *, size: int | None = None, download: bool = False) -> DataSet:
    """Handwritten letters, both cases as one class: 124,800 + 20,800 grey images of 28x28, 26 classes.

    The files hold every image transposed and the labels from 1; both are put right here.
    Source: Cohen et al., EMNIST, 2017, split "letters".
    """
    from torchvision.datasets import EMNIST  # slow to import, and only the sets that it reads need it

    parts = splits("emnist", partial(EMNIST, split="letters"), root, download)
    train, test = (image_set(part.data.transpose(1, 2), part.targets - 1, size) for part in parts)
    return DataSet("emnist", train, test, 26)
