"""What an experiment's names stand for: the data, who holds which part of it, the model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor, nn

from fl_privacy.client import Party
from fl_privacy.data import DataSet, client_batch, load, partition
from fl_privacy.evaluation import Truth
from fl_privacy.models import build_model
from fl_privacy.observation import Spec
from fl_privacy.seeding import subseed
from simulations.experiment import Experiment, settings_of

HELD_OUT = 1000


@dataclass(frozen=True)
class World:
    """An experiment with its data in memory; everything here is a pure function of the experiment."""

    experiment: Experiment
    data: DataSet
    parts: tuple[Tensor, ...]

    @property
    def spec(self) -> Spec:
        """The public facts of the protocol."""
        experiment = self.experiment
        return Spec(
            image_shape=self.data.image_shape,
            classes=self.data.classes,
            batch_size=experiment.batch_size,
            learning_rate=experiment.learning_rate,
        )

    @property
    def held_out(self) -> tuple[Tensor, Tensor]:
        """Up to 1,000 test images with their labels: no client has any of them."""
        test = self.data.test
        return test.images(slice(HELD_OUT)), test.labels[:HELD_OUT]

    def model(self) -> nn.Module:
        """The model with its first weights, on the CPU."""
        return blank_model(self.experiment, self.spec)

    def batch(self, client: int, round: int) -> tuple[Tensor, Tensor]:
        """What `client` trains on in `round`: images (B, C, H, W) in [0, 1] and labels (B,)."""
        experiment = self.experiment
        index = client_batch(self.parts[client], experiment.seed, client, round, experiment.batch_size)
        return self.data.train.images(index), self.data.train.labels[index]

    def truth(self, client: int, round: int) -> Truth:
        """The private batch behind an observation, for the evaluator alone."""
        return Truth(*self.batch(client, round))

    def party(self, arm: int) -> Party:
        """A client of one arm; batches are the same in every arm, the defences' draws are not."""
        seed = subseed(self.experiment.seed, "party", arm)
        return Party(model=self.model, batch=self.batch, chain=self.experiment.chains[arm], seed=seed)


def blank_model(experiment: Experiment, spec: Spec) -> nn.Module:
    """The experiment's architecture, with the weights that its seed gives."""
    settings = settings_of(experiment.model)
    return build_model(experiment.model["name"], spec.image_shape, spec.classes, experiment.seed, settings)


@lru_cache(maxsize=2)
def world_of(experiment_json: str, root: Path | None) -> World:
    """The world of an experiment given as JSON; kept, because a Ray worker asks for it with every message.

    Raises:
        MissingData: the data set is not there. ValueError: a client has fewer images than a batch needs.
    """
    experiment = Experiment.from_json(experiment_json)
    data = load(experiment.dataset["name"], root, settings_of(experiment.dataset))
    settings = settings_of(experiment.partition)
    parts = partition(experiment.partition["name"], data.train.labels, experiment.clients, experiment.seed, settings)
    smallest = min(map(len, parts))
    if smallest < experiment.batch_size:
        raise ValueError(
            f"'batch_size' is {experiment.batch_size}, but a client of the partition '{experiment.partition['name']}' "
            f"has only {smallest} images: choose fewer clients, another partition or a smaller batch"
        )
    return World(experiment, data, tuple(parts))
