"""The losses of a vicious server: a classifier's, a reconstruction's, and their sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from fl_privacy.joint_training.quick_ssim import quick_ssim

Task = Literal["categorical", "attributes"]


@dataclass(frozen=True)
class JointLoss:
    """The weights of equations 1 to 4; `beta_r=0` is an honest server, `beta_c=0` a pure autoencoder.

    `delta` is Huber's; with pixels in [0, 1] and delta = 1 its term is exactly half the mean squared error, and a small
    delta also makes it light (about delta times the L1 error), so a sweep of delta has to rescale `gamma_h`.
    `task`: 'categorical' has one of `classes` labels an image, 'attributes' several binary ones.

    Raises:
        ValueError: a negative weight, both betas 0, or a delta that is not above 0.

    Source: Malekzadeh and Gündüz, equations 1 to 4 and 17; gamma_h = 5 and gamma_s = 1 from their code.
    """

    task: Task = "categorical"
    beta_c: float = 1.0
    beta_r: float = 3.0
    gamma_h: float = 5.0
    gamma_s: float = 1.0
    delta: float = 1.0

    def __post_init__(self) -> None:
        if min(self.beta_c, self.beta_r, self.gamma_h, self.gamma_s) < 0 or self.beta_c + self.beta_r == 0:
            raise ValueError(f"weights must not be negative, and beta_c or beta_r must be above 0: {self}")
        if not self.delta > 0:
            raise ValueError(f"delta must be above 0, not {self.delta}")

    def classification(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Equation 1 or 2: logits (N, Y), labels (N,) int64 or (N, Y) of 0 and 1, `weights` (Y,) of `class_weights`."""
        if self.task == "categorical":
            return F.cross_entropy(logits.float(), labels)
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float(), pos_weight=weights)

    def reconstruction(self, guess: Tensor, truth: Tensor) -> Tensor:
        """Equation 3: images (N, C, H, W) in [0, 1] twice to a scalar, 0 for a perfect copy."""
        huber = F.huber_loss(guess.float(), truth, delta=self.delta)
        return self.gamma_h * huber + self.gamma_s * (1 - quick_ssim(guess, truth).mean())

    def total(self, classification: Tensor, reconstruction: Tensor | None) -> Tensor:
        """Equation 4. G's gradient of it is beta_r times that of its own loss, which Adam's step does not feel."""
        if reconstruction is None:
            return self.beta_c * classification
        return self.beta_c * classification + self.beta_r * reconstruction


def class_weights(labels: Tensor) -> Tensor:
    """How many negatives there are for each positive, per attribute: labels (N, Y) of 0 and 1 to (Y,).

    Raises:
        ValueError: an attribute that nobody has.

    Source: Malekzadeh and Gündüz, alpha of equation 2.
    """
    positives = labels.float().sum(0)
    if not bool((positives > 0).all()):
        raise ValueError("an attribute has no positive example, so its class weight is undefined: leave it out")
    return (len(labels) - positives) / positives


def hits(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    """The share of right answers of every image: (N,) in [0, 1]; an attribute is present where its logit is above 0.

    Source: Malekzadeh and Gündüz, equations 7 and 8 with thresholds of 0.
    """
    if task == "categorical":
        return (logits.argmax(1) == labels).float()
    return ((logits >= 0) == labels.bool()).float().mean(1)
