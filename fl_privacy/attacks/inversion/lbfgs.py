"""L-BFGS for many victims at once: a history, a direction and a step length for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fl_privacy.observation import Tensors
from fl_privacy.settings import PlainTable

ARMIJO = 1e-4
SHORTER = 0.4
TRIALS = 12
CURVATURE = 1e-10


@dataclass
class BatchedLbfgs:
    """Minimises V independent losses of parameters whose first dimension is V.

    `history` pairs of steps and slope changes; of a victim whose curvature is not positive a pair counts for nothing.
    With `line_search`, a step is shortened until the loss falls enough (Armijo), and a victim for which none does stays
    and forgets its history. Without, every step has length `learning_rate`, as torch.optim.LBFGS has them.

    Source: Nocedal and Wright 2006, algorithms 7.4 and 3.1.
    """

    parameters: Sequence[Tensor]
    history: int
    line_search: bool = True
    learning_rate: float = 1.0
    _pairs: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    _before: tuple[Tensor, Tensor] | None = None
    _scale: Tensor | None = None

    def step(self, losses: Tensor, again: Callable[[], Tensor]) -> Tensor | None:
        """Move once from the losses (V,), with their graph; `again` gives the losses wherever the parameters are.

        Returns the losses (V,) at the point reached, with what graph `again` gives them; None where it was not asked.
        """
        found = torch.autograd.grad(losses[torch.isfinite(losses)].sum(), list(self.parameters))
        slope, here = _flat(found).nan_to_num(0.0, 0.0, 0.0), _flat(self.parameters)
        self._remember(here, slope)
        direction = -self._times_inverse_hessian(slope)
        along = (slope * direction).sum(1)
        uphill = ~(along < 0)
        direction[uphill], along[uphill] = -slope[uphill], -slope[uphill].square().sum(1)
        length = torch.full_like(along, self.learning_rate)
        if not self._pairs:
            length = length * (1 / slope.abs().sum(1)).clamp(max=1)
        if self.line_search:
            return self._search(here, direction, along, length, losses.detach(), again)
        self._write(here + length[:, None] * direction)
        return None

    def take(self) -> tuple[Tensors, PlainTable]:
        """What it remembers; the parameters are their owner's."""
        names = ("moved", "turned", "weight")
        found = {
            f"{place}.{name}": part
            for place, pair in enumerate(self._pairs)
            for name, part in zip(names, pair, strict=True)
        }
        if self._before is not None:
            found |= {"here": self._before[0], "slope": self._before[1]}
        return found | ({} if self._scale is None else {"scale": self._scale}), {"pairs": len(self._pairs)}

    def give(self, tensors: Tensors, facts: PlainTable) -> None:
        """Remember what another one took."""
        found = {name: value.to(self.parameters[0].device) for name, value in tensors.items()}
        self._pairs = [
            (found[f"{place}.moved"], found[f"{place}.turned"], found[f"{place}.weight"])
            for place in range(facts["pairs"])
        ]
        self._before = (found["here"], found["slope"]) if "here" in found else None
        self._scale = found.get("scale")

    def _search(
        self,
        here: Tensor,
        direction: Tensor,
        along: Tensor,
        length: Tensor,
        losses: Tensor,
        again: Callable[[], Tensor],
    ) -> Tensor | None:
        for _ in range(TRIALS):
            self._write(here + length[:, None] * direction)
            reached = again()
            enough = reached.detach() <= losses + ARMIJO * length * along
            if bool(enough.all()):
                return reached
            length = torch.where(enough, length, SHORTER * length)
        self._write(torch.where(enough[:, None], here + length[:, None] * direction, here))
        for _, _, weight in self._pairs:
            weight.mul_(enough)
        return None

    def _remember(self, here: Tensor, slope: Tensor) -> None:
        if self._before is not None:
            moved, turned = here - self._before[0], slope - self._before[1]
            curvature = (moved * turned).sum(1)
            valid = curvature > CURVATURE
            weight = torch.where(valid, 1 / curvature, torch.zeros_like(curvature))
            self._pairs = [*self._pairs, (moved, turned, weight)][-self.history :]
            scale = curvature / turned.square().sum(1)
            before = torch.ones_like(scale) if self._scale is None else self._scale
            self._scale = torch.where(valid, scale, before)
        self._before = here, slope

    def _times_inverse_hessian(self, slope: Tensor) -> Tensor:
        """The two-loop recursion, for all victims at once."""
        q, along = slope.clone(), list[Tensor]()
        for moved, turned, weight in reversed(self._pairs):
            along.append(weight * _dot(moved, q))
            q.addcmul_(along[-1][:, None], turned, value=-1)
        if self._scale is not None:
            q *= self._scale[:, None]
        for (moved, turned, weight), mine in zip(self._pairs, reversed(along), strict=True):
            q.addcmul_((mine - weight * _dot(turned, q))[:, None], moved)
        return q

    @torch.no_grad()
    def _write(self, flat: Tensor) -> None:
        sizes = [parameter[0].numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, torch.split(flat, sizes, 1), strict=True):
            parameter.copy_(part.view_as(parameter))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors (V, ...) side by side: (V, D)."""
    return torch.cat([tensor.detach().flatten(1) for tensor in tensors], 1)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """The dot products (V,) of rows (V, D), with no copy of their size, which at many pairs is what a step costs."""
    return torch.bmm(one.unsqueeze(1), other.unsqueeze(2)).flatten()
