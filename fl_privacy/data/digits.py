"""The digits that scikit-learn ships: the one real set that needs no files and no network."""

from __future__ import annotations

from pathlib import Path

import torch

from fl_privacy.data.base import DATASETS, DataSet, ImageSet, resized

TEST_IMAGES = 360


@DATASETS.register("digits", embedded=True, places=())
def digits(root: Path | None, *, size: int | None = 32) -> DataSet:
    """Handwritten digits: 1,437 + 360 grey images of 8x8, enlarged to `size` by default 32, 10 classes.

    The last 360 are the test split. `root` is not used.
    Source: Alpaydin and Kaynak, Optical recognition of handwritten digits, 1998, its test part, from scikit-learn.
    """
    from sklearn.datasets import load_digits  # slow to import, and only this set needs it

    bunch = load_digits()
    levels = torch.from_numpy(bunch.images).float()[:, None]
    pixels = resized((levels / 16 * 255).round().to(torch.uint8), size)
    whole = ImageSet(pixels, torch.from_numpy(bunch.target).to(torch.int64))
    cut = len(whole) - TEST_IMAGES
    return DataSet("digits", whole.chosen(slice(None, cut)), whole.chosen(slice(cut, None)), 10)
