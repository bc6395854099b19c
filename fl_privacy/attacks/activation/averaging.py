"""Averaging: the same input released k times, so that fresh noise cancels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fl_privacy.attacks.activation.decoder import Decoder
from fl_privacy.attacks.base import ATTACKS, check_ranges
from fl_privacy.observation import Observation, Reconstruction
from fl_privacy.split.segments import ACTIVATION


@ATTACKS.register("averaging")
@dataclass(frozen=True)
class Averaging(Decoder):
    """Averages `repeats` releases of the same input, then decodes; its decoder trains on averages of as many draws.

    Observations of one client are taken in the order of their rounds, `repeats` at a time; the threat model grants that
    these show the same input. Every one of them gets the guess of its group.

    Source: Titcombe et al. 2021 draw fresh noise at every call, which is what this exploits.
    """

    repeats: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, at_least_one=("repeats",))

    def _draws(self) -> int:
        return self.repeats

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        groups = repeats_of(seen, self.repeats)
        # the decoder is fitted before, because noise is estimated from single releases
        ready = self if self.network is not None else self.prepare(seen, rng)
        guesses = super(Averaging, ready).reconstruct([averaged([seen[i] for i in group]) for group in groups], rng)
        by_index = {i: guess for group, guess in zip(groups, guesses, strict=True) for i in group}
        return [by_index[i] for i in range(len(seen))]


def repeats_of(seen: Sequence[Observation], repeats: int) -> list[list[int]]:
    """The positions of each client's observations in the order of their rounds, cut into groups of `repeats`.

    Raises:
        ValueError: a client's observations do not fill whole groups.
    """
    by_client: dict[int, list[int]] = {}
    for i in sorted(range(len(seen)), key=lambda i: seen[i].round):
        by_client.setdefault(seen[i].client, []).append(i)
    for client, found in by_client.items():
        if len(found) % repeats:
            raise ValueError(f"client {client} released {len(found)} times, which does not make groups of {repeats}")
    return [found[i : i + repeats] for found in by_client.values() for i in range(0, len(found), repeats)]


def averaged(group: Sequence[Observation]) -> Observation:
    """One observation whose activations are the mean of the group's."""
    mean = torch.stack([observation.payload[ACTIVATION] for observation in group]).mean(0)
    return replace(group[0], payload={ACTIVATION: mean})
