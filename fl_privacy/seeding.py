"""What makes bits repeat: named random streams, never a global generator, and one thread."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def subseed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and on every name, through SHA-256."""
    return int.from_bytes(hashlib.sha256(repr((seed, *names)).encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator of its own for (seed, names): the same names give the same draws, other names others.

    Draw on the CPU and move the result: a CUDA generator gives other numbers for the same seed. torch's CPU generator
    keeps only 32 bits of a seed, so among n streams two are equal with probability of about n^2 / 2^33.
    """
    return torch.Generator().manual_seed(subseed(seed, *names))


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """Run code that insists on torch's global generator (layer initialisers) from the stream (seed, names)."""
    # not torch.manual_seed, which costs half a millisecond: a split-learning step of a small model takes three
    generator, number = torch.default_generator, subseed(seed, *names)
    before = generator.get_state()
    generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(number)
    try:
        yield
    finally:
        generator.set_state(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: another number of them changes the last bits."""
    threads = torch.get_num_threads()
    if threads == 1:  # to say it again makes the next products slower: .15 ms of a split-learning step of 4
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
