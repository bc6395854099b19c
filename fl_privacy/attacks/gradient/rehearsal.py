"""Which attack to trust where no likelihood says it: the attacker tries them on messages that it makes itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from fl_privacy.attacks.base import Attack
from fl_privacy.attacks.gradient.inverter import assigned
from fl_privacy.attacks.gradient.simulated import labelled, simulated_client
from fl_privacy.observation import Images, Observation, Reconstruction
from fl_privacy.seeding import subseed

Name = TypeVar("Name", bound=str)
REHEARSED = 4
"""Messages of the attacker's own, less where it has few images: they take at most a fifth of them."""


def held_back(seen: Observation) -> int:
    """How many messages can be made of public images that no member has learned from; 0: too few images."""
    return 0 if seen.public is None else min(REHEARSED, len(seen.public) // (5 * seen.spec.batch_size))


def without_held_back(seen: Observation) -> Observation:
    """The observation without the last public images, which are for the rehearsal."""
    assert seen.public is not None
    kept = len(seen.public) - held_back(seen) * seen.spec.batch_size
    labels = None if seen.public.labels is None else seen.public.labels[:kept]
    return replace(seen, public=Images(seen.public.inputs[:kept], labels))


def rehearse(seen: Observation, attacks: Mapping[Name, Attack], rng: torch.Generator) -> dict[Name, float]:
    """The mean squared error a pixel of each of `attacks` on messages of the last public images, by its name.

    They went through the clients' computation and chain, with fresh draws. Images of a message are matched by
    assignment. Infinite where an attack refuses, or has no images.
    """
    assert seen.public is not None
    owned, batch = labelled(seen.public, seen.spec.classes, rng), seen.spec.batch_size
    assert owned.labels is not None
    count, client = held_back(seen), simulated_client(seen)
    images, labels = (
        part[-count * batch :].view(count, batch, *part.shape[1:]) for part in (owned.inputs, owned.labels)
    )
    seed = int(torch.randint(2**62, (), generator=rng))
    known = without_held_back(seen)
    messages = [
        replace(known, payload=client(x, y, subseed(seed, message)))
        for message, (x, y) in enumerate(zip(images, labels, strict=True))
    ]
    errors = {}
    for name, attack in attacks.items():
        try:
            guesses = attack(messages, rng)
        except ValueError:
            guesses = [Reconstruction()] * count
        errors[name] = sum(_error(guess, x) for guess, x in zip(guesses, images, strict=True)) / count
    return errors


def _error(guess: Reconstruction, truth: Tensor) -> float:
    if guess.inputs is None:
        return float("inf")
    found, wanted = guess.inputs.to(truth).flatten(1)[None], truth.flatten(1)[None]
    same = torch.zeros(1, len(truth), dtype=torch.long)
    return float((assigned(wanted, found, same) - found).square().mean())
