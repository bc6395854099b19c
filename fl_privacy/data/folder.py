"""Any folder of images, one subfolder a class."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fl_privacy.data.base import DATASETS, DataSet, ImageSet, missing
from fl_privacy.data.image_files import SUFFIXES, image_files, is_hidden, read_images
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
    the test by `split_seed`. `size` scales to a square, whatever the aspect; None keeps the size that all share. Hidden
    and empty folders are no classes; files are read as `image_files.read_images` says, transparent pixels on white.

    Raises:
        MissingData: no such folder. ValueError: no images in it, one that cannot be read (by its path), sizes that
            differ, a share outside (0, 1).
    """
    base = (root or Path()) / path
    if not base.is_dir():
        raise missing("folder", f"no folder {base}", "name it by --set dataset.path=FOLDER, one subfolder a class")
    if (base / "train").is_dir() and (base / "test").is_dir():
        return _given_splits(base, size, grey)
    return labelled_folder(base.name, base, size, grey, test_share, split_seed)


def labelled_folder(name: str, base: Path, size: int | None, grey: bool, test_share: float, split_seed: int) -> DataSet:
    """The class folders in `base` as a data set, split within every class."""
    paths, labels, classes = listed(base)
    everything = ImageSet(read_images(paths, size, grey), labels)
    train, test = class_split(labels, test_share, split_seed)
    return DataSet(name, everything.chosen(train), everything.chosen(test), len(classes))


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
    """The image files of the class folders in `base`, their labels (N,), and the names of the classes.

    A class is a visible folder that holds an image. What is hidden, empty, or holds other files only is none.

    Raises:
        ValueError: no such folder.
    """
    places = sorted(place for place in base.iterdir() if place.is_dir() and not is_hidden(place.name))
    found = {place.name: files for place in places if (files := list(image_files(place)))}
    if not found:
        raise ValueError(
            f"{base} is not a folder of images with one subfolder a class: no file in any subfolder of it ends in "
            f"{', '.join(SUFFIXES)}"
        )
    labels = [label for label, files in enumerate(found.values()) for _ in files]
    return [path for files in found.values() for path in files], torch.tensor(labels), list(found)


def _given_splits(base: Path, size: int | None, grey: bool) -> DataSet:
    parts, names = [], []
    for split in ("train", "test"):
        paths, labels, classes = listed(base / split)
        parts.append(ImageSet(read_images(paths, size, grey), labels))
        names.append(classes)
    if names[0] != names[1]:
        raise ValueError(f"{base}: train has the classes {names[0]}, test has {names[1]}")
    return DataSet(base.name, parts[0], parts[1], len(names[0]))
