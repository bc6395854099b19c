"""Memory that tensors free: reused where the C library can be told so, and nothing breaks where it cannot."""

import ctypes
import platform
import subprocess
import sys

import pytest

from fl_privacy.simulations.backends.allocator import keep_freed_memory

FAULTS = """
import resource, sys, torch
from fl_privacy.simulations.backends.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**23) for _ in range(4)]
    del tensors
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


def faults(kind: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Page faults of taking and freeing 128 MB once more."""
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"):
        monkeypatch.delenv(name, raising=False)
    out = subprocess.run([sys.executable, "-c", FAULTS, kind], capture_output=True, text=True, check=True).stdout
    return int(out)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told")
def test_freed_memory_is_taken_again_without_asking_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back, kept = faults("given back", monkeypatch), faults("kept", monkeypatch)
    assert kept < 10
    assert given_back > 50


def test_what_the_environment_says_of_the_allocator_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not keep_freed_memory()


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_another_c_library_is_left_alone(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str | None) -> ctypes.CDLL:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not keep_freed_memory()
