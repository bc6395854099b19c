"""Reading the head: what the gradient of the last linear layer says of label and features, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax

Array = NDArray[np.float64]
TINY = float(np.finfo(float).tiny)


@dataclass(frozen=True)
class HeadReading:
    """Of a batch of one: its `label`; `features` (F,); `delta` (C,) = p - y, the slope of its loss in the logits.

    `scale` is what the payload was multiplied by after that, such as by a clip: 1 where nothing was.
    """

    label: int
    features: Array
    delta: Array
    scale: float


def read_head(
    weight: Array, bias: Array, weight_gradient: Array, bias_gradient: Array | None, label: int | None = None
) -> HeadReading:
    """Label, features and p - y of one image, from the gradient of its cross entropy in z = weight h + bias (C, F).

    dL/db = p - y has one negative entry, the label's, and dL/dW = (p - y) h^T gives h by least squares, whatever the
    scale of both. From h follow p and the scale. Under noise p - y from the model may fit better than dL/db, and what
    fits best is kept. Without a bias gradient the length of h is searched for. `label` where it is known.

    Source: Zhao et al. 2020, iDLG (arXiv 2001.02610), section 3; Zhu and Blaschko 2021, R-GAP (arXiv 2010.07733).
    """
    if bias_gradient is None:
        return _without_bias(weight, bias, weight_gradient, label)
    label = int(bias_gradient.argmin()) if label is None else label
    observed = np.hstack([weight_gradient, bias_gradient[:, None]])
    delta, least = bias_gradient, np.inf
    for _ in range(ROUNDS):
        features = delta @ weight_gradient / max(float(delta @ delta), TINY)
        fresh = _delta(weight @ features + bias, label)
        scale = float(fresh @ bias_gradient) / max(float(fresh @ fresh), TINY)
        scale = scale if scale > 0 else 1.0
        misfit = float(np.square(observed - scale * np.outer(fresh, [*features, 1.0])).sum())
        if misfit < least:
            best, least = HeadReading(label, features, fresh, scale), misfit
        delta = scale * fresh
    return best


ROUNDS = 5
LENGTHS = np.geomspace(1e-3, 1e4, 400)


def _without_bias(weight: Array, bias: Array, gradient: Array, label: int | None) -> HeadReading:
    """dL/dW = (p - y) h^T fixes the direction of h; its length t is where softmax(t W v + b) - y = s u / t."""
    left, sizes, right = np.linalg.svd(gradient, full_matrices=False)
    column, direction = left[:, 0] * sizes[0], right[0]

    def misfit(length: float, sign: float) -> tuple[float, int]:
        seen = sign * column / length
        guess = int(seen.argmin()) if label is None else label
        wrong = length * (_delta(weight @ (sign * length * direction) + bias, guess) - seen)
        return float(wrong @ wrong), guess

    _, sign, at = min((misfit(t, s)[0], s, i) for s in (1.0, -1.0) for i, t in enumerate(LENGTHS))
    around = np.log(LENGTHS[[max(at - 1, 0), min(at + 1, len(LENGTHS) - 1)]])
    found = minimize_scalar(
        lambda t: misfit(float(np.exp(t)), sign)[0], bounds=tuple(around), method="bounded", options={"xatol": 1e-13}
    )
    length = float(np.exp(found.x))
    label = misfit(length, sign)[1]
    features = sign * length * direction
    return HeadReading(label, features, _delta(weight @ features + bias, label), 1.0)


def _delta(logits: Array, label: int) -> Array:
    """p - y (C,)."""
    out: Array = softmax(logits)
    out[label] -= 1
    return out
