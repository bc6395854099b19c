"""From an experiment to its federation: the data are loaded and dealt to the clients."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from fl_privacy.data import ImageSet, load, partition
from fl_privacy.simulations.config.load import from_json
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.experiment.components import settings_of
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import Federation


@lru_cache(maxsize=2)
def federation_of(experiment_json: str, root: Path | None) -> Federation:
    """The federation of an experiment given as JSON; kept, because a Ray worker asks for it with every message.

    Raises:
        MissingData: the data set is not there. ValueError: a client has fewer images than a batch needs, or
            `train_images` reaches beyond the data set.
    """
    experiment = from_json(experiment_json)
    data = load(experiment.dataset["name"], root, settings_of(experiment.dataset))
    settings = settings_of(experiment.partition)
    held: ImageSet = getattr(data, channel_of(experiment).holds)
    first, last = _held(experiment, len(held))
    labels = held.labels[first:last]
    parts = partition(experiment.partition["name"], labels, experiment.clients, experiment.seed, settings)
    parts = [part + first for part in parts]
    smallest = min(map(len, parts))
    name = max("batch_size", "attacked_batch_size", key=lambda each: getattr(experiment, each))
    if smallest < getattr(experiment, name):
        raise ValueError(
            f"'{name}' is {getattr(experiment, name)}, but a client of the partition '{experiment.partition['name']}' "
            f"has only {smallest} images: choose fewer clients, another partition or a smaller batch"
        )
    return Federation(experiment, data, held, tuple(parts), root)


def _held(experiment: Experiment, count: int) -> tuple[int, int]:
    """The range of images that the clients hold."""
    first, last = experiment.train_images or (0, count)
    if last > count:
        raise ValueError(f"'train_images' ends at {last}, but '{experiment.dataset['name']}' has {count} to deal out")
    return first, last
