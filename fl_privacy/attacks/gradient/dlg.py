"""Deep leakage from gradients: pixels and labels whose gradient is the observed one, by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_privacy.attacks.base import ATTACKS, check_ranges
from fl_privacy.attacks.gradient.optimise import GradientInversion
from fl_privacy.attacks.gradient.pixels import Pixels, labels_read
from fl_privacy.attacks.inversion.first_order import Stepper
from fl_privacy.attacks.inversion.lbfgs import BatchedLbfgs
from fl_privacy.observation import Observation, Tensors
from fl_privacy.settings import PlainTable


@dataclass(frozen=True)
class _Steps:
    search: BatchedLbfgs

    def __call__(self, iteration: int, losses: Tensor, again: Callable[[], Tensor]) -> None:
        self.search.step(losses, torch.no_grad()(again))  # the loop wants the images too, and evaluates once more

    def take(self) -> tuple[Tensors, PlainTable]:
        return self.search.take()

    def give(self, tensors: Tensors, facts: PlainTable) -> None:
        self.search.give(tensors, facts)


@ATTACKS.register("dlg")
@dataclass(frozen=True)
class DLG(GradientInversion):
    """Minimises ||dg||^2 over pixels and soft labels, from noise, by L-BFGS; no prior, and no box until the end.

    `iterations` of L-BFGS with `history` pairs. `line_search` shortens a step until the loss falls; without one a step
    has length `learning_rate`, and many starts diverge: hence `restarts`, of which the best by the loss counts.

    Source: Zhu, Liu and Han 2019 (arXiv 1906.08935), algorithm 1; line search and restarts are this suite's.
    """

    iterations: int = 300
    restarts: int = 4
    history: int = 40
    learning_rate: float = 1.0
    line_search: bool = True
    patience: int = 100
    compiled: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("iterations", "restarts", "history"),
            above_zero=("learning_rate",),
            not_negative=("patience",),
        )

    def start(self, seen: Sequence[Observation], rng: torch.Generator) -> nn.Module:
        return Pixels(seen[0], len(seen) * self.restarts, rng)

    def stepper(self, guesses: nn.Module) -> Stepper:
        return _Steps(BatchedLbfgs(list(guesses.parameters()), self.history, self.line_search, self.learning_rate))

    def misfit(self, seen: Observation, gradients: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        return (gradients - targets).square().sum(1)


@ATTACKS.register("dlg_as_published")
@dataclass(frozen=True)
class DLGAsPublished(DLG):
    """DLG as its authors' code runs it: 300 calls of 20 steps of L-BFGS, history 100, length 1, one start, no stop.

    Source: mit-han-lab/dlg, main.py. torch's own stopping rules, at slopes and steps near 1e-7, are left out.
    """

    iterations: int = 6000
    restarts: int = 1
    history: int = 100
    line_search: bool = False
    patience: int = 0


@ATTACKS.register("idlg")
@dataclass(frozen=True)
class IDLG(DLG):
    """DLG with the labels read from the gradient first, so that pixels alone are searched.

    The published rule reads the label of one image; those of a batch are counted (`label_counts`).

    Source: Zhao, Mopuri and Bilen 2020 (arXiv 2001.02610), section 3.
    """

    def start(self, seen: Sequence[Observation], rng: torch.Generator) -> nn.Module:
        return Pixels(seen[0], len(seen) * self.restarts, rng, labels_read(seen).repeat(self.restarts, 1))
