"""Inverting Gradients: the direction of the gradient alone, signed Adam, total variation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.attacks.base import ATTACKS, check_ranges
from fl_privacy.attacks.gradient.optimise import GradientInversion
from fl_privacy.attacks.gradient.pixels import Pixels, labels_read
from fl_privacy.attacks.inversion.first_order import Descent, DescentSteps, Stepper
from fl_privacy.attacks.inversion.total_variation import absolute_variation
from fl_privacy.observation import Observation, Tensors
from fl_privacy.settings import PlainTable


@dataclass(frozen=True)
class _Boxed:
    """Steps after each of which the images are cut to [0, 1]."""

    steps: DescentSteps
    images: nn.Parameter

    def __call__(self, iteration: int, losses: Tensor, again: Callable[[], Tensor]) -> None:
        self.steps(iteration, losses, again)
        with torch.no_grad():
            self.images.clamp_(0, 1)

    def take(self) -> tuple[Tensors, PlainTable]:
        return self.steps.take()

    def give(self, tensors: Tensors, facts: PlainTable) -> None:
        self.steps.give(tensors, facts)


@ATTACKS.register("inverting_gradients")
@dataclass(frozen=True)
class InvertingGradients(GradientInversion):
    """Minimises 1 - cos(g, g_seen) + tv TV over pixels in [0, 1], by the sign of each slope and Adam.

    The learning rate falls to a tenth at 3/8, 5/8 and 7/8 of the `iterations`. Labels are read first, or as granted.
    TV is the mean of |differences| down plus that across. `restarts` are chosen from by the loss.

    Source: Geiping et al. 2020 (arXiv 2003.14053), equation 4 and appendix; JonasGeiping/invertinggradients.
    """

    iterations: int = 1000
    restarts: int = 2
    learning_rate: float = 0.1
    tv: float = 1e-3
    patience: int = 0
    compiled: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("iterations", "restarts"),
            above_zero=("learning_rate",),
            not_negative=("tv", "patience"),
        )

    def start(self, seen: Sequence[Observation], rng: torch.Generator) -> nn.Module:
        return Pixels(seen[0], len(seen) * self.restarts, rng, labels_read(seen).repeat(self.restarts, 1))

    def stepper(self, guesses: nn.Module) -> Stepper:
        assert isinstance(guesses, Pixels)
        descent = Descent("adam", self.learning_rate, "steps", self.iterations, betas=(0.9, 0.999), signed=True)
        return _Boxed(descent.stepper(guesses), guesses.images)

    def misfit(self, seen: Observation, gradients: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(gradients, targets, dim=1) + self.tv * absolute_variation(images)


@ATTACKS.register("inverting_gradients_as_published")
@dataclass(frozen=True)
class InvertingGradientsAsPublished(InvertingGradients):
    """Inverting Gradients with the settings of its command line: 24,000 iterations, tv 1e-4, one start.

    Source: JonasGeiping/invertinggradients, reconstruct_image.py.
    """

    iterations: int = 24_000
    restarts: int = 1
    tv: float = 1e-4
