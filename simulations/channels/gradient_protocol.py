"""The settings of the protocols that share gradients or updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fl_privacy.observation import ONE_STEP, LocalTraining


@dataclass(frozen=True)
class FedSGD:
    """Gradient sharing; under `secure_aggregation` the server sees the mean over a round's clients and nothing else."""

    secure_aggregation: bool = False
    """Whether the server sees the mean over all clients of a round alone."""
    delta: float = 1e-5
    """For which epsilon is told: well below one over the number of examples, or of clients."""


@dataclass(frozen=True)
class WeightUpdates:
    """Weight updates after `local` training on a round's `batch_size` images, averaged by one of Flower's strategies.

    The images of a step are `local.batch_size` of them, and those behind an attacked message `attacked_batch_size`.
    `local`: epochs, batch_size, steps, optimiser, momentum, weight_decay, proximal (FedProx alone), loss, normalise and
    mode of `fl_privacy.observation.LocalTraining`, at the experiment's learning_rate; one plain step by default.
    With `secure_aggregation` the server sees the mean over a round's clients, no single message.
    """

    strategy: Literal["FedAvg", "FedAvgM", "FedProx", "FedMedian", "FedTrimmedAvg", "FedAdam", "Krum"] = "FedAvg"
    """Which of Flower's strategies averages the updates."""
    local: LocalTraining = ONE_STEP
    """How a client trains between receiving and sending: epochs, batch size, optimiser, momentum, weight decay."""
    secure_aggregation: bool = False
    """Whether the server sees the mean over all clients of a round alone."""
    delta: float = 1e-5
    """For which epsilon is told: well below one over the number of examples, or of clients."""
