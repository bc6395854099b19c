"""What a metric of a whole set of images is, and those that only need guesses, truths and labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fl_privacy.metrics.label_accuracy import label_accuracy
from fl_privacy.metrics.reconstruction_risk import Factorisation
from fl_privacy.observation import Images
from fl_privacy.registry import Registry


@dataclass(frozen=True, kw_only=True)
class MatchedSet:
    """Guesses (N, C, H, W) in the order of their truths (N, C, H, W), with the true labels (N,).

    Beside them what some metrics need, None where nobody has it: `guessed_labels` (N,) of `classes` classes; a `judge`,
    which is a classifier of the evaluator's own; `geometry`, by name, of images of the same kind; a `gallery`, which is
    the evaluator's own labelled images of the same kind. The latter three are made when a metric asks for them. `seed`:
    of the shuffles that give a floor.
    """

    guesses: Tensor
    truth: Tensor
    labels: Tensor
    guessed_labels: Tensor | None = None
    classes: int = 0
    judge: Callable[[], nn.Module] | None = None
    geometry: Callable[[], Mapping[str, Factorisation]] | None = None
    gallery: Callable[[], Images] | None = None
    seed: int = 0


SetMetric = Callable[[MatchedSet], dict[str, Any]]
"""A matched set to columns of one row; {} where the set is too small for it. Entered with what it `needs` of the set.

`in_every_row=True`: a row has it whether or not anybody asks for it.
"""

SET_METRICS: Registry[SetMetric] = Registry("set metric")


@SET_METRICS.register("pooled_psnr", needs=())
def pooled_psnr(matched: MatchedSet) -> dict[str, Any]:
    """PSNR of the mean error over all images, as papers print it: 'pooled_psnr' in dB, at most 100."""
    error = float((matched.guesses - matched.truth).double().square().mean())
    return {"pooled_psnr": -10 * math.log10(max(error, 1e-10))}


@SET_METRICS.register("label_accuracy", needs=("guessed_labels",), in_every_row=True)
def labels_right(matched: MatchedSet) -> dict[str, Any]:
    """The share of labels that an attack read rightly, as a multiset: 'label_accuracy'."""
    assert matched.guessed_labels is not None
    return {"label_accuracy": label_accuracy(matched.guessed_labels, matched.labels, matched.classes)}
