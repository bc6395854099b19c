"""What an experiment's names stand for: the data, who holds which part of it, the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fl_privacy.data import DataSet, ImageSet, class_sample, client_batch, load
from fl_privacy.models import build_model
from fl_privacy.observation import Images, LocalTraining, Spec
from fl_privacy.simulations.experiment.components import settings_of
from fl_privacy.simulations.experiment.spec import Experiment

HELD_OUT = 1000
SLICE = ("split", "first", "count")
"""Which images of its data set are public, beside that data set's own settings."""


@dataclass(frozen=True)
class Positions:
    """Which images of a split of the experiment's data set."""

    split: Literal["train", "test"]
    index: Tensor

    def without(self, others: Sequence[Positions]) -> Positions:
        """Those of these images that are in none of the `others`, in their order."""
        taken = [each.index for each in others if each.split == self.split]
        return Positions(self.split, self.index[~torch.isin(self.index, torch.cat(taken))]) if taken else self


@dataclass(frozen=True)
class Federation:
    """An experiment with its data in memory; everything here is a pure function of the experiment.

    `held` are the images that are dealt to the clients, to train with or, where nothing is trained, to ask about;
    `parts` their indices, by client.
    """

    experiment: Experiment
    data: DataSet
    held: ImageSet
    parts: tuple[Tensor, ...]
    root: Path | None = None

    @property
    def spec(self) -> Spec:
        """The public facts of the protocol, of the messages that are attacked."""
        experiment = self.experiment
        return Spec(
            image_shape=self.data.image_shape,
            classes=self.data.classes,
            batch_size=experiment.attacked_images,
            local=LocalTraining(learning_rate=experiment.learning_rate),
        )

    @property
    def held_out(self) -> tuple[Tensor, Tensor]:
        """Up to 1,000 test images with their labels, every class with its share: no client has any of them."""
        held_out = self.images_at(self.sampled(self.every("test")))
        assert held_out.labels is not None
        return held_out.inputs, held_out.labels

    def every(self, split: Literal["train", "test"]) -> Positions:
        """All images of a split of the data set."""
        return Positions(split, torch.arange(len(getattr(self.data, split))))

    def sampled(self, pool: Positions, count: int = HELD_OUT) -> Positions:
        """At most `count` of these images in the order in which they stand, every class with its share."""
        labels = getattr(self.data, pool.split).labels[pool.index]
        return Positions(pool.split, pool.index[class_sample(labels, count).sort().values])

    @property
    def public_positions(self) -> tuple[Positions, ...]:
        """Which images of the experiment's own data set the adversary has; none where its images are another set's."""
        public = self.experiment.public
        if not public or public["name"] != self.experiment.dataset["name"]:
            return ()
        owned = self.every("test" if public.get("split") == "test" else "train")
        first = public.get("first", 0)
        return (Positions(owned.split, owned.index[first : first + public.get("count", len(owned.index))]),)

    def images_at(self, chosen: Positions) -> Images:
        """The images (N, C, H, W) and labels (N,) at these positions."""
        images: ImageSet = getattr(self.data, chosen.split)
        return Images(images.images(chosen.index), images.labels[chosen.index])

    def model(self) -> nn.Module:
        """The model with its first weights, on the CPU."""
        return blank_model(self.experiment, self.spec)

    def public(self) -> Images | None:
        """The images that the adversary owns; None where the experiment grants none.

        Raises:
            MissingData: their data set is not there. ValueError: they are of another shape, or reach beyond their set.
        """
        return self._public

    @cached_property
    def _public(self) -> Images | None:
        return public_images(self.experiment, self.spec, self.root)

    def batch(self, client: int, round: int) -> tuple[Tensor, Tensor]:
        """What `client` puts into `round`: images (B, C, H, W) in [0, 1] and labels (B,)."""
        drawn = self.drawn(client, round)
        return drawn.images(), drawn.labels

    def drawn(self, client: int, round: int) -> ImageSet:
        """The same as bytes, with attributes where there are any."""
        experiment = self.experiment
        index = client_batch(self.parts[client], experiment.seed, client, round, experiment.images_in(round))
        return self.held.chosen(index)


def blank_model(experiment: Experiment, spec: Spec) -> nn.Module:
    """The experiment's architecture, with the weights that its seed gives."""
    settings = settings_of(experiment.model)
    return build_model(experiment.model["name"], spec.image_shape, spec.classes, experiment.seed, settings)


def public_images(experiment: Experiment, spec: Spec, root: Path | None) -> Images | None:
    """The images of the experiment's `public` table: `count` of its `split` from `first` on."""
    if not experiment.public:
        return None
    settings = settings_of(experiment.public)
    where = {key: settings.pop(key) for key in SLICE if key in settings}
    data = load(experiment.public["name"], root, settings)
    split = data.test if where.get("split") == "test" else data.train
    first = where.get("first", 0)
    end = first + where["count"] if "count" in where else len(split)
    if not 0 <= first < end <= len(split):
        raise ValueError(f"'public' takes images {first} to {end}, but '{data.name}' has {len(split)} in that split")
    if data.image_shape != spec.image_shape:
        raise ValueError(f"'public' has images {data.image_shape}, and the clients' are {spec.image_shape}")
    return Images(split.images(slice(first, end)), split.labels[first:end])
