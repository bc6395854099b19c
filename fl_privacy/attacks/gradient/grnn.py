"""GRNN: a generator with a fixed latent, trained until its images and labels give the gradient that was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fl_privacy.attacks.base import ATTACKS, check_ranges
from fl_privacy.attacks.gradient.grnn_generator import GrnnGenerator
from fl_privacy.attacks.gradient.matching import published_cross_entropy, soft_cross_entropy
from fl_privacy.attacks.gradient.optimise import GradientInversion, Guess
from fl_privacy.attacks.gradient.restarts import merge_restarts
from fl_privacy.attacks.inversion.first_order import Descent, Stepper
from fl_privacy.attacks.inversion.total_variation import squared_variation
from fl_privacy.observation import Observation


@ATTACKS.register("grnn")
@dataclass(frozen=True)
class GRNN(GradientInversion):
    """Gradient inversion by a generator; the defaults are ours, `grnn_as_published` has the paper's.

    `objective` 'log': log ||dg||^2 / 2 + tv TV, whose pull does not fade as the match improves; 'published':
    ||dg||^2 + ||dg|| + tv TV. `keep`: 'best' iterate by the attack's own loss, or the published 'snapshot' (the last
    multiple of iterations // 30). `tv_defended` replaces `tv` where a defence is known to be there. `restarts`
    independent generators are joined by how well they match (`restarts.merge_restarts`), unless the best of them alone
    has the lower loss; the loss reported is that of the guess. Victims of one call have generators of their own, drawn
    from one stream: a guess repeats bit for bit in the same call, does not feel what the others' gradients are, but
    starts elsewhere where there are more or fewer of them.

    Source: Ren, Deng and Xie 2022 (ACM TIST 13(4)), section 3 and algorithm 1.
    """

    iterations: int = 1000
    restarts: int = 3
    learning_rate: float = 3e-2
    tv: float = 10.0
    tv_defended: float = 1.0
    latent: int = 32
    width: int = 16
    optimiser: Literal["adam", "rmsprop"] = "adam"
    schedule: Literal["cosine", "constant"] = "cosine"
    objective: Literal["log", "published"] = "log"
    keep: Literal["best", "snapshot"] = "best"
    stable: bool = True
    patience: int = 300
    compiled: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("iterations", "restarts", "latent", "width"),
            above_zero=("learning_rate",),
            not_negative=("tv", "tv_defended", "patience"),
        )

    def start(self, seen: Sequence[Observation], rng: torch.Generator) -> nn.Module:
        spec, victims = seen[0].spec, len(seen) * self.restarts
        return GrnnGenerator(spec.image_shape, spec.classes, victims, spec.batch_size, self.latent, self.width, rng)

    def stepper(self, guesses: nn.Module) -> Stepper:
        return Descent(self.optimiser, self.learning_rate, self.schedule, self.iterations).stepper(guesses)

    def misfit(self, seen: Observation, gradients: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        squared = (gradients - targets).square().sum(1)
        prior = (self.tv_defended if seen.defence else self.tv) * squared_variation(images)
        if self.objective == "log":
            return 0.5 * (squared + 1e-12).log() + prior
        return squared + squared.sqrt() + prior

    def merged(self, images: Tensor, logits: Tensor, losses: Tensor) -> Guess:
        return merge_restarts(images, logits, losses if self.objective == "log" else losses.log())

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (soft_cross_entropy if self.stable else published_cross_entropy)(logits, targets)

    @property
    def snapshot_every(self) -> int:
        return max(1, self.iterations // 30) if self.keep == "snapshot" else 0


@ATTACKS.register("grnn_as_published")
@dataclass(frozen=True)
class GRNNAsPublished(GRNN):
    """GRNN with every choice of its authors' code, faults included: RMSprop, log(softmax), and of 1,000 iterations the
    image of number 990 with the labels of number 999. The loss reported is that of iteration 990.

    `tv` is 1e-3 for a LeNet and 1e-6 for a ResNet-18. What the code calls a Wasserstein distance is ||dg||.

    Source: Rand2AI/GRNN, GRNN.py.
    """

    restarts: int = 1
    learning_rate: float = 1e-4
    tv: float = 1e-3
    tv_defended: float = 1e-3
    latent: int = 128
    width: int = 32
    optimiser: Literal["adam", "rmsprop"] = "rmsprop"
    schedule: Literal["cosine", "constant"] = "constant"
    objective: Literal["log", "published"] = "published"
    keep: Literal["best", "snapshot"] = "snapshot"
    stable: bool = False
    patience: int = 0
