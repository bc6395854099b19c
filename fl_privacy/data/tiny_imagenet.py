"""Tiny ImageNet, for a user who has it."""

from __future__ import annotations

from pathlib import Path

import torch

from fl_privacy.data.base import DATASETS, DataSet, ImageSet, folder_of, missing
from fl_privacy.data.folder import listed
from fl_privacy.data.image_files import read_images


@DATASETS.register("tiny_imagenet", embedded=False, places=("tiny-imagenet-200",))
def tiny_imagenet(root: Path | None, *, size: int | None = None) -> DataSet:
    """Photographs: 100,000 + 10,000 colour images of 64x64, 200 classes, in the published archive's layout.

    The test split is the published validation split, whose labels are known.
    Source: Le and Yang, Tiny ImageNet visual recognition challenge, 2015.
    """
    base = folder_of(root) / "tiny-imagenet-200"
    if not base.is_dir():
        third = "unpack tiny-imagenet-200.zip of Stanford's CS231n into the data folder"
        raise missing("tiny_imagenet", f"no folder {base}", third)
    paths, labels, classes = listed(base / "train")
    table = base / "val" / "val_annotations.txt"
    rows = [line.split("\t")[:2] for line in table.read_text().splitlines()]
    strange = [row for row in rows if len(row) != 2 or row[1] not in classes]
    if strange:
        raise ValueError(f"{table} names no image and class of {base / 'train'} in the line {strange[0]}")
    train = ImageSet(read_images(paths, size, grey=False), labels)
    test = ImageSet(
        read_images([base / "val" / "images" / file for file, _ in rows], size, grey=False),
        torch.tensor([classes.index(label) for _, label in rows]),
    )
    return DataSet("tiny_imagenet", train, test, len(classes))
