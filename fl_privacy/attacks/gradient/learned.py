"""Learned inversion: a network from released gradients to images, trained through the clients' own chain."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from fl_privacy.attacks.base import ATTACKS, Attack, Capabilities, check_ranges
from fl_privacy.attacks.gradient.inverter import Examples, Inverter, fit_inverter
from fl_privacy.attacks.gradient.message_features import CountReader, MessageFeatures, fit_counts, message_features
from fl_privacy.attacks.gradient.optimise import of_one_model
from fl_privacy.attacks.gradient.simulated import labelled, relative_mismatch, simulated_client
from fl_privacy.observation import ChannelName, Images, Observation, Reconstruction, Tensors
from fl_privacy.seeding import subseed

LEAST_MESSAGES = 40
"""Messages to learn from, at the least: large batches are not many of them otherwise."""


@dataclass(frozen=True)
class Learned:
    """What was learned of one model and chain: how messages are read, labels counted and images made of both."""

    features: MessageFeatures
    counts: CountReader
    inverter: Inverter

    def labels(self, payload: Tensors) -> Tensor:
        """The labels (B,) of a message, sorted; all of them 0 where the model has no head to read them from."""
        if self.features.head is None:
            return torch.zeros(self.features.batch, dtype=torch.long, device=next(iter(payload.values())).device)
        return self.counts.labels(self.features.counts(payload), self.features.batch)


@ATTACKS.register("learned")
@dataclass(frozen=True)
class LearnedInversion(Attack):
    """A network from gradients to images, trained on messages that the attacker makes of its own public images.

    Each goes through the client's own computation and, where it is known, its own chain of defences, with fresh draws:
    so the attack is the adaptive one against whatever has no likelihood, such as signs, pruning and quantisation. It is
    trained once for each model, defence and batch size, in `prepare`, on `examples` images in messages; a share
    `held_out` of the public images makes the messages that choose the ridge and stop the training.

    The network: features (`message_features`: every tensor relative to its size, the head's rows as seen by an image's
    label, hashed where long), their `components` leading directions, a linear layer by ridge regression, and `hidden`
    units that correct it for at most `epochs`. Labels are counted by a regression on what the head says. Images of one
    label in one message are matched to the guesses by assignment, in training as in scoring. Without a linear head
    nothing is said of labels, and all images of a message are matched; public images without labels get random ones.

    The loss is the relative mismatch of the guess's own release, without noise, from what was seen.

    Source: Wu et al. 2023, Learning to Invert (arXiv 2210.10880), whose network is an MLP on hashed gradients; the rows
    of the head, the closed form of the linear layer and the counting of labels are ours.
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.GRADIENT, ChannelName.UPDATE})
    needs: ClassVar[frozenset[str]] = frozenset({"model", "public"})
    capabilities: ClassVar[Capabilities] = Capabilities(labels=True, stochastic=True)
    # set on the copy that `prepare` returns; not a field, because it is no setting
    fitted: ClassVar[tuple[tuple[Observation, Learned], ...]] = ()

    examples: int = 6000
    components: int = 768
    hidden: int = 512
    epochs: int = 12
    held_out: float = 0.1

    def __post_init__(self) -> None:
        check_ranges(self, at_least_one=("examples", "components"), not_negative=("hidden", "epochs"))
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie between 0 and 1, not {self.held_out}: it is what stops the training")

    def prepare(self, seen: Sequence[Observation], rng: torch.Generator) -> Self:
        """Train a network for every model, protocol and defence among the observations.

        Raises:
            ValueError: there are fewer than two public images.
        """
        if not seen:
            return self
        found = []
        for group in of_one_model(seen):
            self._check(group[0])
            found.append((group[0], self._fit(group[0], rng)))
        trained = copy.copy(self)
        object.__setattr__(trained, "fitted", tuple(found))
        return trained

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """Read the observations, those of one model and defence by one network."""
        guesses: list[Reconstruction] = []
        for group in of_one_model(seen):
            start = time.perf_counter()
            learned = self._fitted_to(group[0]) or self._fit(group[0], rng)
            read = [_read(learned, each) for each in group]
            seconds = (time.perf_counter() - start) / len(group)
            guesses += [replace(guess, seconds=seconds) for guess in read]
        return guesses

    def loss(self, seen: Observation, inputs: Tensor, labels: Tensor) -> float:
        """How far the release of images (B, C, H, W) with labels (B,) is from what was seen, relative to its size."""
        return relative_mismatch(seen, inputs, labels)

    def _fitted_to(self, seen: Observation) -> Learned | None:
        for other, learned in self.fitted:
            if (other.model, other.spec, other.defence) == (seen.model, seen.spec, seen.defence):
                return learned
        return None

    def _fit(self, seen: Observation, rng: torch.Generator) -> Learned:
        assert seen.public is not None
        owned, batch = labelled(seen.public, seen.spec.classes, rng), seen.spec.batch_size
        if len(owned) < 2:
            raise ValueError("a network is trained on some public images and stopped by others: give at least two")
        seed = int(torch.randint(2**62, (), generator=rng))
        order = torch.randperm(len(owned), generator=rng)
        count = min(max(1, round(self.held_out * len(owned))), len(owned) - 1)
        messages = max(LEAST_MESSAGES, self.examples // batch)
        if batch == 1 and not _draws(seen, owned):
            messages = min(messages, len(owned) - count)  # a message again would be the same one
        features = message_features(seen)
        train, counts = _examples(
            seen, features, owned, _dealt(order[count:], messages, batch, rng), subseed(seed, "train")
        )
        kept = max(2, round(self.held_out * messages))
        held, _ = _examples(seen, features, owned, _dealt(order[:count], kept, batch, rng), subseed(seed, "held"))
        inverter = fit_inverter(train, held, self.components, self.hidden, self.epochs, seed)
        return Learned(features, counts, inverter)


def _draws(seen: Observation, owned: Images) -> bool:
    """Whether a client's message about the same image is another one the next time: noise, dropout."""
    assert owned.labels is not None
    client = simulated_client(seen)
    once, again = (client(owned.inputs[:1], owned.labels[:1], seed) for seed in (0, 1))
    return any(not torch.equal(once[name], again[name]) for name in once)


def _dealt(order: Tensor, messages: int, batch: int, rng: torch.Generator) -> Tensor:
    """Positions (messages, batch) of images: each as often as any other, but for one."""
    rounds = -(-messages * batch // len(order))
    dealt = torch.cat([order[torch.randperm(len(order), generator=rng)] for _ in range(rounds)])
    return dealt[: messages * batch].view(messages, batch)


def _examples(
    seen: Observation, features: MessageFeatures, owned: Images, dealt: Tensor, seed: int
) -> tuple[Examples, CountReader]:
    """Messages of the images at these positions (M, B) of `owned`, and how their labels are counted."""
    assert owned.labels is not None
    client, classes = simulated_client(seen), seen.spec.classes
    rows, images, slots, said, counts = [], [], [], [], []
    for message, place in enumerate(dealt):
        place = _in_order(owned, place, by_label=features.head is not None)
        inputs, labels = owned.inputs[place], owned.labels[place]
        payload = client(inputs, labels, subseed(seed, message))
        slots.append(labels if features.head is not None else torch.zeros_like(labels))
        rows.append(features.rows(payload, slots[-1]))
        images.append(inputs.flatten(1))
        if features.head is not None:
            said.append(features.counts(payload))
            counts.append(torch.bincount(labels, minlength=classes).float())
    reader = fit_counts(torch.stack(said), torch.stack(counts)) if said else CountReader(torch.empty(0), torch.empty(0))
    return Examples(torch.stack(rows), torch.stack(images), torch.stack(slots)), reader


def _in_order(owned: Images, place: Tensor, by_label: bool) -> Tensor:
    """Positions (B,) of images from dark to bright, those of one label side by side."""
    assert owned.labels is not None
    place = place[owned.inputs[place].flatten(1).mean(1).argsort(stable=True)]
    return place[owned.labels[place].argsort(stable=True)] if by_label else place


@torch.no_grad()
def _read(learned: Learned, seen: Observation) -> Reconstruction:
    """One message's images and labels."""
    slots = learned.labels(seen.payload)
    images = learned.inverter(learned.features.rows(seen.payload, slots)).clamp(0, 1)
    inputs = images.view(-1, *seen.spec.image_shape)
    labels = None if learned.features.head is None else slots
    loss = float("nan") if labels is None else relative_mismatch(seen, inputs, labels)
    return Reconstruction(inputs=inputs.cpu(), labels=None if labels is None else labels.cpu(), loss=loss, iterations=1)
