"""RetinaMNIST: grades of diabetic retinopathy."""

from __future__ import annotations

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from fl_privacy.data.base import DATASETS, DataSet, ImageSet, folder_of, missing
from fl_privacy.data.torchvision_sets import image_set

PLACES = ("medmnist/retinamnist.npz", "retinamnist.npz")


@DATASETS.register("retina", embedded=False, places=PLACES)
def retina(root: Path | None, *, size: int | None = None) -> DataSet:
    """Photographs of the retina: 1,080 + 400 colour images of 28x28, 5 grades; the 120 for validation are left out.

    Source: Yang et al., MedMNIST v2, 2023, set RetinaMNIST (from DeepDRiD).

    Raises:
        MissingData: the file is not there. ValueError: it is damaged (by its path).
    """
    found = [folder_of(root) / place for place in PLACES if (folder_of(root) / place).is_file()]
    if not found:
        third = "fetch retinamnist.npz of MedMNIST (doi 10.5281/zenodo.10519652) into medmnist/ under the data folder"
        raise missing("retina", f"no {' or '.join(PLACES)} in {folder_of(root)}", third)
    try:
        with np.load(found[0], allow_pickle=False) as arrays:
            train, test = (
                _split(arrays[f"{part}_images"], arrays[f"{part}_labels"], size) for part in ("train", "test")
            )
    except (OSError, ValueError, KeyError, EOFError, AttributeError, RuntimeError, BadZipFile, zlib.error) as error:
        raise ValueError(f"{found[0]} cannot be read as RetinaMNIST: {error}. Fetch it anew") from error
    return DataSet("retina", train, test, 5)


def _split(images: np.ndarray, labels: np.ndarray, size: int | None) -> ImageSet:
    return image_set(torch.from_numpy(images), torch.from_numpy(labels.reshape(-1)), size)
