"""UTKFace: faces with age, gender and ethnicity in their file names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fl_privacy.data.base import DATASETS, DataSet, ImageSet, folder_of, missing
from fl_privacy.data.folder import class_split
from fl_privacy.data.image_files import image_files, read_images
from fl_privacy.seeding import stream
from fl_privacy.settings import UnknownName

PLACES = ("utkface64", "UTKFace", "utkface")
AGE_BOUNDS = (30, 45, 60)
"""Age groups: under 30, 30 to 44, 45 to 59, 60 and over."""


@dataclass(frozen=True)
class Person:
    """What a file name says: the age in years, and two codes.

    `gender` 0 male, 1 female; `ethnicity` 0 White, 1 Black, 2 Asian, 3 Indian, 4 others.
    """

    age: int
    gender: int
    ethnicity: int


def _is_ethnicity(number: int) -> Callable[[Person], bool]:
    return lambda person: person.ethnicity == number


def _is_aged(years: int) -> Callable[[Person], bool]:
    return lambda person: person.age >= years


ATTRIBUTES: dict[str, Callable[[Person], bool]] = {
    "female": lambda person: person.gender == 1,
    "white": _is_ethnicity(0),
    "black": _is_ethnicity(1),
    "asian": _is_ethnicity(2),
    "indian": _is_ethnicity(3),
    "other_ethnicity": _is_ethnicity(4),
    "age_25_plus": _is_aged(25),
    "age_30_plus": _is_aged(30),
    "age_35_plus": _is_aged(35),
    "age_45_plus": _is_aged(45),
    "age_60_plus": _is_aged(60),
}
"""Binary attributes by name. They are not independent: exactly one ethnicity holds, and the ages are nested."""

TARGETS: dict[str, tuple[Callable[[Person], int], int]] = {
    "gender": (lambda person: person.gender, 2),
    "ethnicity": (lambda person: person.ethnicity, 5),
    "age_group": (lambda person: sum(person.age >= bound for bound in AGE_BOUNDS), len(AGE_BOUNDS) + 1),
}


def person_of(file_name: str) -> Person | None:
    """The person in AGE_GENDER_ETHNICITY_DATE.jpg; None for a name of another form (the original set has a few)."""
    parts = re.match(r"(\d{1,3})_([01])_([0-4])_", file_name)
    return None if parts is None else Person(*map(int, parts.groups()))


def utk_attributes(file_names: Sequence[str], names: Sequence[str] = tuple(ATTRIBUTES)) -> Tensor:
    """The binary attributes `names` of every file, bool (N, K) in the order of `names`.

    Raises:
        UnknownName: no such attribute. ValueError: a file name of another form than AGE_GENDER_ETHNICITY_DATE.
    """
    unknown = [name for name in names if name not in ATTRIBUTES]
    if unknown:
        raise UnknownName(f"no attribute of utkface is called '{unknown[0]}'. Known: {', '.join(ATTRIBUTES)}.")
    rows = []
    for file_name in file_names:
        person = person_of(file_name)
        if person is None:
            raise ValueError(f"'{file_name}' is not of the form AGE_GENDER_ETHNICITY_DATE.jpg")
        rows.append([ATTRIBUTES[name](person) for name in names])
    return torch.tensor(rows, dtype=torch.bool).reshape(len(rows), len(names))


@DATASETS.register("utkface", embedded=False, places=PLACES)
def utkface(
    root: Path | None,
    *,
    target: Literal["gender", "ethnicity", "age_group"] = "gender",
    attributes: tuple[str, ...] = tuple(ATTRIBUTES),
    size: int | None = None,
    test_share: float = 0.2,
    split_seed: int = 0,
    mixed: bool = False,
) -> DataSet:
    """Colour faces labelled by `target`, with the binary `attributes` beside the labels.

    Reads every *.jpg below the first of `utkface64`, `UTKFace`, `utkface` that is there. The split does not depend on
    the target: it is drawn within every gender and ethnicity. The labels were partly made by a model and have errors.
    The files are in the order of their names, which is that of age; `mixed` shuffles both splits, so that a range of
    images is a sample of them.
    Source: Zhang, Song and Qi, Age progression/regression by conditional adversarial autoencoder, 2017.
    """
    paths, people = _people(folder_of(root))
    label_of, classes = TARGETS[target]
    everything = ImageSet(
        read_images(paths, size, grey=False),
        torch.tensor([label_of(person) for person in people]),
        utk_attributes([path.name for path in paths], attributes) if attributes else None,
    )
    strata = torch.tensor([5 * person.gender + person.ethnicity for person in people])
    train, test = class_split(strata, test_share, split_seed)
    if mixed:
        train, test = (part[torch.randperm(len(part), generator=stream(split_seed, "mixed"))] for part in (train, test))
    return DataSet("utkface", everything.chosen(train), everything.chosen(test), classes, attributes)


def _people(folder: Path) -> tuple[list[Path], list[Person]]:
    """The files in the order of their names, so that subfolders do not matter, and who is on them."""
    found = [folder / place for place in PLACES if (folder / place).is_dir()]
    files = [path for path in image_files(found[0]) if path.suffix == ".jpg"] if found else []
    files.sort(key=lambda path: path.name)
    pairs = [(path, person) for path in files if (person := person_of(path.name)) is not None]
    if not pairs:
        third = "fetch the aligned and cropped faces of the UTKFace project into UTKFace/ under the data folder"
        raise missing("utkface", f"no AGE_GENDER_ETHNICITY_DATE.jpg under {folder}/{{{','.join(PLACES)}}}", third)
    return [path for path, _ in pairs], [person for _, person in pairs]
