"""Gauss-Newton with conjugate gradients inside, batched over victims: min |r(u)|^2 / (2 s^2) + |u|^2 / 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Residual = Callable[[Tensor], Tensor]
"""Coordinates (V, B, k) to residuals (V, P), each victim's of its own coordinates alone; differentiable twice."""

BACKTRACKING = 0.4
TRIES = 6
STUCK = 4.0  # by how much the noise variance of a victim grows that no step has helped


@dataclass(frozen=True)
class Linearised:
    """The residuals (V, P) at one point, with the products J v, (V, B, k) to (V, P), and J^T y back."""

    residual: Tensor
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor], Tensor]


def linearise(residual: Residual, u: Tensor) -> Linearised:
    """`residual` around u (V, B, k).

    J^T y is a backward pass; J v is one through J^T y, which is linear in y. Two graphs serve for all products, and
    nothing is asked of a layer but its derivatives backwards: many have none forwards.
    """
    at = u.detach().requires_grad_()
    with torch.enable_grad():
        value = residual(at)
        dual = torch.zeros_like(value, requires_grad=True)
        (slope,) = torch.autograd.grad(value, at, dual, create_graph=True)

    def forward(v: Tensor) -> Tensor:
        return torch.autograd.grad(slope, dual, v, retain_graph=True)[0]

    def backward(y: Tensor) -> Tensor:
        return torch.autograd.grad(value, at, y, retain_graph=True)[0]

    return Linearised(value.detach(), forward, backward)


Linearise = Callable[[Residual, Tensor], Linearised]
"""Such a function: (residual, u) to what a step from u is computed with."""


def slopes_of(near: Residual) -> Linearise:
    """Residuals of their own, with the slopes of another residual that is close to them and cheaper."""

    def linear_of(residual: Residual, u: Tensor) -> Linearised:
        linear = linearise(near, u)
        with torch.no_grad():
            return Linearised(residual(u), linear.forward, linear.backward)

    return linear_of


def posterior_solve(linear: Linearised, variance: Tensor, right: Tensor, steps: int, tolerance: float = 1e-3) -> Tensor:
    """(I + J^T J / s^2)^-1 right by conjugate gradients, for noise `variance` s^2 (V,) and `right` (V, B, k).

    At most `steps` steps; a victim whose residual has fallen to `tolerance` of its first stops.
    """
    precision = (1 / variance)[:, None]
    x, rest = torch.zeros_like(right), right.clone()
    direction, squared = rest.clone(), _dot(rest, rest)
    enough = tolerance**2 * squared
    for _ in range(steps):
        product = linear.backward(linear.forward(direction) * precision) + direction
        going = squared > enough
        size = torch.where(going, squared / _dot(direction, product).clamp_min(1e-30), 0.0)
        x = x + _each(size) * direction
        rest = rest - _each(size) * product
        now = torch.where(going, _dot(rest, rest), squared)
        direction = rest + _each(now / squared.clamp_min(1e-30)) * direction
        squared = now
        if not bool((squared > enough).any()):
            break
    return x


@dataclass(frozen=True)
class Fit:
    """Where Gauss-Newton ended: `u` (V, B, k), and a `trace` (T, V) of the mean squared residual, the start's first."""

    u: Tensor
    trace: Tensor


def gauss_newton(
    residual: Residual,
    start: Tensor,
    floor: float | Tensor,
    outer: int,
    inner: int,
    tolerance: float = 0.1,
    linear_of: Linearise = linearise,
) -> Fit:
    """Fit from `start` (V, B, k), the noise variance s^2 annealed: half the mean squared residual, at least `floor`.

    The floor is one number, or one a victim (V,). With residuals in units of their noise it is 1. At most `outer` steps
    of `inner` products; it ends once every victim is at its floor and gains less than `tolerance`, in nats, a step. A
    victim that no step helps gets a larger s; one whose residuals are no numbers stays where it is. `linear_of` may
    take its slopes from elsewhere: a step counts only where it lowers the objective of `residual` itself.
    """
    u, value = start, residual(start).detach()
    trace = [value.square().mean(1)]
    variance = _annealed(trace[0], floor)
    for _ in range(outer):
        linear = linear_of(residual, u)
        before = objective(linear.residual, u, variance)
        slope = linear.backward(linear.residual / variance[:, None]) + u
        step = posterior_solve(linear, variance, -slope, inner, 1e-2).nan_to_num(0.0, 0.0, 0.0)
        u, value, moved, after = _line_search(residual, u, linear.residual, step, variance, before)
        trace.append(value.square().mean(1))
        stuck = ~moved & (-0.5 * _dot(slope, step) > tolerance)  # a gain was promised, and no step kept the promise
        settled = (variance <= floor) & ~stuck & ~(before - after > tolerance)
        if bool(settled.all()):
            break
        variance = torch.where(stuck, variance * STUCK, torch.minimum(variance, _annealed(trace[-1], floor)))
    return Fit(u, torch.stack(trace))


def objective(residual: Tensor, u: Tensor, variance: Tensor) -> Tensor:
    """|r|^2 / (2 s^2) + |u|^2 / 2, for residuals (V, P), coordinates (V, B, k), s^2 (V,): (V,)."""
    return 0.5 * (residual.square().sum(1) / variance + _dot(u, u))


def _annealed(mean_square: Tensor, floor: float | Tensor) -> Tensor:
    return (0.5 * mean_square.nan_to_num(1.0, 1e30)).clamp_min(floor)


@torch.no_grad()
def _line_search(
    residual: Residual, u: Tensor, value: Tensor, step: Tensor, variance: Tensor, before: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The longest of a few fractions of `step` that lowers the objective: new u, its residuals, whether, objective."""
    new, kept, after = u.clone(), value.clone(), before.clone()
    moved = torch.zeros_like(before, dtype=torch.bool)
    size = 1.0
    for _ in range(TRIES):
        candidate = u + size * step
        found = residual(candidate)
        reached = objective(found, candidate, variance)
        better = (reached < before) & ~moved
        new[better], kept[better], after[better] = candidate[better], found[better], reached[better]
        moved |= better
        if bool(moved.all()):
            break
        size *= BACKTRACKING
    return new, kept, moved, after


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (V,) of each victim's own."""
    return (a * b).flatten(1).sum(1)


def _each(values: Tensor) -> Tensor:
    return values[:, None, None]
