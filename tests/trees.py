"""Tiny made-up data folders in the layout of each set, so that every loader is tested where the real set is not."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(path: Path, seed: int, *shape: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, *shape)).save(path)


def idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def idx_set(raw: Path, train: str, test: str, first: int, classes: int) -> None:
    for seed, (prefix, count) in enumerate([(train, 60), (test, 30)]):
        idx(raw / f"{prefix}-images-idx3-ubyte", noise(seed, count, 28, 28))
        idx(raw / f"{prefix}-labels-idx1-ubyte", first + np.arange(count) % classes)


def class_folders(base: Path, names: list[str], each: int, suffix: str, *shape: int) -> None:
    for number, name in enumerate(names):
        for index in range(each):
            picture(base / name / f"{name}_{index}.{suffix}", 100 * number + index, *shape)


def utkface(root: Path) -> None:
    for gender in (0, 1):
        for ethnicity in range(5):
            for index, age in enumerate((18, 29, 30, 61)):
                name = f"{age}_{gender}_{ethnicity}_2017{gender}{ethnicity}{index}.jpg"
                picture(root / "UTKFace" / name, 40 * gender + 8 * ethnicity + index, 20, 20, 3)
    picture(root / "UTKFace" / "61_1_20170109142408075.jpg", 999, 20, 20, 3)  # the original set has such names


def celeba(root: Path) -> None:
    rows = ["12", "Smiling Male Young"]
    parts = []
    for index in range(12):
        name = f"{index:06}.jpg"
        picture(root / "celeba" / "img_align_celeba" / name, index, 30, 20, 3)
        rows.append(f"{name} {'1' if index > 5 else '-1'}  {'1' if index % 2 else '-1'} -1")
        parts.append(f"{name} {index % 3}")
    (root / "celeba" / "list_attr_celeba.txt").write_text("\n".join(rows) + "\n")
    (root / "celeba" / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")


def tiny_imagenet(root: Path) -> None:
    base = root / "tiny-imagenet-200"
    for number, label in enumerate(("n02", "n01")):
        for index in range(3):
            picture(base / "train" / label / "images" / f"{label}_{index}.JPEG", 10 * number + index, 16, 16, 3)
    for index in range(4):
        picture(base / "val" / "images" / f"val_{index}.JPEG", 50 + index, 16, 16, 3)
    rows = [f"val_{index}.JPEG\t{('n01', 'n02')[index % 2]}\t0\t0\t9\t9" for index in range(4)]
    (base / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")


def retina(root: Path) -> None:
    (root / "medmnist").mkdir(parents=True)
    arrays = {}
    for seed, (part, count) in enumerate([("train", 20), ("val", 5), ("test", 10)]):
        arrays[f"{part}_images"] = noise(seed, count, 28, 28, 3)
        arrays[f"{part}_labels"] = (np.arange(count, dtype=np.uint8) % 5)[:, None]
    np.savez(root / "medmnist" / "retinamnist.npz", **arrays)


PEOPLE = ["s1", "s10", "s2"]
TREES: dict[str, Callable[[Path], None]] = {
    "mnist": lambda root: idx_set(root / "MNIST" / "raw", "train", "t10k", 0, 10),
    "fashion_mnist": lambda root: idx_set(root / "FashionMNIST" / "raw", "train", "t10k", 0, 10),
    "emnist": lambda root: idx_set(root / "EMNIST" / "raw", "emnist-letters-train", "emnist-letters-test", 1, 26),
    "folder": lambda root: class_folders(root / "mine", ["b", "a"], 6, "png", 9, 12, 3),
    "lfw_faces": lambda root: class_folders(root / "lfw_faces", PEOPLE, 5, "jpg", 16, 16, 3),
    "orl_faces": lambda root: class_folders(root / "orl_faces", PEOPLE, 5, "pgm", 16, 12),
    "utkface": utkface,
    "celeba": celeba,
    "tiny_imagenet": tiny_imagenet,
    "retina": retina,
    "digits": lambda root: None,
    "glyphs": lambda root: None,
}
"""All but the two CIFAR sets, whose files torchvision knows by their MD5 sums."""

SETTINGS: dict[str, dict[str, Any]] = {"folder": {"path": "mine"}, "glyphs": {"train_images": 300, "test_images": 60}}
