"""A decoder's guess, refined by what the stolen client segment makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from fl_privacy.attacks.activation.decoder import Decoder
from fl_privacy.attacks.activation.likelihood import Problem
from fl_privacy.attacks.activation.most_probable import MostProbable
from fl_privacy.attacks.activation.rmle import frozen_segment
from fl_privacy.attacks.base import ATTACKS, Capabilities, check_ranges
from fl_privacy.attacks.inversion.descent import descend
from fl_privacy.observation import Observation
from fl_privacy.split.segments import ACTIVATION


@ATTACKS.register("decoder_map")
@dataclass(frozen=True)
class DecoderMap(MostProbable):
    """`activation_map` with a second start: what `decoder` makes of the activations.

    Through several layers of ReLU a search from the mean image ends in the nearest of many minima; a decoder, which has
    never seen the weights, guesses closer. From there descend `adam` iterations of Adam and `lbfgs` of L-BFGS on the
    same objective; of this and what Gauss-Newton found from the mean, every image keeps the more probable.

    The decoder trains for `steps` of `batch_size` pairs, `width` channels wide, its other settings the defaults of
    `decoder`, on draws of the noise that is known or was estimated. Where releases have noise tensors in common there
    is none, and this is `activation_map`. The prior is 'public': a decoder's guess may lie far out in the narrow ones
    of neighbours. Whether the own images are of another kind is judged by the search of `activation_map`, before there
    is a decoder.

    Source: ours.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "public"})
    capabilities: ClassVar[Capabilities] = Capabilities(stochastic=True)
    # set on the copy that `prepare` returns; not a field, because it is no setting
    network: ClassVar[nn.Module | None] = None

    prior: Literal["neighbours", "public", "power_law"] = "public"
    steps: int = 1000
    batch_size: int = 128
    width: int = 32
    adam: int = 200
    lbfgs: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "needs", type(self).needs)  # images for the decoder, whatever the prior
        check_ranges(self, at_least_one=("steps", "batch_size", "width", "adam"), not_negative=("lbfgs",))

    def prepare(self, seen: Sequence[Observation], rng: torch.Generator) -> Self:
        """Measure or estimate the noise, and train the decoder, once for all observations.

        Raises:
            ValueError: as `activation_map`.
        """
        ready = super().prepare(seen, rng)
        if seen and ready.heard is not None and not ready.heard.shared:
            first = seen[0]
            ask = first.query or frozen_segment(first, first.payload[ACTIVATION].device).eval()
            own = replace(first, query=ask, defence=first.defence or ready.heard.chain)
            decoder = Decoder(self.steps, self.batch_size, width=self.width).prepare([own], rng)
            object.__setattr__(ready, "network", decoder.network)
        return ready

    def _solved(self, problem: Problem) -> Tensor:
        images = super()._solved(problem)
        if self.network is None:
            return images
        with torch.no_grad():
            guess = self.network(problem.target).clamp(0, 1)
        start = problem.prior.coordinates(guess).view(problem.victims, -1, guess[0].numel())
        u = descend(problem.nats, start[None], self.adam, self.lbfgs).u
        refined = problem.prior.images(u.flatten(0, 1)).detach().nan_to_num(0.5).clamp(0, 1)
        better = problem.nats_of(refined) < problem.nats_of(images)
        return torch.where(better.repeat_interleave(len(images) // len(better))[:, None, None, None], refined, images)
