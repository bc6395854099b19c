"""The ORL (AT&T) faces: who is it?"""

from __future__ import annotations

from pathlib import Path

from fl_privacy.data.base import DATASETS, DataSet, folder_of, missing
from fl_privacy.data.folder import labelled_folder


@DATASETS.register("orl_faces", embedded=False, places=("orl_faces",))
def orl_faces(root: Path | None, *, size: int | None = None, test_share: float = 0.2, split_seed: int = 0) -> DataSet:
    """40 people, 10 grey images of 92x112 each, a class a person: `orl_faces/s1` ... `s40` under `root`.

    Classes are in the order of the folders' names as text, so s10 comes before s2.
    Source: Samaria and Harter, Parameterisation of a stochastic model for human face identification, 1994.
    """
    base = folder_of(root) / "orl_faces"
    if not base.is_dir():
        third = "fetch the AT&T Database of Faces as orl_faces/s1 ... s40/*.pgm"
        raise missing("orl_faces", f"no folder {base}", third)
    return labelled_folder("orl_faces", base, size, True, test_share, split_seed)
