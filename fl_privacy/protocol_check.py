"""Whether the attacker's model of the protocol is the protocol that ran: a check of undefended payloads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.attacks.gradient.local_steps import matcher_for, order_known
from fl_privacy.attacks.gradient.matching import gradient_unit, observed_step
from fl_privacy.evaluation import Truth
from fl_privacy.observation import ChannelName, Observation
from fl_privacy.seeding import seeded
from fl_privacy.weights import trainable

RELATIVE = 1e-3
ABSOLUTE = 1e-6  # the floor of the logarithmic objective: log(1e-12) / 2


@dataclass(frozen=True)
class Mismatch:
    """How far the gradient at the truth is from the one that was released: two norms, in units of a gradient."""

    difference: float
    released: float

    @property
    def relative(self) -> float:
        return self.difference / self.released if self.released else float("inf")


def mismatch(seen: Observation, truth: Truth) -> Mismatch | None:
    """The distance of an undefended gradient or update from what an attacker's copy of the model makes of the truth.

    None where the two agree up to rounding, and where they need not: under a defence, on other channels, after local
    epochs that the client shuffled, and for a model that draws while it is trained (dropout): nobody else knows these.
    """
    if seen.channel not in (ChannelName.GRADIENT, ChannelName.UPDATE) or seen.defence or seen.model is None:
        return None
    if seen.channel is ChannelName.UPDATE and not order_known(seen):
        return None
    if draws(seen.model, truth.inputs):
        return None
    released = observed_step(seen)
    targets = F.one_hot(truth.labels, seen.spec.classes).to(released)
    at_truth = matcher_for([seen])(truth.inputs.unsqueeze(0), targets.unsqueeze(0))[0].detach()
    found = Mismatch(float((at_truth - released).norm()), float(released.norm()))
    # `not <=` rather than `>`, which NaN would pass
    return None if found.difference <= RELATIVE * found.released + ABSOLUTE + _rounding(seen) else found


@torch.no_grad()
def draws(model: nn.Module, x: Tensor) -> bool:
    """Whether a forward pass in the model's present modes takes random numbers."""
    state = {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    with seeded(0, "check"):
        before = torch.get_rng_state()
        torch.func.functional_call(model, state, (x,))
        return not torch.equal(before, torch.get_rng_state())


def _rounding(seen: Observation) -> float:
    """What storing weights, not their change, does to an update, in units of a gradient."""
    if seen.channel is not ChannelName.UPDATE:
        return 0.0
    assert seen.model is not None
    values = torch.cat([value.detach().flatten() for value in trainable(seen.model).values()])
    return float(4 * torch.finfo(values.dtype).eps * values.norm() / abs(gradient_unit(seen)))
