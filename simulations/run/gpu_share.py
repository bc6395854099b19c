"""Which share of a GPU each Ray worker gets: one client is tried first, and its peak memory counts."""

from __future__ import annotations

import torch

from fl_privacy.federated.client import gradient
from fl_privacy.seeding import one_thread, seeded
from fl_privacy.simulations.federation import Federation

ROOM = 1.25
"""Times the peak of what is allocated: fragments, and what an attack or a defence keeps beside it."""
CONTEXT = 512 * 2**20
"""Bytes that CUDA takes for every process, beside all tensors."""


def check_share(share: float | None, backend: str, device: str) -> None:
    """Check the share of a GPU that was asked for.

    Raises:
        ValueError: it is no share, or there is no GPU, or no Ray worker, to have one.
    """
    if share is None:
        return
    if not 0 < share <= 1:
        raise ValueError(
            f"'gpu_per_client' is the share of a GPU that each worker has, above 0 and at most 1, not {share}"
        )
    if backend != "ray" or device != "cuda":
        raise ValueError(
            f"'gpu_per_client' is for Ray workers on a GPU, and this run has backend '{backend}' and device "
            f"'{device}': leave it out, or add --device cuda"
        )


def probed_share(federation: Federation, workers: int, least: int) -> tuple[float, str]:
    """The share of a GPU of each of at most so many workers, and in words where it comes from.

    The clients of a round cannot do without `least` workers: more room than leaves these no worker has.

    A client's gradient on its largest batch, of the whole model, is computed here on the GPU, and its peak memory
    measured; as many workers as have room for that, with a quarter to spare, share the GPU. What an attack needs is not
    known before it runs: one that finds no room is made again with fewer beside it (`pool`).
    """
    experiment = federation.experiment
    largest = max(range(1, experiment.rounds + 1), key=experiment.images_in)
    place = torch.device(experiment.device)
    with one_thread(), seeded(0, "probe"):
        torch.cuda.reset_peak_memory_stats()
        x, y = federation.batch(0, largest)
        gradient(federation.model().to(place), x.to(place), y.to(place))
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(place).total_memory
    needed = min(1 / least, (ROOM * peak + CONTEXT) / whole)
    share = max(1 / workers, needed)
    words = f"a client took {peak / 2**20:.0f} MiB of its {whole / 2**20:.0f} when it was tried"
    return share, words + (f", so that {int(1 / share + 1e-9)} share a GPU" if needed > 1 / workers else "")
