"""What an attack is: observations in, reconstructions out, nothing else in sight."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from fl_privacy.observation import ChannelName, Observation, Reconstruction
from fl_privacy.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an attack can do, declared once for its class; `testing.check_attack` holds it to that.

    `images`, `labels`: whether its guesses may have any; each single guess may still lack them, where nothing was
    recovered. `stochastic`: whether another seed gives another guess. `largest_batch`: the most examples in one message
    that it can tell apart, such as 1 for a closed form; None for any number.
    """

    images: bool = True
    labels: bool = False
    stochastic: bool = False
    largest_batch: int | None = None


class Attack(ABC):
    """An attack on one or more channels. Concrete ones are frozen dataclasses: their fields are the settings.

    `channels` it works on; `needs`: which optional fields of an observation it cannot do without
    ('model', 'query', 'labels', 'public'): 'public' of those that need a prior; `capabilities`: what it can do.
    """

    channels: ClassVar[frozenset[ChannelName]]
    needs: ClassVar[frozenset[str]] = frozenset()
    capabilities: ClassVar[Capabilities] = Capabilities()

    def prepare(self, seen: Sequence[Observation], rng: torch.Generator) -> Self:
        """Train what the attack has to learn, once for many observations; the identity where it learns nothing."""
        return self

    @final
    def __call__(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """Reconstruct the private images, or labels, behind every observation, in order.

        Raises:
            ValueError: an observation is of another channel, lacks what the attack needs, or holds more than it can
                tell apart.
            RuntimeError: what the attack returns is not what it declares.
        """
        for observation in seen:
            self._check(observation)
        guesses = self.reconstruct(seen, rng) if seen else []
        if len(guesses) != len(seen):
            raise RuntimeError(f"{type(self).__name__} returned {len(guesses)} guesses for {len(seen)} observations")
        for guess, observation in zip(guesses, seen, strict=True):
            _check_guess(type(self).__name__, self.capabilities, guess, observation)
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
        most = self.capabilities.largest_batch
        if most is not None and observation.spec.batch_size > most:
            raise ValueError(
                f"{name} reads messages of at most {most} example{'s' * (most > 1)}, and this one averages "
                f"{observation.spec.batch_size}: lower 'batch_size', or choose an attack that takes batches"
            )
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


def _check_guess(name: str, can: Capabilities, guess: Reconstruction, observation: Observation) -> None:
    count, spec = observation.spec.batch_size, observation.spec
    for what, declared, found, expected in (
        ("images", can.images, guess.inputs, (count, *spec.image_shape)),
        ("labels", can.labels, guess.labels, (count,)),
        ("bound", True, guess.bound, (count,)),
    ):
        if found is None:
            continue
        if not declared:
            raise RuntimeError(f"{name} returned {what}, which its 'capabilities' do not declare: declare {what}=True")
        if tuple(found.shape) != expected:
            raise RuntimeError(f"{name} returned {what} of shape {tuple(found.shape)}, expected {expected}")
    if guess.inputs is not None and not (float(guess.inputs.min()) >= 0.0 and float(guess.inputs.max()) <= 1.0):
        raise RuntimeError(f"{name} returned pixels outside [0, 1]")
    if guess.labels is not None and not (int(guess.labels.min()) >= 0 and int(guess.labels.max()) < spec.classes):
        raise RuntimeError(f"{name} returned labels outside 0 to {spec.classes - 1}")


ATTACKS: Registry[type[Attack]] = Registry("attack")
