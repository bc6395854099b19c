"""Every data set: range, shapes, labels, determinism, disjoint splits; known answers where the real set is there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from trees import SETTINGS, TREES, idx, noise

from fl_privacy import data
from fl_privacy.settings import UnknownName

DOWNLOADABLE = ("mnist", "fashion_mnist", "emnist", "cifar10", "cifar100")


def rows(part: data.ImageSet) -> set[bytes]:
    return {hashlib.sha256(image.numpy().tobytes()).digest() for image in part.pixels}


@pytest.mark.parametrize("name", list(data.DATASETS))
def test_conformance(name, root_of):
    root = root_of(name)
    found, again = (data.load(name, root, SETTINGS.get(name, {})) for _ in range(2))
    assert data.DATASETS.summary(name)
    for part, same in ((found.train, again.train), (found.test, again.test)):
        images = part.images(slice(0, 200))
        assert images.dtype == torch.float32
        assert 0 <= images.min() < images.max() <= 1
        assert images.shape[1:] == found.image_shape
        assert found.image_shape[0] in (1, 3)
        assert part.labels.dtype == torch.int64
        assert 0 <= part.labels.min() <= part.labels.max() < found.classes
        assert torch.equal(part.pixels, same.pixels)
        assert torch.equal(part.labels, same.labels)
    assert set(found.train.labels.tolist()) == set(range(found.classes)), "every class is trained on"


@pytest.mark.parametrize("name", sorted(TREES))
def test_no_image_is_in_both_splits(name, root_of):
    """The made-up images are all different, so a shared one would be the same file."""
    found = data.load(name, root_of(name), SETTINGS.get(name, {}))
    assert not rows(found.train) & rows(found.test)


@pytest.mark.parametrize("name", [name for name in sorted(TREES) if name != "folder"])
def test_size_gives_squares_and_availability_follows_the_folder(name, root_of, tmp_path):
    assert data.available(name, tmp_path / "nowhere") == data.DATASETS.facts(name)["embedded"]
    root = root_of(name)
    assert data.available(name, root)
    assert data.load(name, root, SETTINGS.get(name, {}) | {"size": 10}).image_shape[1:] == (10, 10)


@pytest.mark.parametrize("name", [name for name in data.DATASETS if not data.DATASETS.facts(name)["embedded"]])
def test_a_missing_set_says_the_three_ways(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for root in (tmp_path, None):
        settings = {"path": str(tmp_path / "absent")} if name == "folder" else {}
        with pytest.raises(data.MissingData) as caught:
            data.load(name, root, settings)
        text = str(caught.value)
        assert f"'{name}'" in text
        assert str(tmp_path) in text
        for way in ("(1) point --data-root", "(2) set FL_PRIVACY_DATA", "(3) "):
            assert way in text
        assert ("dataset.download=true" in text) == (name in DOWNLOADABLE)
    assert not (tmp_path / "cache").exists(), "looking must not create folders"


def test_a_download_without_a_root_goes_to_the_cache_and_its_failure_teaches(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def refuse(self):
        raise RuntimeError(f"no network for {self.root}")

    monkeypatch.setattr(MNIST, "download", refuse)
    with pytest.raises(data.MissingData, match=r"no network for .*fl-privacy/data"):
        data.load("mnist", None, {"download": True})


def test_data_root_prefers_what_was_given(monkeypatch):
    monkeypatch.setenv("FL_PRIVACY_DATA", "/from/environment")
    assert data.data_root("/given") == Path("/given")
    assert data.data_root() == Path("/from/environment")
    monkeypatch.delenv("FL_PRIVACY_DATA")
    assert data.data_root("") is None


def test_settings_are_checked():
    with pytest.raises(UnknownName, match=r"no data set is called 'minst'. Did you mean 'mnist'"):
        data.load("minst", None, {})
    with pytest.raises(UnknownName, match=r"'sice'. Did you mean 'size'"):
        data.load("digits", None, {"sice": 16})
    with pytest.raises(UnknownName, match="'root' of data set 'digits' is given by the suite"):
        data.load("digits", None, {"root": "/tmp"})
    with pytest.raises(ValueError, match="'size' takes a whole number or nothing, not 'big'"):
        data.load("digits", None, {"size": "big"})
    with pytest.raises(ValueError, match="at least 1 pixel"):
        data.load("digits", None, {"size": 0})
    with pytest.raises(ValueError, match="'target' takes one of 'gender'"):
        data.load("utkface", None, {"target": "age"})


def own_set(root: Path | None, *, count: int = 4) -> data.DataSet:
    """A user's loader."""
    pair = (torch.zeros(count, 1, 4, 4), torch.arange(count) % 2)
    return data.from_tensors("own", pair, pair, 2)


def test_a_users_own_loader():
    assert len(data.load("test_data:own_set", None, {"count": 6}).train) == 6
    with pytest.raises(UnknownName, match="cannot import"):
        data.load("test_data:absent", None, {})


def broken(root):
    raise RuntimeError("boom")


def without_arguments():
    return None


def pair(root):
    return torch.zeros(1), torch.zeros(1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", r"broken' cannot be loaded: called with the data folder \(None\).*RuntimeError: boom"),
        ("without_arguments", r"without_arguments' cannot be loaded: .*TypeError"),
        ("pair", r"pair' is a tuple, and must be a DataSet: .*from_tensors\("),
    ],
)
def test_a_users_loader_that_fails_is_named(name, words):
    with pytest.raises(ValueError, match=words):
        data.load(f"{__name__}:{name}", None, {})


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    raw = load_digits()
    found = data.load("digits", None, {"size": 8})
    pixels = torch.cat([found.train.pixels, found.test.pixels])
    assert (len(found.train), len(found.test)) == (1437, 360)
    assert np.array_equal((pixels[:, 0].double() / 255 * 16).round().numpy(), raw.images)
    assert data.load("digits", None, {}).image_shape == (1, 32, 32)


def test_emnist_images_are_turned_upright_and_labels_start_at_zero(root_of, tmp_path):
    root = root_of("emnist")
    upright = noise(7, 26, 28, 28)
    raw = tmp_path / "EMNIST" / "raw"
    idx(raw / "emnist-letters-train-images-idx3-ubyte", upright.transpose(0, 2, 1))
    idx(raw / "emnist-letters-train-labels-idx1-ubyte", 1 + np.arange(26))
    found = data.load("emnist", root, {})
    assert np.array_equal(found.train.pixels[:, 0].numpy(), upright)
    assert found.train.labels.tolist() == list(range(26))
    assert found.classes == 26


def test_glyphs_are_balanced_and_their_seed_matters():
    first, other = (data.load("glyphs", None, {"train_images": 260, "glyph_seed": seed}) for seed in (0, 1))
    assert first.train.labels.bincount().tolist() == [10] * 26
    assert not torch.equal(first.train.pixels, other.train.pixels)
    still = data.load("glyphs", None, {"train_images": 52, "degrees": 0, "shift": 0}).train
    border = torch.ones(28, 28, dtype=torch.bool)
    border[2:26, 2:26] = False
    assert int(still.pixels[:, 0, border].max()) == 0, "20 pixels scaled by at most 1.15 stay in the middle"
    with pytest.raises(ValueError, match="at least"):
        data.load("glyphs", None, {"degrees": -1.0})


def test_glyphs_can_be_read():
    """A linear classifier that saw only the training letters reads the test letters far above chance (1 in 26)."""
    from sklearn.linear_model import RidgeClassifier

    found = data.load("glyphs", None, {"train_images": 2600, "test_images": 520, "size": 14})
    flat = [part.images().flatten(1).numpy() for part in (found.train, found.test)]
    reader = RidgeClassifier(alpha=10.0).fit(flat[0], found.train.labels.numpy())
    assert reader.score(flat[1], found.test.labels.numpy()) > 0.4


def test_from_tensors_keeps_bytes_and_refuses_what_is_no_image():
    labels = torch.tensor([0, 1], dtype=torch.int32)
    levels = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    made = data.from_tensors("mine", (levels.float() / 255, labels), (levels, labels), 2)
    assert torch.equal(made.train.pixels, levels)
    assert torch.equal(made.train.pixels, made.test.pixels)
    good = (levels, labels)
    for bad in (levels.float(), torch.full((2, 3, 4, 4), float("nan")), -levels.float() / 255):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            data.from_tensors("mine", (bad, labels), good, 2)
    with pytest.raises(ValueError, match="outside 0 to 0"):
        data.from_tensors("mine", good, good, 1)
    with pytest.raises(ValueError, match="labels must be integers"):
        data.from_tensors("mine", (levels, labels.float()), good, 2)
    with pytest.raises(ValueError, match=r"labels must be int64 \(2,\), not int64 \(1,\)"):
        data.from_tensors("mine", (levels, labels[:1]), good, 2)
    with pytest.raises(ValueError, match=r"uint8 \(N, C, H, W\), not uint8 \(3, 4, 4\)"):
        data.from_tensors("mine", (levels[0], labels), good, 2)
    with pytest.raises(ValueError, match="to train with and"):
        data.from_tensors("mine", good, (levels[:, :1], labels), 2)
    with pytest.raises(ValueError, match="the test split of 'mine' is empty"):
        data.from_tensors("mine", good, (levels[:0], labels[:0]), 2)


def test_resized_keeps_a_constant_and_the_mean():
    flat = torch.full((2, 1, 28, 28), 77, dtype=torch.uint8)
    assert torch.equal(data.resized(flat, 32), torch.full((2, 1, 32, 32), 77, dtype=torch.uint8))
    noisy = torch.from_numpy(noise(0, 4, 3, 32, 32))
    halved = noisy.float().view(4, 3, 16, 2, 16, 2).mean((3, 5))
    assert (data.resized(noisy, 16).float().mean() - halved.mean()).abs() < 1
    assert data.resized(noisy, None) is noisy


KNOWN = {  # set: (train, test, classes, shape, labels of the first five training images, test images of each class)
    "mnist": (60000, 10000, 10, (1, 28, 28), [5, 0, 4, 1, 9], [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    "fashion_mnist": (60000, 10000, 10, (1, 28, 28), [9, 0, 0, 3, 0], [1000] * 10),
    "cifar10": (50000, 10000, 10, (3, 32, 32), [6, 9, 9, 4, 1], [1000] * 10),
    "retina": (1080, 400, 5, (3, 28, 28), None, [174, 46, 92, 68, 20]),
    "orl_faces": (320, 80, 40, (1, 112, 92), [0, 0, 0, 0, 0], [2] * 40),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_real_sets_have_their_published_counts(name, data_root):
    found = data.load(name, data_root(name), {})
    train, test, classes, shape, first, counts = KNOWN[name]
    assert (len(found.train), len(found.test), found.classes, found.image_shape) == (train, test, classes, shape)
    assert first is None or found.train.labels[:5].tolist() == first
    assert found.test.labels.bincount().tolist() == counts


def test_cifar100_whole_or_subset(data_root):
    root = data_root("cifar100")
    found = data.load("cifar100", root, {})
    each = {"cifar100": 500, "cifar100_subset": 100}[found.name]
    assert found.train.labels.bincount().tolist() == [each] * 100
    assert found.test.labels.bincount().tolist() == [100] * 100
    absent = "full" if found.name == "cifar100_subset" else "subset"
    if not (root / {"full": "cifar-100-python", "subset": "cifar-100-subset"}[absent]).exists():
        with pytest.raises(data.MissingData):
            data.load("cifar100", root, {"part": absent})


def test_cifar_files_with_other_bytes_are_refused(tmp_path):
    """torchvision unpickles them, so nothing but the published bytes may reach it."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(data.MissingData, match="corrupted"):
        data.load("cifar10", tmp_path, {})


def test_arrays_orders_and_missing_pixels_are_each_named():
    labels = torch.tensor([0, 1])
    good = (torch.zeros(2, 3, 8, 8), labels)
    for bad, words in (
        ((torch.zeros(2, 8, 8, 3), labels), r"\(N, H, W, C\).*permute\(0, 3, 1, 2\)"),
        ((torch.zeros(2, 8, 8, 1), labels), r"\(N, H, W, C\)"),
        ((torch.full((2, 3, 8, 8), float("nan")), labels), "some pixels are NaN"),
        ((torch.full((2, 3, 8, 8), 255.0), labels), "divide bytes by 255"),
        ((torch.zeros(2, 3, 8, 8).numpy(), labels), "images must be a torch tensor, not ndarray"),
        ((torch.zeros(2, 3, 8, 8), [0, 1]), "labels must be a torch tensor, not list"),
    ):
        with pytest.raises(ValueError, match=words):
            data.from_tensors("mine", bad, good, 2)
    with pytest.raises(ValueError, match=r"pixels must be a torch tensor.*torch\.from_numpy"):
        data.ImageSet(torch.zeros(2, 3, 8, 8, dtype=torch.uint8).numpy(), labels)
    line = (torch.zeros(2, 1, 1, 32), labels)
    assert data.from_tensors("line", line, line, 2).image_shape == (1, 1, 32)
    narrow = (torch.zeros(2, 16, 100, 1), labels)  # sixteen channels of a signal
    assert data.from_tensors("signal", narrow, narrow, 2).image_shape == (16, 100, 1)
