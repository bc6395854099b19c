"""CIFAR-100, whole or as a subset."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from fl_privacy.data.base import DATASETS, DataSet, folder_of
from fl_privacy.data.torchvision_sets import image_set, splits

SUBSET_FOLDER = "cifar-100-subset"


@DATASETS.register("cifar100", embedded=False, places=("cifar-100-python", SUBSET_FOLDER))
def cifar100(
    root: Path | None,
    *,
    part: Literal["any", "full", "subset"] = "any",
    size: int | None = None,
    download: bool = False,
) -> DataSet:
    """Small photographs: 50,000 (or 10,000, see `part`) + 10,000 colour images of 32x32, 100 classes.

    `part` "any" takes the whole set unless only the subset is there and no download was asked for; the name of the
    returned set, "cifar100" or "cifar100_subset", tells which it is. Source: Krizhevsky 2009.
    """
    from torchvision.datasets import CIFAR100  # slow to import, and only the sets that it reads need it

    class CIFAR100Subset(CIFAR100):  # type: ignore[misc]  # torchvision is untyped
        """100 training images a class and all 10,000 test images, in torchvision's layout under `cifar-100-subset`."""

        base_folder = SUBSET_FOLDER
        train_list = (("train", "714a8f03e1202b8863b1a4ecd4cb9cfb"),)
        test_list = (("test", "28c871c1f54bc96dd81123185552363f"),)

    folder = folder_of(root)
    only_subset = (folder / SUBSET_FOLDER).is_dir() and not (folder / "cifar-100-python").is_dir()
    subset = part == "subset" or (part == "any" and only_subset and not download)
    parts = splits("cifar100", CIFAR100Subset if subset else CIFAR100, root, download and not subset)
    train, test = (image_set(torch.from_numpy(split.data), split.targets, size) for split in parts)
    return DataSet("cifar100_subset" if subset else "cifar100", train, test, 100)
