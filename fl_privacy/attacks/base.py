"""What an attack is: observations in, reconstructions out, nothing else in sight."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from fl_privacy.observation import ChannelName, Observation, Reconstruction
from fl_privacy.registry import Registry


class Attack(ABC):
    """An attack on one or more channels. Concrete ones are frozen dataclasses: their fields are the settings.

    `channels` it works on; `needs`: which optional fields of an observation it cannot do without
    ('model', 'query', 'labels', 'public').
    """

    channels: ClassVar[frozenset[ChannelName]]
    needs: ClassVar[frozenset[str]] = frozenset()

    def prepare(self, seen: Sequence[Observation], rng: torch.Generator) -> Self:
        """Train what the attack has to learn, once for many observations; the identity where it learns nothing."""
        return self

    @final
    def __call__(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """Reconstruct the private images behind every observation, in order.

        Raises:
            ValueError: an observation is of another channel or lacks what the attack needs.
        """
        for observation in seen:
            self._check(observation)
        guesses = self.reconstruct(seen, rng) if seen else []
        if len(guesses) != len(seen):
            raise RuntimeError(f"{type(self).__name__} returned {len(guesses)} guesses for {len(seen)} observations")
        for guess, observation in zip(guesses, seen, strict=True):
            _check_guess(type(self).__name__, guess, observation)
        return guesses

    @abstractmethod
    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """Many victims in one call: that is where the speed is."""

    def loss(self, seen: Observation, inputs: Tensor, labels: Tensor) -> float:
        """The attack's own objective at any images (N, C, H, W) and labels (N,); NaN where it has none.

        The evaluator calls it at the truth: an objective that is lower there than at the guess says that the optimiser
        failed; one that is not says that the information is gone.
        """
        return float("nan")

    def _check(self, observation: Observation) -> None:
        name = type(self).__name__
        if observation.channel not in self.channels:
            works = ", ".join(sorted(self.channels))
            raise ValueError(f"{name} reads {works} messages, not {observation.channel}: choose another attack")
        missing = sorted(need for need in self.needs if getattr(observation, need) is None)
        if missing:
            raise ValueError(f"{name} needs the observation's {', '.join(missing)}, which this threat model withholds")
        if not all(bool(torch.isfinite(value).all()) for value in observation.payload.values()):
            raise ValueError(f"{name}: the payload of client {observation.client} has NaN or infinite values")


def check_ranges(
    attack: Attack,
    *,
    at_least_one: Sequence[str] = (),
    above_zero: Sequence[str] = (),
    not_negative: Sequence[str] = (),
) -> None:
    """Check the ranges of an attack's settings, which are named by their fields.

    Raises:
        ValueError: a setting is outside, NaN or infinite.
    """
    for names, least, wanted in (
        (at_least_one, 1.0, "at least 1"),
        (above_zero, math.ulp(0.0), "above 0"),
        (not_negative, 0.0, "at least 0"),
    ):
        for name in names:
            value = getattr(attack, name)
            if not least <= value < math.inf:
                raise ValueError(f"{name} must be {wanted} and finite, not {value}")


def _check_guess(name: str, guess: Reconstruction, observation: Observation) -> None:
    expected = (observation.spec.batch_size, *observation.spec.image_shape)
    if tuple(guess.inputs.shape) != expected:
        raise RuntimeError(f"{name} returned images of shape {tuple(guess.inputs.shape)}, expected {expected}")
    if not (float(guess.inputs.min()) >= 0.0 and float(guess.inputs.max()) <= 1.0):
        raise RuntimeError(f"{name} returned pixels outside [0, 1]")


ATTACKS: Registry[type[Attack]] = Registry("attack")
