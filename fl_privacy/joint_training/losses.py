"""The losses of a vicious server: a classifier's, a reconstruction's, and their sum."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from fl_privacy.joint_training.quick_ssim import quick_ssim

Task = Literal["categorical", "attributes", "binaries"]


@dataclass(frozen=True)
class JointLoss:
    """The weights of equations 1 to 4; `beta_r=0` is an honest server, `beta_c=0` a pure autoencoder.

    `delta` is Huber's; with pixels in [0, 1] and delta = 1 its term is exactly half the mean squared error, and a small
    delta also makes it light (about delta times the L1 error), so a sweep of delta has to rescale `gamma_h`.
    `task`: 'categorical' has one of `classes` labels an image, 'attributes' several binary ones; 'binaries' has one
    label, learnt as one yes-or-no question a class. `beta_e` weighs the mean entropy of the answers' softmax in bits:
    above 0 it is minimised, below 0 maximised; with an `entropy` in bits it weighs the distance from that instead, by
    which a server hides from those who look at the entropy.

    Raises:
        ValueError: a negative weight, both betas 0, a delta that is not above 0, or an entropy of answers that are no
            softmax's.

    Source: Malekzadeh and Gündüz, equations 1 to 4 and 17; gamma_h = 5 and gamma_s = 1 from their code, which also has
    a `beta_ent` "for the entropy minimization task" that its trainers never read.
    """

    task: Task = "categorical"
    beta_c: float = 1.0
    beta_r: float = 3.0
    gamma_h: float = 5.0
    gamma_s: float = 1.0
    delta: float = 1.0
    beta_e: float = 0.0
    entropy: float | None = None

    def __post_init__(self) -> None:
        if min(self.beta_c, self.beta_r, self.gamma_h, self.gamma_s) < 0 or self.beta_c + self.beta_r == 0:
            raise ValueError(f"weights must not be negative, and beta_c or beta_r must be above 0: {self}")
        if not self.delta > 0:
            raise ValueError(f"delta must be above 0, not {self.delta}")
        if self.entropy is not None and not (self.entropy >= 0 and self.beta_e > 0):
            raise ValueError(f"an entropy to come near is at least 0 bits and needs a beta_e above 0: {self}")
        if self.beta_e and self.task != "categorical":
            raise ValueError(
                f"beta_e weighs the entropy of a softmax, and answers of task = '{self.task}' have none: set it to 0"
            )

    def classification(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Equation 1 or 2: logits (N, Y), labels (N,) int64 or (N, Y) of 0 and 1, `weights` (Y,) of `class_weights`."""
        if self.task == "categorical":
            return F.cross_entropy(logits.float(), labels)
        if self.task == "binaries":
            labels = F.one_hot(labels, logits.shape[1])
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float(), pos_weight=weights)

    def reconstruction(self, guess: Tensor, truth: Tensor) -> Tensor:
        """Equation 3: images (N, C, H, W) in [0, 1] twice to a scalar, 0 for a perfect copy."""
        huber = F.huber_loss(guess.float(), truth, delta=self.delta)
        return self.gamma_h * huber + self.gamma_s * (1 - quick_ssim(guess, truth).mean())

    def uncertainty(self, logits: Tensor) -> Tensor:
        """The entropy's share of the loss of logits (N, Y), a scalar; 0 is reached at `entropy`, where one is given."""
        shares = F.log_softmax(logits.float(), 1)
        bits = -(shares.exp() * shares).sum(1).mean() / log(2)
        return self.beta_e * (bits if self.entropy is None else (bits - self.entropy).abs())

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
    if task != "attributes":
        return (logits.argmax(1) == labels).float()
    return ((logits >= 0) == labels.bool()).float().mean(1)
