"""What a long run holds in memory, and leaves on disk, does not grow with its rounds."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from fl_privacy.simulations.config.load import configure
from fl_privacy.simulations.run.pipeline import simulate

ROUNDS, CLIENTS, WARM = 30, 8, 10
MOST_GROWTH = 0.05


def resident() -> int:
    """The memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def sessions() -> list[Path]:
    """The folders in which the Ray of this process lives."""
    return list(Path(tempfile.gettempdir()).glob(f"flp-{os.getuid()}-*-{os.getpid()}-*"))


class Watch:
    """Progress that looks, after every round, at what this process holds, and at what its Ray put onto the disk."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.spilled: list[Path] = []

    def __call__(self, text: str) -> None:
        pass

    def step(self, what: str, done: int, total: int, detail: str = "") -> None:
        if what == "rounds":
            self.held[done] = resident()
            self.spilled += [path for folder in sessions() for path in folder.glob("**/ray_spilled_objects*/*")]


@pytest.mark.ray
def test_thirty_rounds_of_eight_clients_take_the_memory_of_ten_and_spill_nothing(tmp_path):
    """Messages of 1.2 MB: those of five rounds, if they were kept, would be seen."""
    experiment = configure(
        name="long",
        dataset={"name": "digits", "size": 32},
        model={"name": "convnet", "width": 64},
        attack={"name": "grnn", "iterations": 2, "width": 4},
        clients=CLIENTS,
        clients_per_round=CLIENTS,
        rounds=ROUNDS,
        batch_size=2,
    )
    watch = Watch()
    simulate(experiment, out=tmp_path / "out", backend="ray", workers=2, note=watch, figures=False)
    assert set(watch.held) == set(range(ROUNDS + 1))
    warm, last = (max(watch.held[round] for round in rounds) for rounds in (range(WARM), range(ROUNDS - WARM, ROUNDS)))
    print(f"\nmemory: {warm / 1e6:.0f} MB in the first {WARM} rounds, {last / 1e6:.0f} MB in the last")
    assert last / warm - 1 < MOST_GROWTH
    assert not watch.spilled
    assert not sessions()
