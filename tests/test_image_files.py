"""Image files: what a viewer shows is what is read, what is no class is none, and every error names its file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from trees import SETTINGS, class_folders, idx, noise, picture

from fl_privacy import data
from fl_privacy.data.image_files import read_images


def read(image, path, grey=True, **options):
    image.save(path, **options)
    return read_images([path], None, grey)[0].permute(1, 2, 0).numpy().squeeze()


def ramp():
    return np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("grey", [True, False])
def test_sixteen_bits_keep_their_range(suffix, grey, tmp_path):
    found = read(Image.fromarray(ramp()), tmp_path / f"x.{suffix}", grey)
    assert found.mean() == pytest.approx(127.5, abs=0.01)
    assert len(np.unique(found)) == 256
    assert (found.min(), found.max()) == (0, 255)


def test_floats_in_the_unit_range_are_read_and_others_refused(tmp_path):
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert np.array_equal(read(Image.fromarray(values), tmp_path / "x.tif"), np.arange(256).reshape(16, 16))
    for wrong in (values * 255, values - 0.5, values * np.nan):
        with pytest.raises(ValueError, match=r"y\.tif.*floats.*not in \[0, 1\]"):
            read(Image.fromarray(wrong), tmp_path / "y.tif")


def test_integers_without_a_stated_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"x\.tif.*32 bits"):
        read(Image.fromarray(ramp().astype(np.int32)), tmp_path / "x.tif")


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_cameras_turn_is_applied(turn, tmp_path):
    upright = noise(0, 5, 7)
    # what a camera that was held like this stored, by the EXIF standard's table of orientations
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
              6: upright.T[::-1], 7: upright.T[::-1, ::-1], 8: upright.T[:, ::-1]}[turn]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = turn
    found = read(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / "x.png", exif=exif)
    assert np.array_equal(found, upright)


def half_clear(mode):
    """Left opaque black, right fully transparent black."""
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 255))
    clear.paste((0, 0, 0, 0), (2, 0, 4, 4))
    return clear.convert(mode)


@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "colour key", "grey key", "16 bit key"])
def test_transparent_pixels_lie_on_white(kind, grey, tmp_path):
    options = {}
    if kind in ("RGBA", "LA"):
        image = half_clear(kind)
    elif kind == "palette":
        image = Image.fromarray(np.repeat([[0, 0, 1, 1]], 4, 0).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 0, 0, 9])
        options["transparency"] = 1
    elif kind == "colour key":
        image = Image.fromarray(np.repeat([[[0] * 3] * 2 + [[0, 0, 9]] * 2], 4, 0).astype(np.uint8))
        options["transparency"] = (0, 0, 9)
    else:
        levels = np.repeat([[0, 0, 700, 700]], 4, 0)
        image = Image.fromarray((levels // 100).astype(np.uint8) if kind == "grey key" else levels.astype(np.uint16))
        options["transparency"] = 7 if kind == "grey key" else 700
    found = read(image, tmp_path / "x.png", grey, **options)
    assert found[:, :2].max() == 0
    assert found[:, 2:].min() == 255


def test_half_transparent_is_half_white(tmp_path):
    assert abs(int(read(Image.new("RGBA", (3, 3), (0, 0, 0, 128)), tmp_path / "x.png")[0, 0]) - 127) <= 1


def test_other_modes_keep_what_they_show(tmp_path):
    bits = np.array([[True, False], [False, True]])
    assert np.array_equal(read(Image.fromarray(bits), tmp_path / "b.png"), 255 * bits)
    palette = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 255])
    assert read(palette, tmp_path / "p.png", grey=False).tolist() == [
        [[10, 20, 30], [200, 100, 0]], [[0, 0, 255], [10, 20, 30]]
    ]  # fmt: skip
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(read(inks, tmp_path / "c.tif", grey=False).astype(int) - [255, 0, 0]).max() <= 1
    assert np.abs(read(inks, tmp_path / "c.jpg", grey=False).astype(int) - [255, 0, 0]).max() <= 6
    plain = noise(3, 6, 6)
    assert np.array_equal(read(Image.fromarray(plain), tmp_path / "plain.png"), plain)
    assert np.array_equal(read(Image.fromarray(plain), tmp_path / "one.gif"), plain)


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
def test_several_images_in_one_file_are_not_dropped_in_silence(suffix, tmp_path):
    frames = [Image.fromarray(noise(seed, 8, 8, 3)) for seed in range(3)]
    with pytest.raises(ValueError, match=rf"x\.{suffix}.*holds 3 images"):
        read(frames[0], tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "webp", "bmp", "pgm"])
@pytest.mark.parametrize("damage", ["half", "page", "empty"])
def test_a_file_that_cannot_be_read_is_named(suffix, damage, tmp_path):
    class_folders(tmp_path / "set", ["a", "b"], 2, "png", 32, 32)
    path = tmp_path / "set" / "b" / f"broken.{suffix}"
    picture(path, 9, 32, 32)
    whole = path.read_bytes()
    path.write_bytes({"half": whole[: len(whole) // 2], "page": b"<!DOCTYPE html><html></html>", "empty": b""}[damage])
    with pytest.raises(ValueError, match=rf"set/b/broken\.{suffix}"):
        data.load("folder", tmp_path, {"path": "set", "grey": True})


def test_what_is_no_class_becomes_none(tmp_path):
    base = tmp_path / "set"
    class_folders(base, ["a", "b"], 5, "png", 8, 8)
    strays = (".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a/a.png", ".hidden/x.png")
    for stray in (*strays, "a/.ipynb_checkpoints/a_0.png", "a/._a.png", "a/__MACOSX/a.png"):
        picture(base / stray, 77, 8, 8)
    for empty in ("empty", "nested/empty", "notes", "a/empty"):
        (base / empty).mkdir(parents=True)
    for other in ("Thumbs.db", "a/Thumbs.db", "a/.DS_Store", "b/labels.csv", "notes/README.txt", "loose.png"):
        (base / other).write_bytes(b"no image")
    found = data.load("folder", tmp_path, {"path": "set"})
    assert found.classes == 2
    assert len(found.train) + len(found.test) == 10
    (base / "deep" / "er").mkdir(parents=True)
    picture(base / "deep" / "er" / "x.PNG", 78, 8, 8)
    assert data.load("folder", tmp_path, {"path": "set"}).classes == 3


def test_a_folder_without_a_class_says_what_it_looked_for(tmp_path):
    picture(tmp_path / "set" / ".hidden" / "x.png", 1, 8, 8)
    with pytest.raises(ValueError, match=r"one subfolder a class.*\.png"):
        data.load("folder", tmp_path, {"path": "set"})


def test_hidden_copies_are_no_further_people(root_of):
    root = root_of("utkface")
    before = data.load("utkface", root, {})
    name = "18_0_0_2017000.jpg"
    picture(root / "UTKFace" / ".ipynb_checkpoints" / name, 3, 20, 20, 3)
    after = data.load("utkface", root, {})
    assert torch.equal(before.train.pixels, after.train.pixels)


IDX = {
    "mnist": "MNIST/raw/train-images-idx3-ubyte",
    "fashion_mnist": "FashionMNIST/raw/t10k-labels-idx1-ubyte",
    "emnist": "EMNIST/raw/emnist-letters-test-images-idx3-ubyte",
}


@pytest.mark.parametrize("name", IDX)
@pytest.mark.parametrize("damage", ["page", "empty", "half", "longer", "head", "other dimensions"])
def test_a_damaged_idx_file_is_named(name, damage, root_of):
    path = root_of(name) / IDX[name]
    whole = path.read_bytes()
    path.write_bytes({
        "page": b"<!DOCTYPE html><html><body>Not found</body></html>", "empty": b"", "half": whole[: len(whole) // 2],
        "longer": whole + b"x", "head": whole[:3], "other dimensions": whole[:3] + b"\x02" + whole[4:],
    }[damage])  # fmt: skip
    with pytest.raises(ValueError, match=path.name) as caught:
        data.load(name, path.parents[2], SETTINGS.get(name, {}))
    assert str(path) in str(caught.value)


def test_fewer_labels_than_images_name_the_set(root_of):
    root = root_of("mnist")
    idx(root / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.arange(59) % 10)
    with pytest.raises(ValueError, match=r"'mnist' in .* has 60 images for 59 labels"):
        data.load("mnist", root, {})


@pytest.mark.parametrize("damage", ["page", "empty", "half", "other arrays"])
def test_a_damaged_npz_is_named(damage, root_of):
    path = root_of("retina") / "medmnist" / "retinamnist.npz"
    whole = path.read_bytes()
    if damage == "other arrays":
        np.savez(path, train=np.zeros(3))
    else:
        path.write_bytes({"page": b"<html></html>", "empty": b"", "half": whole[: len(whole) // 2]}[damage])
    with pytest.raises(ValueError, match=r"retinamnist\.npz cannot be read"):
        data.load("retina", path.parents[1], {})


def test_a_cifar_file_with_other_bytes_is_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_3").write_bytes(b"<html></html>")
    with pytest.raises(data.MissingData, match=r"other bytes.*data_batch_3"):
        data.load("cifar10", tmp_path, {})


def test_tables_of_another_form_are_named(root_of):
    root = root_of("tiny_imagenet")
    (root / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text("<html></html>")
    with pytest.raises(ValueError, match=r"val_annotations\.txt"):
        data.load("tiny_imagenet", root, {})
    root = root_of("celeba")
    for table, text in (("list_eval_partition", "<html></html>"), ("list_attr_celeba", "<html></html>"),
                        ("list_attr_celeba", "")):  # fmt: skip
        (root / "celeba" / f"{table}.txt").write_text(text)
        with pytest.raises(ValueError, match=rf"{table}\.txt"):
            data.load("celeba", root, {"target": "Male"})
