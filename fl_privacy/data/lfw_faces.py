"""Labeled Faces in the Wild: who is it?"""

from __future__ import annotations

from pathlib import Path

from fl_privacy.data.base import DATASETS, DataSet, folder_of, missing
from fl_privacy.data.folder import labelled_folder


@DATASETS.register("lfw_faces", embedded=False, places=("lfw_faces",))
def lfw_faces(
    root: Path | None,
    *,
    size: int | None = None,
    grey: bool = False,
    test_share: float = 0.2,
    split_seed: int = 0,
) -> DataSet:
    """Faces of public persons, a class a person: the folders `lfw_faces/NAME` under `root`, whichever people they hold.

    Source: Huang et al., Labeled faces in the wild, 2007; Learning to align from scratch, 2012.
    """
    base = folder_of(root) / "lfw_faces"
    if not base.is_dir():
        third = "fetch LFW (deep-funneled) and keep the people with 20 images or more as lfw_faces/NAME/*.jpg"
        raise missing("lfw_faces", f"no folder {base}", third)
    return labelled_folder("lfw_faces", base, size, grey, test_share, split_seed)
