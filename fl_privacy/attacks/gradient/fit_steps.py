"""MAP on updates of several local steps: a gradient between the weights first, then the client's own steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy.attacks.gradient.fit_batch import BatchSearch, fit_batch, objective, whitened
from fl_privacy.attacks.gradient.likelihood import Likelihood
from fl_privacy.attacks.gradient.local_steps import matcher_for
from fl_privacy.attacks.gradient.orders import Taken, improved
from fl_privacy.attacks.gradient.smoothing import softly_fitted
from fl_privacy.attacks.inversion.descent import descend
from fl_privacy.attacks.inversion.gauss_newton import gauss_newton
from fl_privacy.attacks.inversion.priors import Prior
from fl_privacy.observation import Observation

SHARES = (0.5, 0.0)
"""Where between the weights a first gradient is matched: half-way, and as if the update were one gradient."""
GRID = tuple(i / 10 for i in range(11))
FIRST, SOFTLY = 12, 5  # outer steps of each start, and of each sharpness of its max-pooling before
EXACT = 5  # with the slopes of the simulation itself
ROUNDS, TRIES = 20, 24  # of a search for the order


@dataclass(frozen=True)
class Search:
    """How long to search, as in `MaximumAPosteriori`; `batch`: by descent, and the kinks of the model (`kinks_of`)."""

    outer: int
    inner: int
    restarts: int
    spread: float
    batch: BatchSearch

    @property
    def kinks(self) -> Sequence[float]:
        return self.batch.kinks


@dataclass(frozen=True)
class Start:
    """The best guess so far: `labels` (V, B), coordinates `u` (V, B, k), `orders` (V, L) or None, its `loss` (V,)."""

    labels: Tensor
    u: Tensor
    orders: Tensor | None
    loss: Tensor

    def or_better(self, other: Start) -> Start:
        """Each victim's better one."""
        better = (other.loss < self.loss)[:, None]
        orders = self.orders
        if orders is not None and other.orders is not None:
            orders = torch.where(better, other.orders, orders)
        return Start(
            torch.where(better, other.labels, self.labels),
            torch.where(better[..., None], other.u, self.u),
            orders,
            torch.minimum(other.loss, self.loss),
        )


def fit_steps(
    seen: Sequence[Observation],
    given: Likelihood,
    prior: Prior,
    readings: Sequence[Tensor],
    search: Search,
    rng: torch.Generator,
) -> tuple[Likelihood, Tensor, Tensor, Tensor]:
    """Of updates: the likelihood under the orders found, labels (V, B), coordinates (V, B, k) and traces (T, V).

    First one gradient is matched, at two points between the weights before and after and with each of the label
    `readings`; the guess that the simulated steps explain best goes on. Then Gauss-Newton on the simulation itself,
    with the slopes of one gradient at the point where, for this guess, it is nearest to the simulation; the last steps
    have the simulation's own slopes. Where mini-batches are smaller than the examples, the orders that explain a guess
    best are searched in between. Of several images without known noise a second search has whitened differences
    (`fit_batch.whitened`), and each victim's end with the lower loss counts. Through max-pooling and ReLU that search
    is a descent (`fit_batch`) on one gradient half-way; from there and from the first search's end goes a descent
    through all steps, and the lower whitened loss counts.

    Source: ours; the first stage is the surrogate of Zhu et al. 2023 (arXiv 2306.00127).
    """
    taken, traces = Taken.of(seen[0]), list[Tensor]()
    best: Start | None = None
    several = seen[0].spec.batch_size > 1
    for whiten in (False, True) if several and not given.known and not search.kinks else (False,):
        start, first = _first(seen, given, prior, readings, taken, search, rng, whiten)
        end, last = _refined(seen, given, prior, start, taken, search, rng, whiten)
        best, traces = end if best is None else best.or_better(end), [*traces, *first, *last]
    assert best is not None
    if several and not given.known and search.kinks:
        half_way, trace = _half_way(seen, given, prior, readings[0], taken, search, rng)
        ends = [_descended(seen, given, prior, start, search) for start in (best, half_way)]
        best = ends[0][0].or_better(ends[1][0])
        traces += [trace, *(each for _, each in ends)]
    given = replace(given, match=matcher_for(seen, orders=best.orders))
    shares = _nearest(seen, given, prior.of(best.labels), best.labels, best.u)
    return replace(given, nearby=matcher_for(seen, shares=shares)), best.labels, best.u, torch.cat(traces)


def _first(
    seen: Sequence[Observation],
    given: Likelihood,
    prior: Prior,
    readings: Sequence[Tensor],
    taken: Taken,
    search: Search,
    rng: torch.Generator,
    whiten: bool,
) -> tuple[Start, list[Tensor]]:
    """The start that the simulation explains best of each victim's, and all traces."""
    best, traces = None, list[Tensor]()
    alike = all(torch.equal(labels, readings[0]) for labels in readings)
    told = [(y, whitened(seen[0], given, prior, y) if whiten else given) for y in (readings[:1] if alike else readings)]
    for share, (labels, now) in product(SHARES, told):
        near, own = matcher_for(seen, shares=given.observed.new_full((len(labels),), share)), prior.of(labels)
        nearly = replace(now, match=near)
        residual = nearly.residual(own, labels)
        shape = (*labels.shape, own.mean.shape[-3:].numel())
        for _ in range(search.restarts if shape[1] > 1 else 1):
            start = search.spread * torch.randn(shape, generator=rng).to(given.observed)
            starts = [start]
            if search.kinks:
                starts.append(softly_fitted(nearly, own, labels, search.kinks, start, SOFTLY, search.inner))
            for each in starts:
                fit = gauss_newton(residual, each, given.floor, FIRST, search.inner)
                orders = None
                if taken.ordered:
                    judge = partial(_explained, seen, now, own.images(fit.u), labels)
                    stand = taken.as_they_stand().repeat(len(labels), 1)
                    orders = improved(stand, judge, taken, rng, TRIES, ROUNDS // 2)
                found = Start(labels, fit.u, orders, _loss(seen, now, own, labels, orders, fit.u))
                best = found if best is None else best.or_better(found)
                traces.append(fit.trace)
    assert best is not None
    return best, traces


def _refined(
    seen: Sequence[Observation],
    given: Likelihood,
    prior: Prior,
    start: Start,
    taken: Taken,
    search: Search,
    rng: torch.Generator,
    whiten: bool,
) -> tuple[Start, list[Tensor]]:
    """Where a search ends, by the loss of differences as they are, and all its losses."""
    labels, u, orders, traces = start.labels, start.u, start.orders, list[Tensor]()
    now, own = whitened(seen[0], given, prior, labels) if whiten else given, prior.of(labels)
    for _ in range(1 if orders is None else 2):
        if orders is not None:
            judge = partial(_explained, seen, now, own.images(u), labels)
            orders = improved(orders, judge, taken, rng, TRIES, ROUNDS)
        now = replace(now, match=matcher_for(seen, orders=orders))
        now = replace(now, nearby=matcher_for(seen, shares=_nearest(seen, now, own, labels, u)))
        linear = now.linear(own, labels)
        fit = gauss_newton(now.residual(own, labels), u, now.floor, search.outer, search.inner, linear_of=linear)
        u, traces = fit.u, [*traces, fit.trace]
    fit = gauss_newton(now.residual(own, labels), u, now.floor, EXACT, search.inner)
    return Start(labels, fit.u, orders, _loss(seen, given, own, labels, orders, fit.u)), [*traces, fit.trace]


def _half_way(
    seen: Sequence[Observation],
    given: Likelihood,
    prior: Prior,
    labels: Tensor,
    taken: Taken,
    search: Search,
    rng: torch.Generator,
) -> tuple[Start, Tensor]:
    """What explains each update as one gradient half-way between the weights, in whitened differences; all losses."""
    now, own = whitened(seen[0], given, prior, labels), prior.of(labels)
    near = matcher_for(seen, shares=given.observed.new_full((len(labels),), SHARES[0]))
    u, trace = fit_batch(seen, replace(now, match=near), own, labels, search.batch, rng)
    orders = None
    if taken.ordered:
        judge = partial(_explained, seen, now, own.images(u), labels)
        orders = improved(taken.as_they_stand().repeat(len(labels), 1), judge, taken, rng, TRIES, ROUNDS)
    return Start(labels, u, orders, trace[-1]), trace


def _descended(
    seen: Sequence[Observation], given: Likelihood, prior: Prior, start: Start, search: Search
) -> tuple[Start, Tensor]:
    """Where L-BFGS in whitened differences leads through all steps, with that loss; all losses."""
    now, own = whitened(seen[0], given, prior, start.labels), prior.of(start.labels)
    now = replace(now, match=matcher_for(seen, orders=start.orders))
    end = descend(objective(now, now.residual(own, start.labels)), start.u[None], 0, search.batch.lbfgs)
    return replace(start, u=end.u, loss=end.losses.nan_to_num(float("inf"))), end.trace


@torch.no_grad()
def _loss(
    seen: Sequence[Observation], given: Likelihood, prior: Prior, labels: Tensor, orders: Tensor | None, u: Tensor
) -> Tensor:
    """Minus the log posterior (V,), infinite where it is no number."""
    nats = _explained(seen, given, prior.images(u), labels, None if orders is None else orders[None])[0]
    return (nats + 0.5 * u.square().sum((1, 2))).nan_to_num(float("inf"))


@torch.no_grad()
def _nearest(seen: Sequence[Observation], given: Likelihood, prior: Prior, labels: Tensor, u: Tensor) -> Tensor:
    """The share (V,) of each update at which one gradient is nearest to the simulation of coordinates u (V, B, k)."""
    images, targets = prior.images(u), F.one_hot(labels, given.classes).to(given.observed)
    simulated, found = given.match(images, targets), []
    for share in GRID:
        near = matcher_for(seen, shares=given.observed.new_full((len(labels),), share))(images, targets)
        found.append(((near - simulated) * given.weight).square().sum(1).nan_to_num(float("inf")))
    return given.observed.new_tensor(GRID)[torch.stack(found).argmin(0)]


@torch.no_grad()
def _explained(
    seen: Sequence[Observation], given: Likelihood, images: Tensor, labels: Tensor, orders: Tensor | None
) -> Tensor:
    """How badly images (V, B, C, H, W) taken in each of the orders (K, V, L) explain what was seen: (K, V) nats.

    None is the one order of full batches.
    """
    tries, targets = 1 if orders is None else len(orders), F.one_hot(labels, given.classes).to(given.observed)
    simulated = matcher_for(seen, restarts=tries, orders=None if orders is None else orders.flatten(0, 1))
    found = simulated(images.repeat(tries, 1, 1, 1, 1), targets.repeat(tries, 1, 1)).view(tries, len(seen), -1)
    return torch.stack([given.nats(given.weighted(each)) for each in found])
