"""White-box inversion of activations by optimising the input."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fl_privacy.attacks.base import ATTACKS, Attack, check_ranges
from fl_privacy.attacks.inversion.total_variation import squared_variation
from fl_privacy.observation import ChannelName, Observation, Reconstruction
from fl_privacy.split.segments import ACTIVATION


@ATTACKS.register("rmle")
@dataclass(frozen=True)
class Rmle(Attack):
    """Regularised maximum likelihood: images whose activations match, with little total variation, by projected Adam.

    Minimises mean (f(x) - z)^2 + `tv` TV(x) from mid-grey within [0, 1], over `iterations` with a step of
    `learning_rate` that falls to zero along a cosine. Needs the client segment f itself ('model'). The default `tv` was
    the best of 0 to 1 on 24 MNIST images of the adversary's own, at the cut of Titcombe et al.

    Source: He, Zhang and Lee 2019, section 4.1, equations 1 and 2; the scale of both terms, the box and the schedule
    are this suite's.
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.ACTIVATION})
    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    iterations: int = 1000
    learning_rate: float = 0.05
    tv: float = 0.1

    def __post_init__(self) -> None:
        check_ranges(self, at_least_one=("iterations",), above_zero=("learning_rate",), not_negative=("tv",))

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        guesses: dict[int, Reconstruction] = {}
        for group in alike(seen):
            images, trace = self._invert([seen[i] for i in group])
            sizes = [seen[i].spec.batch_size for i in group]
            for i, part in zip(group, torch.split(images, sizes), strict=True):
                loss = self.loss(seen[i], part, torch.empty(0))
                guesses[i] = Reconstruction(inputs=part, loss=loss, trace=trace, iterations=self.iterations)
        return [guesses[i] for i in range(len(seen))]

    def _invert(self, seen: Sequence[Observation]) -> tuple[Tensor, Tensor]:
        target = torch.cat([observation.payload[ACTIVATION] for observation in seen])
        segment = frozen_segment(seen[0], target.device)
        images = torch.full((len(target), *seen[0].spec.image_shape), 0.5, device=target.device, requires_grad=True)
        optimiser = torch.optim.Adam([images], self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.iterations)
        trace = []
        for _ in range(self.iterations):
            optimiser.zero_grad()
            per_image = self._objective(segment, images, target)
            # every image is its own problem: the sum keeps its step size free of how many there are
            torch.autograd.backward(per_image.sum())
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0, 1)
            trace.append(per_image.detach().mean())
        return images.detach(), torch.stack(trace).cpu()

    def _objective(self, segment: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        misfit = (segment(images) - target).square().flatten(1).mean(1)
        objective: Tensor = misfit + self.tv * squared_variation(images[:, None])
        return objective

    @torch.no_grad()
    def loss(self, seen: Observation, inputs: Tensor, labels: Tensor) -> float:
        target = seen.payload[ACTIVATION]
        segment = frozen_segment(seen, target.device)
        return float(self._objective(segment, inputs.to(target.device), target).mean())


def frozen_segment(seen: Observation, device: torch.device) -> nn.Module:
    assert seen.model is not None
    return copy.deepcopy(seen.model).to(device).train(seen.spec.training_mode).requires_grad_(False)


def alike(seen: Sequence[Observation]) -> list[list[int]]:
    """Positions of the observations that can be inverted as one batch: those of one model in eval mode.

    In training mode batch statistics tie the images of one observation together and to no other.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for i, observation in enumerate(seen):
        alone = i if observation.spec.training_mode else -1
        groups.setdefault((id(observation.model), alone), []).append(i)
    return list(groups.values())
