"""The C library's allocator, told to keep what tensors free."""

import ctypes
import os

# names and numbers of glibc's malloc.h
MMAP_MAX, TRIM_THRESHOLD, TOP_PAD = -4, -1, -2
NEVER = 2**31 - 1
GROWTH = 2**28


def keep_freed_memory() -> bool:
    """Let this process reuse the memory it frees, instead of giving it back to the kernel after every large tensor.

    A training step on a CPU takes and frees hundreds of megabytes, and the kernel zeroes each page of them anew. From
    then on the process keeps its peak. False where the C library is not glibc, or where the environment already says
    what its allocator shall do (MALLOC_...): nothing changes then.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
        settings = {MMAP_MAX: 0, TRIM_THRESHOLD: NEVER, TOP_PAD: GROWTH}
        return all(library.mallopt(name, value) == 1 for name, value in settings.items())
    except (AttributeError, OSError, TypeError):
        return False
