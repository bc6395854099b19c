"""Descent without known noise: Adam from several starts, then L-BFGS from the best of them, a history a victim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_privacy.attacks.inversion.first_order import Descent
from fl_privacy.attacks.inversion.lbfgs import BatchedLbfgs
from fl_privacy.attacks.unfinished import steps
from fl_privacy.checkpoints import State, under
from fl_privacy.observation import Tensors
from fl_privacy.settings import PlainTable

Objective = Callable[[Tensor], Tensor]
"""Coordinates (V, B, k) to losses (V,), each victim's of its own coordinates alone."""

RATE = 0.1
HISTORY = 40
STALE, LEAST_GAIN = 10, 0.1
"""L-BFGS ends when in so many iterations no victim has gained so many nats: rounding is all that is left."""


@dataclass(frozen=True)
class Reached:
    """Where a descent ended: `u` (V, B, k) with its `losses` (V,), and the losses on the way, a `trace` (T, V)."""

    u: Tensor
    losses: Tensor
    trace: Tensor


def descend(objective: Objective, starts: Tensor, adam: int, lbfgs: int) -> Reached:
    """From `starts` (R, V, B, k): `adam` iterations each, and from each victim's best `lbfgs` more.

    Images of one label whose starts are equal stay equal for ever: a start has to be random. The best iterate counts,
    and a victim whose losses are no numbers keeps its first start.
    """
    found = [_adam(objective, start, adam) for start in starts]
    losses = torch.stack([each.losses for each in found]).nan_to_num(torch.inf)
    best, victims = losses.argmin(0), torch.arange(starts.shape[1], device=starts.device)
    u = torch.stack([each.u for each in found])[best, victims]
    traces = torch.stack([each.trace for each in found])[best, :, victims].T
    last = _lbfgs(objective, u, lbfgs)
    return Reached(last.u, last.losses, torch.cat([traces, last.trace]))


def _adam(objective: Objective, start: Tensor, iterations: int) -> Reached:
    guess = nn.ParameterList([start.clone()])
    step = Descent("adam", RATE, "cosine", iterations).stepper(guess)
    kept = _Kept(start, objective)
    for iteration in steps(iterations, _Search(guess[0], kept, step)):
        losses = objective(guess[0])
        kept.see(guess[0], losses)
        step(iteration, losses, lambda: objective(guess[0]))
    return kept.reached(guess[0])


def _lbfgs(objective: Objective, start: Tensor, iterations: int) -> Reached:
    guess = start.clone().requires_grad_()
    solver = BatchedLbfgs([guess], HISTORY)
    kept = _Kept(start, objective)

    def here() -> Tensor:
        return objective(guess)

    losses: Tensor | None = None
    for iteration in steps(iterations, _Search(guess, kept, solver)):
        losses = here() if losses is None else losses
        kept.see(guess, losses)
        if iteration % STALE == STALE - 1 and not kept.gained(LEAST_GAIN):
            break
        losses = solver.step(losses, here)
    return kept.reached(guess)


@dataclass(frozen=True)
class _Search:
    """Everything that an iteration changes."""

    guess: Tensor
    kept: _Kept
    step: State

    def take(self) -> tuple[Tensors, PlainTable]:
        (kept, _), (step, facts) = self.kept.take(), self.step.take()
        tensors = {f"kept/{name}": value for name, value in kept.items()}
        return tensors | {f"step/{name}": value for name, value in step.items()} | {"guess": self.guess}, facts

    @torch.no_grad()
    def give(self, tensors: Tensors, facts: PlainTable) -> None:
        self.guess.copy_(tensors["guess"])
        self.kept.give(under("kept/", tensors), {})
        self.step.give(under("step/", tensors), facts)


class _Kept:
    """The best iterate of every victim."""

    def __init__(self, start: Tensor, objective: Objective) -> None:
        self._objective = objective
        self._u = start.clone()
        self.losses = torch.full((len(start),), torch.inf, device=start.device)
        self._marked = self.losses.clone()
        self._trace: list[Tensor] = []

    @torch.no_grad()
    def see(self, u: Tensor, losses: Tensor) -> None:
        losses = losses.detach()
        better = losses < self.losses
        self._u[better], self.losses[better] = u[better], losses[better]
        self._trace.append(losses)

    def gained(self, least: float) -> bool:
        """Whether any victim's loss is by `least` lower than when this was asked last."""
        better = bool((self.losses < self._marked - least).any())
        self._marked = self.losses.clone()
        return better

    def take(self) -> tuple[Tensors, PlainTable]:
        found = {"u": self._u, "losses": self.losses, "marked": self._marked}
        return found | {"trace": torch.stack(self._trace)}, {}

    def give(self, tensors: Tensors, facts: PlainTable) -> None:
        place = self._u.device
        self._u, self.losses, self._marked = (tensors[name].to(place) for name in ("u", "losses", "marked"))
        self._trace = list(tensors["trace"].to(place))

    @torch.no_grad()
    def reached(self, last: Tensor) -> Reached:
        self.see(last, self._objective(last))
        return Reached(self._u, self.losses, torch.stack(self._trace))
