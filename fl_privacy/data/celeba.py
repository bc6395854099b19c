"""CelebA, for a user who has it."""

from __future__ import annotations

from pathlib import Path

import torch

from fl_privacy.data.base import DATASETS, DataSet, ImageSet, folder_of, missing
from fl_privacy.data.image_files import read_images
from fl_privacy.settings import UnknownName

TRAIN, TEST = "0", "2"
"""The codes of list_eval_partition.txt; 1 is the validation split, which is left out."""


@DATASETS.register("celeba", embedded=False, places=("celeba",))
def celeba(
    root: Path | None,
    *,
    target: str = "Male",
    attributes: tuple[str, ...] = (),
    size: int | None = 64,
    limit: int | None = None,
) -> DataSet:
    """Colour faces of the celebrities, labelled by the attribute `target`, 0 or 1, with `attributes` beside the labels.

    Reads torchvision's layout: `celeba/img_align_celeba/*.jpg`, `celeba/list_attr_celeba.txt` and
    `celeba/list_eval_partition.txt`. No `attributes` means all 40; `limit` keeps the first images of either split.
    Source: Liu et al., Deep learning face attributes in the wild, 2015.

    Raises:
        UnknownName: no such attribute.
    """
    base = folder_of(root) / "celeba"
    tables = [base / "list_attr_celeba.txt", base / "list_eval_partition.txt"]
    if not all(table.is_file() for table in tables):
        third = "fetch the aligned images and the two lists of the CelebA project into celeba/ under the data folder"
        raise missing("celeba", f"no {tables[0].name} and {tables[1].name} in {base}", third)
    known, rows, part_of = _tables(*tables)
    attributes = attributes or tuple(known)
    for name in (target, *attributes):
        if name not in known:
            raise UnknownName(f"no attribute of celeba is called '{name}'. Known: {', '.join(known)}.")
    columns = [known.index(name) for name in (target, *attributes)]
    train, test = (
        _split(base, [row for row in rows if part_of[row[0]] == part][:limit], columns, size) for part in (TRAIN, TEST)
    )
    return DataSet("celeba", train, test, 2, attributes)


def _tables(attributes: Path, partition: Path) -> tuple[list[str], list[list[str]], dict[str, str]]:
    """The attributes' names, the rows of file names and values, and the split of every file.

    Raises:
        ValueError: a table of another form, by its path.
    """
    _, header, *lines = [*attributes.read_text().splitlines(), "", ""]
    known, rows = header.split(), [line.split() for line in lines if line.strip()]
    if not rows or any(len(row) != 1 + len(known) for row in rows):
        raise ValueError(
            f"{attributes} has not, below a count and {len(known)} names, a file and as many values a line"
        )
    pairs = [line.split() for line in partition.read_text().splitlines()]
    part_of = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    absent = [row[0] for row in rows if row[0] not in part_of]
    if absent:
        raise ValueError(f"{partition} does not say of which split {absent[0]} is, which {attributes} lists")
    return known, rows, part_of


def _split(base: Path, rows: list[list[str]], columns: list[int], size: int | None) -> ImageSet:
    """`rows` are file names and the 40 values "1" or "-1"; the first of `columns` is the label."""
    flags = torch.tensor([[row[1 + column] == "1" for column in columns] for row in rows])
    pixels = read_images([base / "img_align_celeba" / row[0] for row in rows], size, grey=False)
    return ImageSet(pixels, flags[:, 0].long(), flags[:, 1:])
