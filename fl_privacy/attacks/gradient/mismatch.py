"""How far the gradient at a guess is from the one that was seen: the loss of the attacks that minimise none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy.attacks.gradient.local_steps import matcher_for
from fl_privacy.attacks.gradient.matching import observed_gradient
from fl_privacy.observation import Observation


def relative_mismatch(seen: Observation, inputs: Tensor, labels: Tensor) -> float:
    """||g(x, y) - g|| / ||g|| at images (N, C, H, W) in [0, 1] and labels (N,) int64; 0 is exact, 1 what zero reaches.

    Of a defence that is known, what is certain (a clip) is applied to g(x, y) as well.
    """
    target = observed_gradient(seen)
    targets = F.one_hot(labels, seen.spec.classes).to(target)
    found = matcher_for([seen])(inputs.to(target).unsqueeze(0), targets.unsqueeze(0))[0]
    return float((found.detach() - target).norm() / target.norm().clamp_min(torch.finfo(target.dtype).tiny))
