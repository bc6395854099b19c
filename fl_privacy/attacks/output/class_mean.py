"""The mean image of the answered class: what an answer tells to those who read nothing but its class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fl_privacy.attacks.base import ATTACKS
from fl_privacy.attacks.output.decoders import OutputAttack
from fl_privacy.joint_training.pair import OUTPUTS
from fl_privacy.observation import Observation


class MeanOfClass(nn.Module):
    """Outputs (N, classes) to the mean image (N, C, H, W) of the largest one."""

    def __init__(self, means: Tensor) -> None:
        super().__init__()
        self.means = nn.Parameter(means, requires_grad=False)

    def forward(self, outputs: Tensor) -> Tensor:
        return self.means[outputs.argmax(1)]


@ATTACKS.register("class_mean")
@dataclass(frozen=True)
class ClassMean(OutputAttack):
    """The mean of those public images to which the classifier gives the same class.

    It needs the arg-max alone, and of all guesses that use nothing else its squared error is the least: what another
    attack gains over it is what the numbers tell beyond the class. A class that no public image gets has the mean of
    all. For categorical heads: of several binary attributes it reads which has the largest output.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"query", "public"})

    def learn(self, seen: Observation, rng: torch.Generator) -> nn.Module:
        assert seen.public is not None
        assert seen.query is not None
        images = seen.public.inputs
        with torch.no_grad():
            answers = torch.cat([seen.query(part) for part in torch.split(images, 500)])
        means = images.new_empty(answers.shape[1], *images.shape[1:])
        for label in range(answers.shape[1]):
            mine = images[(answers.argmax(1) == label).to(images.device)]
            means[label] = mine.mean(0) if len(mine) else images.mean(0)
        return MeanOfClass(means.to(seen.payload[OUTPUTS].device))
