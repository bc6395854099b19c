"""Data sets read from folders of image files: made-up trees, whose labels and attributes are known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from trees import noise, picture

from fl_privacy import data
from fl_privacy.data.folder import class_split
from fl_privacy.data.utkface import ATTRIBUTES
from fl_privacy.settings import UnknownName


def test_folder_reads_grey_and_colour_by_class_name(root_of):
    root = root_of("folder")
    colour = data.load("folder", root, {"path": "mine"})
    grey = data.load("folder", None, {"path": str(root / "mine"), "grey": True})
    assert colour.image_shape == (3, 9, 12)
    assert grey.image_shape == (1, 9, 12)
    assert (len(colour.train), len(colour.test), colour.classes) == (10, 2, 2)
    truth = torch.from_numpy(np.array(Image.open(root / "mine" / "a" / "a_0.png"))).permute(2, 0, 1)
    everything = torch.cat([colour.train.pixels, colour.test.pixels])
    labels = torch.cat([colour.train.labels, colour.test.labels])
    assert labels[(everything == truth).flatten(1).all(1)].tolist() == [0], "class 0 is 'a'"


def test_folder_takes_given_splits(tmp_path):
    for split, seed in (("train", 0), ("test", 1)):
        for label in ("a", "b"):
            picture(tmp_path / split / label / "x.png", seed, 8, 8)
    found = data.load("folder", tmp_path, {"grey": True})
    assert torch.equal(found.train.pixels[0, 0], torch.from_numpy(noise(0, 8, 8)))
    assert torch.equal(found.test.pixels[0, 0], torch.from_numpy(noise(1, 8, 8)))
    picture(tmp_path / "test" / "c" / "x.png", 3, 8, 8)
    with pytest.raises(ValueError, match=r"test has \['a', 'b', 'c'\]"):
        data.load("folder", tmp_path, {})


def test_folder_errors_teach(tmp_path, root_of):
    root = root_of("folder")
    picture(root / "mine" / "a" / "wide.png", 5, 9, 40, 3)
    with pytest.raises(ValueError, match=r"several sizes.*set dataset.size"):
        data.load("folder", root, {"path": "mine"})
    assert data.load("folder", root, {"path": "mine", "size": 8}).image_shape == (3, 8, 8)
    with pytest.raises(ValueError, match="between 0 and 1, not 1"):
        data.load("folder", root, {"path": "mine", "size": 8, "test_share": 1})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="one subfolder a class"):
        data.load("folder", root, {"path": "empty"})


def test_the_split_seed_matters_and_every_class_is_on_both_sides():
    labels = torch.arange(60) % 3
    train, test = class_split(labels, 0.25, 0)
    assert torch.equal(torch.cat([train, test]).sort().values, torch.arange(60))
    assert labels[test].bincount().tolist() == [5, 5, 5]
    assert not torch.equal(test, class_split(labels, 0.25, 1)[1])
    train, test = class_split(torch.tensor([0, 0, 1]), 0.01, 0)
    assert (len(train), len(test)) == (2, 1)


def test_utkface_targets_and_attributes(root_of):
    root = root_of("utkface")
    by = {
        target: data.load("utkface", root, {"target": target, "test_share": 0.25})
        for target in ("gender", "ethnicity", "age_group")
    }
    assert {target: found.classes for target, found in by.items()} == {"gender": 2, "ethnicity": 5, "age_group": 4}
    found = by["gender"]
    assert len(found.train) + len(found.test) == 40, "the malformed name is left out"
    assert all(torch.equal(found.test.pixels, other.test.pixels) for other in by.values())
    columns = dict(zip(found.attributes, found.train.attributes.T, strict=True))
    assert torch.equal(columns["female"].long(), found.train.labels)
    assert torch.equal(columns["asian"], by["ethnicity"].train.labels == 2)
    assert torch.equal(columns["age_30_plus"], by["age_group"].train.labels >= 1)
    few = data.load("utkface", root, {"attributes": ["age_60_plus", "female"]})
    assert few.attributes == ("age_60_plus", "female")
    assert few.train.attributes.shape == (len(few.train), 2)


def test_utk_attributes_by_hand():
    names = ["18_0_0_2017.jpg", "45_1_3_2017.jpg.chip.jpg", "116_1_4_2017.jpg"]
    chosen = ["female", "indian", "other_ethnicity", "age_30_plus", "age_45_plus", "age_60_plus"]
    expected = [[0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0], [1, 0, 1, 1, 1, 1]]
    assert data.utk_attributes(names, chosen).int().tolist() == expected
    assert data.utk_attributes(names).shape == (3, len(ATTRIBUTES))
    with pytest.raises(UnknownName, match="no attribute of utkface is called 'tall'"):
        data.utk_attributes(names, ["tall"])
    with pytest.raises(ValueError, match="AGE_GENDER_ETHNICITY"):
        data.utk_attributes(["61_1_20170109.jpg"])


def test_celeba_splits_and_attributes(root_of):
    root = root_of("celeba")
    found = data.load("celeba", root, {"target": "Male", "attributes": ["Young", "Smiling"], "size": None})
    assert (len(found.train), len(found.test)) == (4, 4)
    assert found.image_shape == (3, 30, 20)
    assert found.train.labels.tolist() == [0, 1, 0, 1], "images 0, 3, 6, 9"
    assert found.test.labels.tolist() == [0, 1, 0, 1], "images 2, 5, 8, 11"
    assert found.test.attributes.int().tolist() == [[0, 0], [0, 0], [0, 1], [0, 1]]
    assert len(data.load("celeba", root, {"target": "Smiling", "limit": 3}).train) == 3
    assert data.load("celeba", root, {}).attributes == ("Smiling", "Male", "Young")
    with pytest.raises(UnknownName, match="Known: Smiling, Male, Young"):
        data.load("celeba", root, {"target": "male"})


def test_tiny_imagenet_labels_are_those_of_the_training_folders(root_of):
    found = data.load("tiny_imagenet", root_of("tiny_imagenet"), {})
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.test.labels.tolist() == [0, 1, 0, 1]
