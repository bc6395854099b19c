"""First-order steps for many victims at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fl_privacy.observation import Tensors
from fl_privacy.optimiser_state import load_optimiser_state, optimiser_state
from fl_privacy.settings import PlainTable

Stepper = Callable[[int, Tensor, Callable[[], Tensor]], None]
"""Moves the parameters: (iteration, losses (V,) with their graph, the losses (V,) anew wherever the parameters are).

One that is a `checkpoints.State` too lets a call that was killed go on in its middle.
"""


@dataclass(frozen=True)
class Descent:
    """First-order steps of `optimiser` on the sum of the finite losses, so that no victim feels another.

    `schedule` of the learning rate over `iterations`: 'cosine' with a warm-up of 20, 'constant', or 'steps': a tenth of
    what it was at 3/8, 5/8 and 7/8 of them. `signed`: by the sign of the gradient alone.
    """

    optimiser: Literal["adam", "rmsprop"]
    learning_rate: float
    schedule: Literal["cosine", "constant", "steps"]
    iterations: int
    betas: tuple[float, float] = (0.9, 0.99)
    signed: bool = False

    def stepper(self, guesses: nn.Module) -> DescentSteps:
        """Steps on the parameters of `guesses`; a slope that is NaN or infinite counts as none."""
        parameters = list(guesses.parameters())
        optimiser: torch.optim.Optimizer
        if self.optimiser == "adam":
            optimiser = torch.optim.Adam(parameters, lr=self.learning_rate, betas=self.betas, fused=True)
        else:
            optimiser = torch.optim.RMSprop(parameters, lr=self.learning_rate, momentum=0.99)

        return DescentSteps(self, parameters, optimiser)

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration, as a share of `learning_rate`."""
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "steps":
            return float(0.1 ** sum(iteration >= self.iterations * part / 8 for part in (3, 5, 7)))
        cosine = 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))
        return max(min(cosine, (iteration + 1) / 20), 1e-3)


@dataclass(frozen=True)
class DescentSteps:
    """What `Descent.stepper` returns, which can be taken up again."""

    descent: Descent
    parameters: Sequence[nn.Parameter]
    optimiser: torch.optim.Optimizer

    def __call__(self, iteration: int, losses: Tensor, again: Callable[[], Tensor]) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.descent.learning_rate * self.descent.rate(iteration)
        self.optimiser.zero_grad()
        losses[torch.isfinite(losses)].sum().backward()  # type: ignore[no-untyped-call]
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
                if self.descent.signed:
                    parameter.grad.sign_()
        self.optimiser.step()

    def take(self) -> tuple[Tensors, PlainTable]:
        return optimiser_state(self.optimiser), {}

    def give(self, tensors: Tensors, facts: PlainTable) -> None:
        load_optimiser_state(self.optimiser, tensors)
