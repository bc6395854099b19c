"""How well a pair classifies and reconstructs a set of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fl_privacy.data.base import ImageSet
from fl_privacy.defences.base import Chain
from fl_privacy.joint_training.losses import JointLoss, Task, hits
from fl_privacy.joint_training.pair import BATCH, OUTPUTS, Pair, decode, outputs
from fl_privacy.metrics import mse, psnr, ssim
from fl_privacy.seeding import subseed

Selection = Literal["paper", "code"]


@dataclass(frozen=True)
class Scores:
    """Means over a set; the reconstruction's are NaN where the server is honest and has no decoder.

    `accuracy` in [0, 1]; `classification` and `reconstruction` are the losses of equations 1 or 2, and 3; `psnr` (dB)
    is the mean of each image's own.
    """

    accuracy: float
    classification: float
    reconstruction: float = math.nan
    mse: float = math.nan
    psnr: float = math.nan
    ssim: float = math.nan

    @property
    def pooled_psnr(self) -> float:
        """PSNR in dB of the mean squared error over the whole set, as the paper prints it; never above `psnr`."""
        return -10 * math.log10(max(self.mse, 1e-10)) if self.mse == self.mse else math.nan

    def criterion(self, loss: JointLoss, selection: Selection) -> float:
        """What the best epoch has least of: 'paper', equation 4; 'code', with accuracy and MSE and without the betas.

        Source: Malekzadeh and Gündüz, section 4; TDRA/trainers.py.
        """
        if selection == "paper":
            value = loss.beta_c * self.classification
            return value + loss.beta_r * self.reconstruction if loss.beta_r else value
        value = 1 - self.accuracy if loss.beta_c else 0.0
        return value + loss.gamma_s * (1 - self.ssim) + loss.gamma_h * self.mse if loss.beta_r else value


def targets(task: Task, data: ImageSet) -> Tensor:
    """The labels (N,) int64 or attributes (N, Y) that `task` is about.

    Raises:
        ValueError: a set without attributes for a task about them.
    """
    if task != "attributes":
        return data.labels
    if data.attributes is None:
        raise ValueError("the task 'attributes' needs a data set with binary attributes, and this one has none")
    return data.attributes


@torch.no_grad()
def evaluate(
    pair: Pair,
    loss: JointLoss,
    data: ImageSet,
    law: Chain | None = None,
    weights: Tensor | None = None,
    seed: int = 0,
) -> Scores:
    """Score `pair` on `data` with the defences `law` between F and G; accuracy is that of F's own outputs.

    `weights`: `class_weights` of the training set for attributes; `seed` names the draws of `law`.
    """
    device = next(pair.parameters()).device
    wanted = targets(loss.task, data)
    sums = torch.zeros(6, dtype=torch.float64)
    for number, start in enumerate(range(0, len(data), BATCH)):
        part = slice(start, start + BATCH)
        truth, labels = data.images(part).to(device), wanted[part].to(device)
        logits = outputs(pair.classifier, truth)
        values = [hits(loss.task, logits, labels).mean(), loss.classification(logits, labels, weights)]
        if loss.beta_r:
            sent = {OUTPUTS: logits}
            released = (law.on_release(sent, subseed(seed, "outputs", number)) if law else sent)[OUTPUTS]
            guess = decode(pair.decoder, released)
            values += [loss.reconstruction(guess, truth), *(m(guess, truth).mean() for m in (mse, psnr, ssim))]
        sums[: len(values)] += len(labels) * torch.stack([v.double().cpu() for v in values])
    means = (sums / len(data)).tolist()
    return Scores(*means) if loss.beta_r else Scores(*means[:2])
