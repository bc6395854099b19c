"""Learned noise at the cut: tensors that a trained model can bear, one of which is added to each release."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_privacy.defences.base import DEFENCES
from fl_privacy.defences.learning import LearningDefence
from fl_privacy.observation import Tensors


class NoiseTensors(nn.Module):
    """Noise tensors (members, *shape), which begin as draws of Laplace(0, scale)."""

    def __init__(self, members: int, shape: tuple[int, ...], scale: float) -> None:
        super().__init__()
        first, second = (torch.empty(members, *shape).exponential_() for _ in range(2))
        self.tensors = nn.Parameter(scale * (first - second))

    def drawn(self, count: int, rng: torch.Generator) -> Tensor:
        """The tensors (count, *shape) of `count` images, one drawn for each."""
        return self.tensors[torch.randint(len(self.tensors), (count,), generator=rng).to(self.tensors.device)]

    def fitted(self, count: int, rng: torch.Generator) -> Tensor:
        """Draws (count, *shape) of a Laplace law fitted to the elements of a drawn tensor, in their order."""
        chosen = self.drawn(count, rng).flatten(1)
        first, second = (torch.empty(chosen.shape).exponential_(generator=rng).to(chosen) for _ in range(2))
        return _in_order_of(chosen, (first - second).sort(1).values).view(count, *self.tensors.shape[1:])

    @torch.no_grad()
    def expected(self, fitted: bool) -> Tensor:
        """What is added where a tensor is chosen (members, *shape): itself, or what its fitted draws come to."""
        if not fitted:
            return self.tensors.detach()
        flat = self.tensors.flatten(1)
        away = (torch.arange(flat.shape[1], device=flat.device) + 0.5) / flat.shape[1] - 0.5
        quantiles = -away.sign() * (-2 * away.abs()).log1p()
        return _in_order_of(flat, quantiles.expand_as(flat)).view_as(self.tensors)


def _in_order_of(rows: Tensor, ascending: Tensor) -> Tensor:
    """Ascending values (N, D) of the standard Laplace law in the order of `rows`, at their centre and spread."""
    centre = rows.median(1, keepdim=True).values
    scale = (rows - centre).abs().mean(1, keepdim=True)
    return centre + scale * ascending.gather(1, rows.argsort(1).argsort(1))


@DEFENCES.register("shredder")
@dataclass(frozen=True)
class Shredder(LearningDefence):
    """Adds one of `members` learnt noise tensors, drawn anew for every image, to what a trained client releases.

    They begin as draws of Laplace(0, `scale`), the same for one seed, and are trained with all weights frozen, by the
    task's loss less `weight` times the sum of their absolute values. `fitted`: what is added is drawn from a Laplace
    law fitted to the tensor's elements, and put in their order. A scale of 0 adds nothing. On the activation channel,
    among the inference defences, with `protocol.defence_epochs`.

    Source: Mireshghallah et al. 2020 (Shredder, ASPLOS), section 2.3 (loss) and 2.5 (sampling); one set of tensors is
    trained at once, a different one for each image, where they train one after another.
    """

    scale: float = 0.0
    weight: float = 0.001
    members: int = 8
    learning_rate: float = 0.01
    fitted: bool = False

    def __post_init__(self) -> None:
        for name in ("scale", "weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, not {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be finite and above 0, not {self.learning_rate}")
        if self.members < 1:
            raise ValueError(f"members must be at least 1, not {self.members}")

    def module(self, image_shape: tuple[int, ...], released_shape: tuple[int, ...]) -> nn.Module | None:
        return NoiseTensors(self.members, released_shape, self.scale) if self.scale else None

    def extra_loss(self, x: Tensor, released: Tensor) -> Tensor | None:
        if self.learnt is None or self.weight == 0:
            return None
        return -self.weight * self._noise().tensors.abs().sum() / self.members

    def without_noise(self, payload: Tensors) -> Tensors:
        """With the mean of the tensors, which every release has: to whoever knows them it hides nothing."""
        if self.scale == 0 or self.learnt is None:
            return payload
        mean = self._noise().expected(self.fitted).mean(0)
        return {name: value + mean.to(value.device) for name, value in payload.items()}

    def as_seen(self, payload: Tensors, released: Tensors) -> Tensors:
        """With the tensor that explains each image's release best: tensors lie further apart than activations do."""
        if self.scale == 0 or self.learnt is None:
            return payload
        tensors = self._noise().expected(self.fitted)
        return {
            name: value + nearest(tensors.to(value.device), released[name] - value) for name, value in payload.items()
        }

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        if self.scale == 0:
            return payload
        noise = self._noise()
        draw = noise.fitted if self.fitted and not noise.training else noise.drawn
        return {name: value + draw(len(value), rng).to(value.device) for name, value in payload.items()}

    def _noise(self) -> NoiseTensors:
        if not isinstance(self.learnt, NoiseTensors):
            raise ValueError(
                "shredder has learnt no noise yet, and would add none: it is for the activation channel, among the "
                "inference_defences, where protocol.defence_epochs trains it on the trained model"
            )
        return self.learnt


@torch.no_grad()
def nearest(tensors: Tensor, added: Tensor) -> Tensor:
    """Of `tensors` (members, ...) the one that lies nearest to each of `added` (N, ...)."""
    return tensors[torch.cdist(added.flatten(1), tensors.flatten(1)).argmin(1)]
