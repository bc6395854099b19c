"""The digits that scikit-learn ships: the one real set that needs no files and no network."""

from __future__ import annotations

import gzip
import importlib.util
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fl_privacy.data.base import DATASETS, DataSet, ImageSet, resized

TEST_IMAGES = 360


@DATASETS.register("digits", embedded=True, places=())
def digits(root: Path | None, *, size: int | None = 32) -> DataSet:
    """Handwritten digits: 1,437 + 360 grey images of 8x8, enlarged to `size` by default 32, 10 classes.

    The last 360 are the test split. `root` is not used.
    Source: Alpaydin and Kaynak, Optical recognition of handwritten digits, 1998, its test part, from scikit-learn.
    """
    levels, labels = _shipped()
    whole = ImageSet(resized((levels / 16 * 255).round().to(torch.uint8), size), labels)
    cut = len(whole) - TEST_IMAGES
    return DataSet("digits", whole.chosen(slice(None, cut)), whole.chosen(slice(cut, None)), 10)


@cache
def _shipped() -> tuple[Tensor, Tensor]:
    """Grey levels (N, 1, 8, 8) from 0 to 16, and labels (N,): the file that scikit-learn's `load_digits` reads."""
    spec = importlib.util.find_spec("sklearn")  # its import takes a second, in every process
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "the data set 'digits' is a file of scikit-learn, which is not installed: pip install scikit-learn"
        )
    path = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    with gzip.open(path, "rt", encoding="ascii") as file:
        numbers = torch.tensor([[int(float(cell)) for cell in line.split(",")] for line in file])
    return numbers[:, :-1].view(-1, 1, 8, 8).float(), numbers[:, -1].clone()
