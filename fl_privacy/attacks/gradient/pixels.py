"""Guesses that are pixels themselves, with soft labels beside them or labels that were read before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.attacks.gradient.label_recovery import LabelCounts
from fl_privacy.attacks.gradient.matching import gradient_unit
from fl_privacy.observation import ChannelName, Observation
from fl_privacy.seeding import stream

CERTAIN = 200.0
"""The logit of a label that is known: all others have no probability in single precision."""


class Pixels(nn.Module):
    """Images (V, B, C, H, W) from N(0, 1), and label logits (V, B, classes): from N(0, 1) too, or of fixed `labels`.

    Source: Zhu et al. 2019, DLG (arXiv 1906.08935), algorithm 1.
    """

    def __init__(
        self, observation: Observation, victims: int, rng: torch.Generator, labels: Tensor | None = None
    ) -> None:
        super().__init__()
        spec = observation.spec
        self.images = nn.Parameter(torch.randn(victims, spec.batch_size, *spec.image_shape, generator=rng))
        self.logits: Tensor
        if labels is None:
            self.logits = nn.Parameter(torch.randn(victims, spec.batch_size, spec.classes, generator=rng))
        else:
            self.register_buffer("logits", CERTAIN * F.one_hot(labels, spec.classes).float())

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.images, self.logits


def labels_read(seen: Sequence[Observation]) -> Tensor:
    """The labels (V, B) of every observation, in any order: as granted, or read from its gradient (`label_counts`).

    Several local steps are read as if their mean were a gradient, which is nearly so while the weights move little.

    Raises:
        ValueError: they cannot be read, because the model does not end in a trained linear layer.
    """
    granted = [each.labels for each in seen]
    known = [labels for labels in granted if labels is not None]
    if len(known) == len(seen):
        return torch.stack(known).cpu()
    guesses = LabelCounts()([_as_gradient(each) for each in seen], stream(0, "labels"))
    return torch.stack([guess.labels for guess in guesses if guess.labels is not None])


def _as_gradient(seen: Observation) -> Observation:
    if seen.channel is ChannelName.GRADIENT or seen.spec.local.sends_gradient(seen.examples):
        return seen
    unit = gradient_unit(seen)
    mean = {name: value / unit for name, value in seen.payload.items()}
    return replace(seen, channel=ChannelName.GRADIENT, payload=mean)
