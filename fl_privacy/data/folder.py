"""Any folder of images, one subfolder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder

from fl_privacy.data.base import DATASETS, DataSet, ImageSet, missing, resized
from fl_privacy.seeding import stream


@DATASETS.register("folder", embedded=False, places=())
def folder(
    root: Path | None,
    *,
    path: str = "",
    size: int | None = None,
    grey: bool = False,
    test_share: float = 0.2,
    split_seed: int = 0,
) -> DataSet:
    """The images of `root`/`path`, one subfolder a class (classes in the order of their names), grey or colour.

    Where that folder has `train` and `test`, these are the splits; otherwise `test_share` of every class is drawn for
    the test by `split_seed`. `size` scales to a square, whatever the aspect; None keeps the size that all share.

    Raises:
        MissingData: no such folder. ValueError: no images in it, sizes that differ, a share outside (0, 1).
    """
    base = (root or Path()) / path
    if not base.is_dir():
        raise missing("folder", f"no folder {base}", "name it by --set dataset.path=FOLDER, one subfolder a class")
    if (base / "train").is_dir() and (base / "test").is_dir():
        return _given_splits(base, size, grey)
    return labelled_folder(base.name, base, size, grey, test_share, split_seed)


def labelled_folder(name: str, base: Path, size: int | None, grey: bool, test_share: float, split_seed: int) -> DataSet:
    """The ImageFolder `base` as a data set, split within every class."""
    paths, labels, classes = listed(base)
    everything = ImageSet(read_images(paths, size, grey), labels)
    train, test = class_split(labels, test_share, split_seed)
    return DataSet(name, everything.chosen(train), everything.chosen(test), len(classes))


def read_images(paths: Sequence[Path], size: int | None, grey: bool) -> Tensor:
    """The image files as bytes (N, 1 or 3, H, W).

    Raises:
        ValueError: the images are of several sizes and `size` is None.
    """
    images = []
    for path in paths:
        with Image.open(path) as image:
            array = np.array(image.convert("L" if grey else "RGB"))
        pixels = torch.from_numpy(array)
        images.append(resized(pixels[None, None] if grey else pixels.permute(2, 0, 1)[None], size))
    sizes = sorted({tuple(image.shape[-2:]) for image in images})
    if len(sizes) > 1:
        raise ValueError(f"the images are of several sizes, {sizes[0]} to {sizes[-1]}: set dataset.size, such as 64")
    return torch.cat(images)


def class_split(labels: Tensor, test_share: float, split_seed: int) -> tuple[Tensor, Tensor]:
    """Sorted train and test indices, drawn within every class.

    Of n images round(n * test_share) go to the test, but at least one stays on either side; a single one is trained on.

    Raises:
        ValueError: `test_share` outside (0, 1).
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must lie between 0 and 1, not {test_share}")
    rng = stream(split_seed, "test split")
    train, test = [], []
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=rng)]
        count = min(max(round(len(members) * test_share), 1), len(members) - 1)
        test.append(members[:count])
        train.append(members[count:])
    return torch.cat(train).sort().values, torch.cat(test).sort().values


def listed(base: Path) -> tuple[list[Path], Tensor, list[str]]:
    """The image files of an ImageFolder, their labels (N,), and the names of the classes."""
    try:
        tree = ImageFolder(str(base))
    except FileNotFoundError as error:
        raise ValueError(f"{base} is not a folder of images with one subfolder a class: {error}") from error
    return [Path(path) for path, _ in tree.samples], torch.tensor(tree.targets), tree.classes


def _given_splits(base: Path, size: int | None, grey: bool) -> DataSet:
    parts, names = [], []
    for split in ("train", "test"):
        paths, labels, classes = listed(base / split)
        parts.append(ImageSet(read_images(paths, size, grey), labels))
        names.append(classes)
    if names[0] != names[1]:
        raise ValueError(f"{base}: train has the classes {names[0]}, test has {names[1]}")
    return DataSet(base.name, parts[0], parts[1], len(names[0]))
