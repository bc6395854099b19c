"""Fixtures that several test files use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trees import TREES

from fl_privacy import data

KNOWN_BY_CHECKSUM = ("cifar10", "cifar100")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """One thread, as the clients and attacks compute: more change the last bits. Importing dcor (numba) sets two."""
    torch.set_num_threads(1)


@pytest.fixture
def data_root() -> Callable[[str], Path]:
    """data_root("mnist") is the data folder that has the set; the test is skipped, with the reason, where it is not."""

    def root_with(name: str) -> Path:
        root = data.data_root()
        if root is None:
            pytest.skip(f"needs the data set '{name}': set FL_PRIVACY_DATA to a folder that has it")
        if not data.available(name, root):
            pytest.skip(f"needs the data set '{name}', which is not in FL_PRIVACY_DATA={root}")
        return root

    return root_with


@pytest.fixture
def root_of(tmp_path: Path, data_root: Callable[[str], Path]) -> Callable[[str], Path]:
    """A folder that has the set: a made-up one, or the real one for the sets that are known by checksum."""

    def root(name: str) -> Path:
        if name in KNOWN_BY_CHECKSUM:
            return data_root(name)
        TREES[name](tmp_path)
        return tmp_path

    return root
