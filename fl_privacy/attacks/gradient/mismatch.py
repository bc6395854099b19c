"""How far the gradient at a guess is from the one that was seen: the loss of the attacks that minimise none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy.attacks.gradient.matching import adversary_copy, defended, gradient_matcher, observed_gradient
from fl_privacy.observation import Observation


def relative_mismatch(seen: Observation, inputs: Tensor, labels: Tensor) -> float:
    """||g(x, y) - g|| / ||g|| at images (N, C, H, W) in [0, 1] and labels (N,) int64; 0 is exact, 1 what zero reaches.

    Of a defence that is known, what is certain (a clip) is applied to g(x, y) as well.
    """
    assert seen.model is not None
    target = observed_gradient(seen)
    model = adversary_copy(seen.model, seen.spec.training_mode).to(target.device)
    match = gradient_matcher(model, 1)
    match = defended(match, seen) if seen.defence else match
    targets = F.one_hot(labels, seen.spec.classes).to(target)
    found = match(inputs.to(target).unsqueeze(0), targets.unsqueeze(0))[0]
    return float((found.detach() - target).norm() / target.norm().clamp_min(torch.finfo(target.dtype).tiny))
